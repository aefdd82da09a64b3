"""ROAD: remove and debias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from captum_excon.attr._captum import ForwardFunc, Target
from captum_excon.attr._scoring import Score
from captum_excon.metrics._maps import precise
from captum_excon.metrics._perturbation import Order
from captum_excon.metrics.curves import perturbation_curve

TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def road(
    forward_func: ForwardFunc,
    images: Tensor,
    maps: Tensor,
    *,
    order: Order = "morf",
    fractions: Sequence[float] = TENTHS,
    target: Target = None,
    score: Score = "softmax",
    additional_forward_args: Any = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> Tensor:
    """ROAD: the mean score after pixels were removed and debiased by noisy linear imputation.

    The mean over ``fractions`` of `perturbation_curve` with ``fill="noisy-linear"``. In [0, 1] for
    probabilities. With ``order="morf"`` lower is better, with ``"lerf"`` higher.

    pytorch-grad-cam, whose imputer this is, returns the same less the score of the whole image, and
    keeps whole ties at its percentiles; the paper averages over a data set's accuracy instead of a
    score.

    Reference: Rong et al., *A Consistent and Efficient Evaluation Strategy for Attribution
    Methods*, ICML 2022, https://arxiv.org/abs/2202.00449.

    Args:
        forward_func: As in `perturbation_curve`, like all that is not named here.
        images: (N, C, H, W).
        maps: One per image.
        order: Which pixels go first.
        fractions: The shares of pixels to remove, ascending in [0, 1).
        target: The class, or None for the predicted one.
        score: How the output becomes scores.
        additional_forward_args: As in Captum.
        batch_size: Rows per forward pass.
        seed: Breaks ties and makes the imputer's noise.

    Returns:
        Mean scores, (N,) float32; NaN for constant and non-finite maps, see `nan_reasons`.

    Raises:
        TypeError: As in `perturbation_curve`.
        ValueError: As in `perturbation_curve`.
        ImportError: pytorch-grad-cam is missing.

    Example:
        >>> import torch
        >>> from captum_excon.metrics import road
        >>> image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> top, rest = (road(lambda x: x.mean((2, 3)), image, image.sum(1), order=o, target=0,
        ...                   score="identity") for o in ("morf", "lerf"))
        >>> bool(top < rest)
        True
    """
    curve = perturbation_curve(
        forward_func,
        images,
        maps,
        order=order,
        fill="noisy-linear",
        fractions=fractions,
        target=target,
        score=score,
        additional_forward_args=additional_forward_args,
        batch_size=batch_size,
        seed=seed,
    )
    return precise(curve.scores).mean(1).float()
