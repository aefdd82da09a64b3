"""One number for a perturbation curve: deletion, insertion, the area between both, and ROAD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from captum_excon.attr._core.captum import ForwardFunc
from captum_excon.metrics._imputation import Imputation
from captum_excon.metrics._maps import precise
from captum_excon.metrics.perturbation_curve import STEPS, Order, curves, perturbation_curve
from captum_excon.metrics.scorer import Scorer, Scoring, scorer_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def deletion(
    forward_func: ForwardFunc | Scorer,
    images: Tensor,
    maps: Tensor,
    *,
    fill: Imputation = 0.0,
    steps: int = STEPS,
    seed: int = 0,
    **scoring: Unpack[Scoring],
) -> Tensor:
    """RISE's deletion: the area under the score while the most relevant pixels are zeroed.

    The area under `perturbation_curve` with ``order="morf"``. In [0, 1] for probabilities; lower is
    better.

    Reference: Petsiuk et al., *RISE*, BMVC 2018, https://arxiv.org/abs/1806.07421. Its code removes
    one row's worth of pixels a step, 224 steps for ImageNet; 28 steps are ours.

    Takes the arguments of `perturbation_curve`, with ``steps`` equal steps, each one forward row
    per image.

    Returns:
        Areas, (N,) float32; NaN for constant and non-finite maps, see `nan_reasons`.

    Example:
        >>> image = torch.tensor([[[[4.0, 3.0], [2.0, 1.0]]]])
        >>> deletion(lambda x: x.sum((2, 3)), image, image[:, 0], steps=4, score="identity")
        tensor([3.7500])
    """
    return perturbation_curve(
        forward_func, images, maps, order="morf", fill=fill, fractions=steps, seed=seed, **scoring
    ).area


def insertion(
    forward_func: ForwardFunc | Scorer,
    images: Tensor,
    maps: Tensor,
    *,
    fill: Imputation = "blur",
    steps: int = STEPS,
    seed: int = 0,
    **scoring: Unpack[Scoring],
) -> Tensor:
    """RISE's insertion: the area under the score while a blurred image's top pixels appear.

    Showing the top q of the pixels is removing the least relevant 1 - q: the area is that under
    `perturbation_curve` with ``order="lerf"``, whose curve is insertion's read from right to left.
    In [0, 1] for probabilities; higher is better.

    Reference: as for `deletion`. The blur has RISE's kernel of 11 pixels and σ 5, but reflects the
    image at its border, where RISE's code pads with zeros. Images must be large enough to blur.

    Takes the arguments of `perturbation_curve`, with ``steps`` as in `deletion`.

    Returns:
        Areas, (N,) float32; NaN for constant and non-finite maps, see `nan_reasons`.
    """
    return perturbation_curve(
        forward_func, images, maps, order="lerf", fill=fill, fractions=steps, seed=seed, **scoring
    ).area


def abpc(
    forward_func: ForwardFunc | Scorer,
    images: Tensor,
    maps: Tensor,
    *,
    fill: Imputation = 0.0,
    steps: int = STEPS,
    seed: int = 0,
    **scoring: Unpack[Scoring],
) -> Tensor:
    r"""Area between the perturbation curves: least relevant first minus most relevant first.

    :math:`\int_0^1 \mathrm{lerf}(q) - \mathrm{morf}(q)\,dq` by the trapezoidal rule on equal steps.
    In (-1, 1) for probabilities; higher is better, and a map whose order means nothing scores 0 on
    average, whatever the filling does to the model.

    Reference: Samek et al., *Evaluating the Visualization of What a Deep Neural Network Has
    Learned*, TNNLS 2017, https://arxiv.org/abs/1509.06321 compares curves to a random order; taking
    the opposite order instead, and the trapezoidal rule, are later usage.

    Takes the arguments of `perturbation_curve`, with ``steps`` equal steps, at least 2,
    which cost 2 (steps - 1) forward rows per image.

    Returns:
        Areas, (N,) float32; NaN for constant and non-finite maps, see `nan_reasons`.

    Example:
        >>> image = torch.tensor([[[[4.0, 3.0], [2.0, 1.0]]]])
        >>> abpc(lambda x: x.sum((2, 3)), image, image[:, 0], steps=4, score="identity")
        tensor([2.5000])
    """
    if not isinstance(steps, int) or steps < 2:
        raise ValueError(f"steps must be an integer of at least 2, but found {steps!r}")
    scorer = scorer_of(forward_func, images, **scoring)
    inner = [step / steps for step in range(1, steps)]
    morf, lerf = curves(scorer, maps, ["morf", "lerf"], fill, inner, seed)
    gap = F.pad(precise(lerf.scores) - precise(morf.scores), (1, 1))
    fractions = F.pad(precise(morf.fractions), (1, 1))
    fractions[-1] = 1
    return torch.trapezoid(gap, fractions, dim=1).float()


def road(
    forward_func: ForwardFunc | Scorer,
    images: Tensor,
    maps: Tensor,
    *,
    order: Order = "morf",
    fractions: Sequence[float] = TENTHS,
    seed: int = 0,
    **scoring: Unpack[Scoring],
) -> Tensor:
    """ROAD: the mean score after pixels were removed and debiased by noisy linear imputation.

    The mean over ``fractions`` of `perturbation_curve` with ``fill="noisy-linear"``. In [0, 1] for
    probabilities. With ``order="morf"`` lower is better, with ``"lerf"`` higher. The paper averages
    a data set's accuracy instead of a score, pytorch-grad-cam the change of the score.

    Reference: Rong et al., *A Consistent and Efficient Evaluation Strategy for Attribution
    Methods*, ICML 2022, https://arxiv.org/abs/2202.00449.

    Takes the arguments of `perturbation_curve`, with ``fractions`` below 1.

    Returns:
        Mean scores, (N,) float32; NaN for constant and non-finite maps, see `nan_reasons`.

    Example:
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
        seed=seed,
        **scoring,
    )
    return precise(curve.scores).mean(1).float()
