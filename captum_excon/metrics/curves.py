r"""Perturbation curves and their areas: insertion, deletion, ROAD and ABPC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from captum_excon.attr._captum import ForwardFunc, Target
from captum_excon.attr._scoring import Score
from captum_excon.metrics._fill import Fill, remover
from captum_excon.metrics._maps import check_maps, informative, nan_where, precise, ranks
from captum_excon.metrics._scoring import Scorer

Order = Literal["morf", "lerf"]

STEPS = 28
TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class Curve(NamedTuple):
    """Scores of images that lose more and more pixels.

    Attributes:
        fractions: The share of pixels that are gone, (S,), exactly as removed.
        scores: Of each image at each share, (N, S) float32; NaN for degenerate maps.
    """

    fractions: Tensor
    scores: Tensor

    @property
    def area(self) -> Tensor:
        """The area under the curve by the trapezoidal rule, (N,) float32."""
        return torch.trapezoid(precise(self.scores), precise(self.fractions), dim=1).float()


def perturbation_curve(
    forward_func: ForwardFunc,
    images: Tensor,
    maps: Tensor,
    *,
    order: Order = "morf",
    fill: Fill = 0.0,
    fractions: Sequence[float] | int = STEPS,
    target: Target = None,
    score: Score = "softmax",
    additional_forward_args: Any = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> Curve:
    """The score as pixels are removed, the most or the least relevant ones first.

    At a share q, round(q · H · W) pixels of all channels are filled. Pixels are ordered by a stable
    sort; ties are broken by a permutation drawn from ``seed``, the same for all images, so that the
    area is that of no particular corner of the image [ours; RISE's code takes ties as they come].

    Scores of an image are the same, bit for bit, whichever images it is batched with; another
    ``batch_size`` changes them in the last bits of float32. Memory is that of one batch, beside the
    images and the order of their pixels.

    Args:
        forward_func: The model, or any function of the images that returns a tensor (N, ...).
        images: (N, C, H, W), as the model wants them.
        maps: One per image, (N, H, W) or (N, C, H, W), whose channels are summed.
        order: ``"morf"`` removes the most relevant pixels first, ``"lerf"`` the least relevant.
        fill: What removed pixels become: a number or a tensor that broadcasts to the images,
            ``"blur"`` (the image under a Gaussian of 11 pixels and σ 5, reflected at the border),
            or ``"noisy-linear"`` (pytorch-grad-cam's imputer: a sparse linear system per row,
            solved on the CPU, plus noise of σ 0.01 drawn from ``seed``; needs the `bench` extra).
        fractions: The shares of pixels to remove, ascending in [0, 1]; a number S stands for S
            equal steps with both end points, S + 1 rows. Noisy linear imputation has nothing to go
            by at a share of 1.
        target: The class, in any form that Captum takes; None for the predicted class.
        score: How the output becomes scores: ``"softmax"``, ``"sigmoid"``, ``"identity"`` or a
            callable.
        additional_forward_args: As in Captum.
        batch_size: Rows per forward pass; by default 16 on the CPU, 64 elsewhere.
        seed: Breaks ties and makes the imputer's noise.

    Returns:
        The curve; its ``area`` is over the shares given.

    Raises:
        TypeError: Images or maps are not tensors of the right kind.
        ValueError: Shapes, options or the model's scores are not as described.
        ImportError: ``fill="noisy-linear"`` without pytorch-grad-cam.

    Example:
        >>> import torch
        >>> from captum_excon.metrics import perturbation_curve
        >>> image = torch.tensor([[[[4.0, 3.0], [2.0, 1.0]]]])
        >>> model = lambda x: x.sum((2, 3))
        >>> curve = perturbation_curve(model, image, image[:, 0], fractions=4, score="identity")
        >>> curve.scores
        tensor([[10.,  6.,  3.,  1.,  0.]])
        >>> curve.area
        tensor([3.7500])
    """
    if order not in ("morf", "lerf"):
        raise ValueError(f"order must be 'morf' or 'lerf', but found {order!r}")
    scorer = Scorer(
        forward_func,
        images,
        target=target,
        score=score,
        additional_forward_args=additional_forward_args,
        batch_size=batch_size,
    )
    return _curves(scorer, check_maps(maps, images), [order], fill, fractions, seed)[0]


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
    morf, lerf = _curves(scorer, check_maps(maps, images), ["morf", "lerf"], fill, inner, seed)
    gap = torch.nn.functional.pad(precise(lerf.scores) - precise(morf.scores), (1, 1))
    fractions = torch.nn.functional.pad(precise(morf.fractions), (1, 1))
    fractions[-1] = 1
    return torch.trapezoid(gap, fractions, dim=1).float()


def _curves(
    scorer: Scorer,
    maps: Tensor,
    orders: Sequence[Order],
    fill: Fill,
    fractions: Sequence[float] | int,
    seed: int,
) -> list[Curve]:
    """One curve for each order; the rows of all of them fill the same forward passes."""
    pixels = maps.shape[1:].numel()
    counts = [round(fraction * pixels) for fraction in _shares(fractions)]
    if isinstance(fill, str) and fill == "noisy-linear" and counts[-1] == pixels:
        raise ValueError(
            "fill='noisy-linear' cannot remove all pixels, since nothing is left to impute them "
            f"from; pass fractions below 1, such as {TENTHS}"
        )
    places = ranks(maps, seed)
    remove = remover(scorer.images, fill, seed)
    gone = torch.tensor(counts, device=maps.device)

    def build(image: Tensor, row: Tensor) -> Tensor:
        step = row % len(counts)
        least_first = torch.tensor([o == "lerf" for o in orders], device=row.device)
        least_first = least_first[row // len(counts)].view(-1, 1, 1)
        place = places[image]
        removed = gone[step].view(-1, 1, 1)
        return remove(
            image, step, torch.where(least_first, place < pixels - removed, place >= removed)
        )

    scores = scorer(len(orders) * len(counts), build).view(len(maps), len(orders), len(counts))
    scores = nan_where(~informative(maps).view(-1, 1, 1), scores)
    exact = torch.tensor([count / pixels for count in counts], device=maps.device)
    return [Curve(exact, scores[:, i]) for i in range(len(orders))]


def _shares(fractions: Sequence[float] | int) -> list[float]:
    if isinstance(fractions, int):
        if fractions < 1:
            raise ValueError(f"there must be at least one step, but found {fractions}")
        return [step / fractions for step in range(fractions + 1)]
    shares = list(fractions)
    if not shares or any(not 0 <= f <= 1 for f in shares) or shares != sorted(shares):
        raise ValueError(
            f"fractions must be ascending shares of pixels in [0, 1], but found {shares!r}"
        )
    return shares
