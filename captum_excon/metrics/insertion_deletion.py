"""RISE's insertion and deletion."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from captum_excon.attr._captum import ForwardFunc, Target
from captum_excon.attr._scoring import Score
from captum_excon.metrics._fill import Fill
from captum_excon.metrics._perturbation import STEPS
from captum_excon.metrics.curves import perturbation_curve


def deletion(
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
    """RISE's deletion: the area under the score while the most relevant pixels are zeroed.

    The area under `perturbation_curve` with ``order="morf"``, by the trapezoidal rule on [0, 1],
    both end points included. In [0, 1] for probabilities; lower is better.

    Reference: Petsiuk et al., *RISE*, BMVC 2018, https://arxiv.org/abs/1806.07421. Its code removes
    one row's worth of pixels a step, 224 steps for ImageNet; 28 steps are ours.

    Args:
        forward_func: As in `perturbation_curve`, like all that is not named here.
        images: (N, C, H, W).
        maps: One per image.
        fill: What deleted pixels become; RISE's are 0.
        steps: How many equal steps; one forward row more than steps for each image.
        target: The class, or None for the predicted one.
        score: How the output becomes scores.
        additional_forward_args: As in Captum.
        batch_size: Rows per forward pass.
        seed: Breaks ties.

    Returns:
        Areas, (N,) float32; NaN for constant and non-finite maps, see `nan_reasons`.

    Raises:
        TypeError: As in `perturbation_curve`.
        ValueError: As in `perturbation_curve`.

    Example:
        >>> import torch
        >>> from captum_excon.metrics import deletion
        >>> image = torch.tensor([[[[4.0, 3.0], [2.0, 1.0]]]])
        >>> deletion(lambda x: x.sum((2, 3)), image, image[:, 0], steps=4, score="identity")
        tensor([3.7500])
    """
    return perturbation_curve(
        forward_func,
        images,
        maps,
        order="morf",
        fill=fill,
        fractions=steps,
        target=target,
        score=score,
        additional_forward_args=additional_forward_args,
        batch_size=batch_size,
        seed=seed,
    ).area


def insertion(
    forward_func: ForwardFunc,
    images: Tensor,
    maps: Tensor,
    *,
    fill: Fill = "blur",
    steps: int = STEPS,
    target: Target = None,
    score: Score = "softmax",
    additional_forward_args: Any = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> Tensor:
    """RISE's insertion: the area under the score while a blurred image's top pixels appear.

    Showing the top q of the pixels is removing the least relevant 1 - q: the area is that under
    `perturbation_curve` with ``order="lerf"``, whose curve is insertion's read from right to left.
    In [0, 1] for probabilities; higher is better.

    Reference: as for `deletion`. The blur has RISE's kernel of 11 pixels and σ 5, but reflects the
    image at its border, where RISE's code pads with zeros.

    Args:
        forward_func: As in `perturbation_curve`, like all that is not named here.
        images: (N, C, H, W).
        maps: One per image.
        fill: What pixels are before they appear; RISE's are blurred.
        steps: How many equal steps; one forward row more than steps for each image.
        target: The class, or None for the predicted one.
        score: How the output becomes scores.
        additional_forward_args: As in Captum.
        batch_size: Rows per forward pass.
        seed: Breaks ties.

    Returns:
        Areas, (N,) float32; NaN for constant and non-finite maps, see `nan_reasons`.

    Raises:
        TypeError: As in `perturbation_curve`.
        ValueError: As in `perturbation_curve`, and for images too small to blur.

    Example:
        >>> import torch
        >>> from captum_excon.metrics import insertion
        >>> image = torch.tensor([[[[4.0, 3.0], [2.0, 1.0]]]])
        >>> insertion(lambda x: x.sum((2, 3)), image, image[:, 0], fill=0.0, steps=4,
        ...           score="identity")
        tensor([6.2500])
    """
    return perturbation_curve(
        forward_func,
        images,
        maps,
        order="lerf",
        fill=fill,
        fractions=steps,
        target=target,
        score=score,
        additional_forward_args=additional_forward_args,
        batch_size=batch_size,
        seed=seed,
    ).area
