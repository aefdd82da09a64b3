"""ExCon's views: images masked by explanations, if the classifier still recognises them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from captum_excon.attr._core.captum import ForwardFunc
from captum_excon.transforms._base import ExplainingModule
from captum_excon.transforms._fill import Fill, fill_values
from captum_excon.transforms._region import check_region, kept_area, mean_share, salient_region
from captum_excon.transforms._undisturbed import Explainer, Mode


class ExConBatch(NamedTuple):
    """What `ExConViews` returns for N images; M = N, or N + K with K backgrounds.

    ``statistics`` are scalars on the device: ``acceptance_rate``; ``backgrounds``, their number K;
    ``kept_area``, the mean share of pixels kept, over maps that are not constant;
    ``constant_maps``, the number of those that are.
    """

    views: Tensor  # (M, 2, C, H, W); a background is in both slots
    labels: Tensor  # (M,) int64; those of backgrounds are their images'
    accepted: Tensor  # for which images the masked image is view 0, (N,) bool
    background: Tensor  # which rows are backgrounds, (M,) bool; the last K
    statistics: dict[str, Tensor]


class ExConViews(ExplainingModule):
    r"""Makes the two views that ExCon and ExConB contrast.

    The standard view x is explained for its label with the classifier's current weights and only
    the salient pixels are kept: :math:`\tilde x = m \odot x + (1 - m) \odot \mathrm{fill}`. View 0
    is :math:`\tilde x` where the classifier's prediction for it is the label, else the back-up
    ``random2``; view 1 is ``random1``. With ``background=True`` (ExConB) rejected masked images
    are appended as backgrounds.

    A map that is constant, or not finite, keeps no pixel: its image gets the back-up view, is no
    background and is counted [ours; the official code masks the whole image]. The official code
    explains and accepts in training mode (``explain_mode="train"``), where a map depends on the
    other images of the batch.

    A call leaves no trace (training flags, buffers, gradients, random state), costs one explanation
    and one forward pass, and never waits for the device, except once with ``background=True`` for
    the number of backgrounds. No module is registered, so parameters appear once in a state dict.
    Modules may be wrapped by ``torch.compile`` or ``DistributedDataParallel``.

    Reference: Zhang et al., *ExCon: Explanation-driven Supervised Contrastive Learning for Image
    Classification*, https://arxiv.org/abs/2111.14271.

    Args:
        classifier: From images (N, C, H, W) to logits (N, classes).
        explainer: A Captum attribution on the classifier, or a function of images and classes
            that returns maps (N, K, h, w).
        threshold: Kept is what lies strictly above it in maps scaled to [0, 1].
        keep_ratio: If given, replaces the threshold: the share of pixels to keep.
        fill: What the other pixels become, as in `ExplanationMask`.
        background: Append rejected masked images (ExConB).
        explain_mode: The classifier's mode for map and prediction, ``"eval"`` or ``"train"``.
        autocast_dtype: Precision of map and prediction, whatever autocast surrounds the call; None
            is the parameters'.
        generator: Where ``fill="noise"`` draws from; by default torch's own for the device.

    Example:
        >>> from captum.attr import LayerGradCam
        >>> from torch import nn
        >>> conv = nn.Conv2d(3, 5, 3)
        >>> model = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> make_views = ExConViews(model, LayerGradCam(model, conv))
        >>> batch = make_views(*torch.rand(3, 2, 3, 8, 8), labels=torch.tensor([1, 4]))
        >>> batch.views.shape
        torch.Size([2, 2, 3, 8, 8])
    """

    def __init__(
        self,
        classifier: ForwardFunc,
        explainer: Explainer,
        *,
        threshold: float | None = 0.5,
        keep_ratio: float | None = None,
        fill: Fill = 0.0,
        background: bool = False,
        explain_mode: Mode = "eval",
        autocast_dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(classifier, explainer, fill, explain_mode, autocast_dtype, generator)
        check_region(threshold, keep_ratio)
        self.threshold, self.keep_ratio = threshold, keep_ratio
        self.background = background

    def forward(
        self,
        standard: Tensor,
        random1: Tensor,
        random2: Tensor,
        labels: Tensor,
        maps: Tensor | None = None,
    ) -> ExConBatch:
        """Makes the views of a batch.

        Args:
            standard: The images without random augmentation, (N, C, H, W).
            random1: A random augmentation of each, of the same shape.
            random2: Another.
            labels: (N,) of an integer dtype.
            maps: Ready-made maps (N, K, h, w), of any size and floating dtype, in place of the
                explainer's.
        """
        self.check_images(standard, random1, random2)
        if not standard.shape == random1.shape == random2.shape:
            raise ValueError(
                "standard, random1 and random2 must be batches of one shape, but found "
                f"{[tuple(x.shape) for x in (standard, random1, random2)]}"
            )
        self.check_labels(labels, standard)
        labels = labels.long()
        # Noise is drawn outside: within, the random state is put back and would repeat it.
        values = fill_values(standard, self.fill, self.generator)
        with self.undisturbed():
            maps = self.explain(standard, labels, maps)
            region, constant = salient_region(maps, self.threshold, self.keep_ratio)
            masked = torch.where(region, standard, values)
            accepted = (self.predict(masked) == labels) & ~constant
        view = torch.where(accepted[:, None, None, None], masked, random2)
        views = torch.stack([view, random1], 1)
        rejected = ~accepted & ~constant & self.background
        statistics = {
            "acceptance_rate": mean_share(accepted),
            "backgrounds": rejected.sum(),
            "kept_area": kept_area(region, constant),
            "constant_maps": constant.sum(),
        }
        background = torch.zeros_like(accepted)
        if self.background:
            extra = masked[rejected]
            views = torch.cat([views, extra.unsqueeze(1).expand(-1, 2, -1, -1, -1)])
            labels = torch.cat([labels, labels[rejected]])
            background = torch.cat([background, background.new_ones(len(extra))])
        return ExConBatch(views, labels, accepted, background, statistics)
