"""The area between the perturbation curves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from captum_excon.attr._captum import ForwardFunc, Target
from captum_excon.attr._scoring import Score
from captum_excon.metrics._fill import Fill
from captum_excon.metrics._maps import check_maps, precise
from captum_excon.metrics._perturbation import STEPS, curves
from captum_excon.metrics._scorer import Scorer


def abpc(
    forward_func: ForwardFunc,
    images: Tensor,
    maps: Tensor,
    *,
    fill: Fill = 0.0,
    steps: int = STEPS,
    target: Target = None,
    score: Score = "softmax",
    additional_forward_args: Any = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> Tensor:
    r"""Area between the perturbation curves: least relevant first minus most relevant first.

    :math:`\int_0^1 \mathrm{lerf}(q) - \mathrm{morf}(q)\,dq` by the trapezoidal rule on equal steps.
    The curves meet at both ends, which need no forward passes. In (-1, 1) for probabilities; higher
    is better, and a map whose order means nothing is at 0 on average, whatever the filling does to
    the model.

    Reference: Samek et al., *Evaluating the Visualization of What a Deep Neural Network Has
    Learned*, TNNLS 2017, https://arxiv.org/abs/1509.06321 compares curves to a random order; taking
    the opposite order instead, and the trapezoidal rule, are later usage.

    Args:
        forward_func: As in `perturbation_curve`, like all that is not named here.
        images: (N, C, H, W).
        maps: One per image.
        fill: What removed pixels become.
        steps: How many equal steps, at least 2; 2 (steps - 1) forward rows for each image.
        target: The class, or None for the predicted one.
        score: How the output becomes scores.
        additional_forward_args: As in Captum.
        batch_size: Rows per forward pass.
        seed: Breaks ties and makes the noise of ``fill="noisy-linear"``.

    Returns:
        Areas, (N,) float32; NaN for constant and non-finite maps, see `nan_reasons`.

    Raises:
        TypeError: As in `perturbation_curve`.
        ValueError: As in `perturbation_curve`.
        ImportError: ``fill="noisy-linear"`` without pytorch-grad-cam.

    Example:
        >>> import torch
        >>> from captum_excon.metrics import abpc
        >>> image = torch.tensor([[[[4.0, 3.0], [2.0, 1.0]]]])
        >>> abpc(lambda x: x.sum((2, 3)), image, image[:, 0], steps=4, score="identity")
        tensor([2.5000])
    """
    if not isinstance(steps, int) or steps < 2:
        raise ValueError(f"steps must be an integer of at least 2, but found {steps!r}")
    scorer = Scorer(
        forward_func,
        images,
        target=target,
        score=score,
        additional_forward_args=additional_forward_args,
        batch_size=batch_size,
    )
    inner = [step / steps for step in range(1, steps)]
    morf, lerf = curves(scorer, check_maps(maps, images), ["morf", "lerf"], fill, inner, seed)
    gap = F.pad(precise(lerf.scores) - precise(morf.scores), (1, 1))
    fractions = F.pad(precise(morf.fractions), (1, 1))
    fractions[-1] = 1
    return torch.trapezoid(gap, fractions, dim=1).float()
