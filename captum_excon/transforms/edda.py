"""EDDA: copies of images that keep or drop what the prediction relies on."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from captum_excon.attr._core.captum import ForwardFunc
from captum_excon.transforms._base import ExplainingModule
from captum_excon.transforms._fill import Fill, fill_values
from captum_excon.transforms._region import (
    Placement,
    check_placement,
    check_region,
    displaced,
    kept_area,
    mean_share,
    salient_region,
)
from captum_excon.transforms._undisturbed import Explainer, Mode


class EDDABatch(NamedTuple):
    """What `EDDA` returns for N images.

    Where a map is constant or not finite, both copies are the unchanged image, and a loss on `drop`
    must leave it out. ``statistics`` are scalars on the device: ``correct_rate``; ``kept_area``,
    the regions' mean share of pixels, over maps that are not constant; ``constant_maps``, the
    number of those that are.
    """

    keep: Tensor  # only the salient region is left, (N, C, H, W); to be classified as `targets`
    drop: Tensor  # it is gone, (N, C, H, W); the confidence in `explained` should fall
    targets: Tensor  # the labels as they were given
    explained: Tensor  # the class that was explained, (N,) int64
    region: Tensor  # what was kept and dropped, (N, 1, H, W) bool; empty for constant maps
    constant: Tensor  # which maps are constant or not finite, (N,) bool
    correct: Tensor  # where the classifier's prediction is the label, (N,) bool
    statistics: dict[str, Tensor]


class EDDA(ExplainingModule):
    r"""Occludes what a prediction relies on, and everything else.

    For the salient region S of the map of the predicted class:
    :math:`x_{keep} = \mathrm{fill}(x, \bar S)`, whose class should stay, and
    :math:`x_{drop} = \mathrm{fill}(x, S)`, for which the confidence should fall. The paper
    establishes this idea for any model and explainer; all else here is ours.

    With a `placement` the regions are moved at random: the control that every claim needs.

    A call leaves no trace, never waits for the device, and costs one explanation and, without
    `logits`, one forward pass. Modules are not registered and may be wrapped, as in `ExConViews`.

    Reference: *EDDA: Explanation-driven Data Augmentation to Improve Explanation Faithfulness*,
    https://arxiv.org/abs/2105.14162.

    Args:
        classifier: As in `ExConViews`.
        explainer: As in `ExConViews`.
        keep_ratio: The salient share of pixels; 0.15 is what Drop and Increase are measured with.
        threshold: With ``keep_ratio=None``: salient is what lies strictly above it in maps scaled
            to [0, 1].
        target: Explain the ``"predicted"`` class or the ``"label"``.
        fill: What occluded pixels become, as in `ExplanationMask`.
        placement: None, or ``"shift"`` or ``"shuffle"`` for the control, as in `RandomOcclusion`.
        explain_mode: As in `ExConViews`.
        autocast_dtype: As in `ExConViews`.
        generator: Where places and noise are drawn from; by default torch's own.

    Example:
        >>> from captum.attr import LayerGradCam
        >>> from torch import nn
        >>> conv = nn.Conv2d(3, 5, 3)
        >>> model = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> augment = EDDA(model, LayerGradCam(model, conv), keep_ratio=0.25)
        >>> batch = augment(torch.rand(2, 3, 8, 8), torch.tensor([1, 4]))
        >>> batch.region.flatten(1).sum(1)
        tensor([16, 16])
    """

    def __init__(
        self,
        classifier: ForwardFunc,
        explainer: Explainer,
        *,
        keep_ratio: float | None = 0.15,
        threshold: float | None = None,
        target: Literal["predicted", "label"] = "predicted",
        fill: Fill = "mean",
        placement: Placement | None = None,
        explain_mode: Mode = "eval",
        autocast_dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(classifier, explainer, fill, explain_mode, autocast_dtype, generator)
        check_region(threshold, keep_ratio)
        if keep_ratio is not None and threshold is not None:
            raise ValueError("set keep_ratio=None to use a threshold; EDDA takes one of the two")
        if target not in ("predicted", "label"):
            raise ValueError(f'target must be "predicted" or "label", but found {target!r}')
        if placement is not None:
            check_placement(placement)
        self.keep_ratio, self.threshold = keep_ratio, threshold
        self.target, self.placement = target, placement

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        maps: Tensor | None = None,
        logits: Tensor | None = None,
    ) -> EDDABatch:
        """Makes the two copies of a batch.

        Args:
            images: (N, C, H, W).
            labels: Class indices (N,). With ``target="predicted"`` also several classes for each
                image, (N, classes) with 1 for those present, of which a correct prediction is one.
            maps: Ready-made maps (N, K, h, w) of the class that `target` asks for, of any size and
                floating dtype, in place of the explainer's.
            logits: The classifier's outputs for the images, if they are already known.
        """
        self.check_images(images)
        if labels.ndim != 2 or self.target == "label":
            self.check_labels(labels, images)
        with self.undisturbed():
            predicted = self.predict(images) if logits is None else logits.argmax(1)
            if labels.ndim == 2:
                explained = predicted
                correct = labels.gather(1, predicted.unsqueeze(1)).squeeze(1) > 0.5
            else:
                explained = predicted if self.target == "predicted" else labels.long()
                correct = predicted == labels
            maps = self.explain(images, explained, maps)
        region, constant = salient_region(maps, self.threshold, self.keep_ratio)
        if self.placement is not None:
            region = displaced(region, self.placement, self.generator)
        values = fill_values(images, self.fill, self.generator)
        varies = ~constant[:, None, None, None]
        return EDDABatch(
            keep=torch.where(~region & varies, values, images),
            drop=torch.where(region, values, images),
            targets=labels,
            explained=explained,
            region=region,
            constant=constant,
            correct=correct,
            statistics={
                "correct_rate": mean_share(correct),
                "kept_area": kept_area(region, constant),
                "constant_maps": constant.sum(),
            },
        )
