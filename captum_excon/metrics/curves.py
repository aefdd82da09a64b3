"""The score of images that lose their most, or least, relevant pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from captum_excon.attr._captum import ForwardFunc, Target
from captum_excon.attr._scoring import Score
from captum_excon.metrics._fill import Fill
from captum_excon.metrics._maps import check_maps
from captum_excon.metrics._perturbation import STEPS, Curve, Order, curves
from captum_excon.metrics._scorer import Scorer


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
        batch_size: Rows per forward pass; found from the images' size by default.
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
    return curves(scorer, check_maps(maps, images), [order], fill, fractions, seed)[0]
