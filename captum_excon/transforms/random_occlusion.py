"""The control: occlusions of the same areas at random places."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from captum_excon.transforms._region import Placement, check_placement, displaced
from captum_excon.transforms.explanation_mask import ExplanationMask

__all__ = ["RandomOcclusion"]


class RandomOcclusion(ExplanationMask):
    """Occludes as many pixels as `ExplanationMask` would, but at random places.

    The gain of augmentation with explanations shows only against this control: the same areas and
    labels, with regions that no explanation has placed. Maps are used for the areas alone.

    Args:
        *args: As in `ExplanationMask`.
        placement: ``"shift"`` moves the salient region as it is, by a random offset around the
            borders; ``"shuffle"`` scatters its pixels. Drawn for each image anew.
        **kwargs: As in `ExplanationMask`; places are drawn from its ``generator``, too.

    Raises:
        ValueError: As in `ExplanationMask`, and for any other `placement`.

    Example:
        >>> import torch
        >>> from captum_excon.transforms import Saliency
        >>> saliency = Saliency(torch.arange(16.0).view(1, 4, 4))
        >>> occlude = RandomOcclusion(keep_ratio=0.25, generator=torch.Generator().manual_seed(0))
        >>> image, _ = occlude(torch.ones(3, 4, 4), saliency)
        >>> image.sum((1, 2))
        tensor([4., 4., 4.])
    """

    def __init__(self, *args: Any, placement: Placement = "shift", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_placement(placement)
        self.placement = placement

    def _region(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        region, constant = super()._region(maps)
        return displaced(region, self.placement, self.generator), constant
