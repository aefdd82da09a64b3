"""Keeps or drops the salient region of images, or as many pixels at random places."""

from __future__ import annotations

from typing import Any, Literal

import torch
from PIL import Image as PILImage
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torchvision import tv_tensors
from torchvision.transforms import v2

from captum_excon.transforms._fill import Fill, check_fill, fill_values
from captum_excon.transforms._region import (
    Placement,
    check_placement,
    check_region,
    displaced,
    salient_region,
)
from captum_excon.transforms._undisturbed import (
    Explainer,
    explain,
    explained_module,
    to_maps,
    undisturbed,
)
from captum_excon.transforms.saliency import Saliency


class ExplanationMask(v2.Transform):
    r"""Occludes all but the salient region of images, or that region.

    For a map with the salient region S, :math:`\mathrm{fill}(x, \bar S)` with ``keep="salient"``
    and :math:`\mathrm{fill}(x, S)` with ``keep="non_salient"``: each pixel is left by exactly one
    of the two. The region is ExCon's (see ``threshold``); ratio, other fills and the treatment of
    unusable maps are ours.

    Maps come from one of two places:

    - a `Saliency` in the sample, of the image's size: a single image (C, H, W) or a batch;
    - otherwise the explainer, for batches (N, C, H, W), called as MixUp and CutMix are, after the
      loader or in ``collate_fn``: ``images, labels = mask(images, labels)``. The one integer tensor
      of N labels names the classes to explain. The explained module is left as it was.

    As for torchvision's transforms, the image is the ``tv_tensors.Image`` of the sample, else its
    first plain tensor; everything else is passed on. An image whose map is constant up to
    rounding, or not finite, is left as it is and counted in `constant_maps`.

    Args:
        explainer: A Captum attribution, or a function of images and classes that returns maps
            (N, K, h, w). None if the samples bring a `Saliency`.
        threshold: Salient is what lies strictly above it in the map scaled to [0, 1].
        keep_ratio: If given, replaces the threshold: the salient share of pixels, those of the
            largest values.
        keep: What is left of the image.
        fill: What the other pixels become: a number (in normalised space 0 is the dataset's mean
            colour), ``"mean"`` (the image's own mean colour), ``"blur"`` (a Gaussian whose σ is an
            eighth of the smaller side), ``"noise"`` (normal, with the mean and standard deviation
            of each channel), or a function of the images (N, C, H, W) that returns values for them.
        generator: Where noise is drawn from; by default torch's own for the images' device.

    Example:
        >>> image = tv_tensors.Image(torch.tensor([[[5.0, 6.0], [7.0, 8.0]]]))
        >>> saliency = Saliency(torch.tensor([[[0.0, 1.0], [2.0, 4.0]]]))
        >>> kept, _ = ExplanationMask()(image, saliency)
        >>> kept.tolist()
        [[[0.0, 0.0], [0.0, 8.0]]]
    """

    explainer: Explainer | None
    fill: Fill

    def __init__(
        self,
        explainer: Explainer | None = None,
        *,
        threshold: float | None = 0.5,
        keep_ratio: float | None = None,
        keep: Literal["salient", "non_salient"] = "salient",
        fill: Fill = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_region(threshold, keep_ratio)
        check_fill(fill)
        if keep not in ("salient", "non_salient"):
            raise ValueError(f'keep must be "salient" or "non_salient", but found {keep!r}')
        # Past nn.Module's own __setattr__, which would register modules and their parameters.
        object.__setattr__(self, "explainer", explainer)
        object.__setattr__(self, "fill", fill)
        self.threshold, self.keep_ratio = threshold, keep_ratio
        self.keep = keep
        self.generator = generator
        self._constant_maps: Tensor | int = 0

    @property
    def constant_maps(self) -> int:
        """How many images this process left as they are; reading it waits for the device."""
        return int(self._constant_maps)

    def forward(self, *inputs: Any) -> Any:
        """Occludes the image of a sample. Do not override this: see `make_params`, `transform`."""
        leaves, spec = tree_flatten(inputs if len(inputs) > 1 else inputs[0])
        params = self.make_params(leaves)
        return tree_unflatten([self.transform(leaf, params) for leaf in leaves], spec)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Returns ``"image"``, the leaf to change, and its ``"occluded"`` pixels, (N, 1, H, W)."""
        image = _find_image(flat_inputs)
        region, constant = self._region(self._maps(flat_inputs, image))
        self._constant_maps = constant.sum() + self._constant_maps
        occluded = ~region if self.keep == "salient" else region
        return {"image": image, "occluded": occluded & ~constant[:, None, None, None]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Occludes the image, and passes everything else on."""
        if inpt is not params["image"]:
            return inpt
        images = inpt.as_subclass(Tensor).view(-1, *inpt.shape[-3:])
        values = fill_values(images, self.fill, self.generator)
        result = torch.where(params["occluded"], values, images).view(inpt.shape)
        is_image = isinstance(inpt, tv_tensors.Image)
        return tv_tensors.wrap(result, like=inpt) if is_image else result

    def _region(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        return salient_region(maps, self.threshold, self.keep_ratio)

    def _maps(self, leaves: list[Any], image: Tensor) -> Tensor:
        for leaf in leaves:
            if isinstance(leaf, Saliency):
                return _maps_of(leaf, image)
        if self.explainer is None:
            raise ValueError(
                "the sample has no Saliency; add one, or give the transform an explainer"
            )
        if image.ndim != 4:
            raise ValueError(
                "an explainer works on batches (N, C, H, W), but the image's shape is "
                f"{tuple(image.shape)}; call the transform after the loader or in collate_fn"
            )
        labels = _find_labels(leaves, image)
        with undisturbed(explained_module(self.explainer)):
            return explain(self.explainer, image.as_subclass(Tensor), labels)


class RandomOcclusion(ExplanationMask):
    """Occludes as many pixels as `ExplanationMask` would, but at random places.

    The gain of augmentation with explanations shows only against this control: the same areas and
    labels, with regions that no explanation has placed. Maps are used for the areas alone.

    Args:
        *args: As in `ExplanationMask`.
        placement: ``"shift"`` moves the salient region as it is, by a random offset around the
            borders; ``"shuffle"`` scatters its pixels. Drawn for each image anew.
        **kwargs: As in `ExplanationMask`; places are drawn from its ``generator``, too.

    Example:
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


def _is_plain(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and not isinstance(leaf, tv_tensors.TVTensor)


def _find_image(leaves: list[Any]) -> Tensor:
    images = [leaf for leaf in leaves if isinstance(leaf, tv_tensors.Image)]
    images = images or list(filter(_is_plain, leaves))[:1]
    if any(isinstance(leaf, PILImage.Image) for leaf in leaves):
        raise ValueError("PIL images cannot be occluded; apply v2.ToImage() first")
    if len(images) != 1 or images[0].ndim not in (3, 4):
        raise ValueError(
            "a sample must have one image, (C, H, W) or (N, C, H, W), to which the map belongs, "
            f"but found {[tuple(image.shape) for image in images]}"
        )
    image: Tensor = images[0]
    return image


def _find_labels(leaves: list[Any], images: Tensor) -> Tensor:
    labels: list[Tensor] = [
        leaf
        for leaf in leaves
        if _is_plain(leaf) and leaf.shape == images.shape[:1] and not leaf.is_floating_point()
    ]
    if len(labels) != 1:
        raise ValueError(
            f"the classes to explain must be one integer tensor of shape ({len(images)},), but the "
            f"batch has {len(labels)} of that kind; call the transform as (images, labels), and "
            "before MixUp or CutMix"
        )
    return labels[0].long()


def _maps_of(saliency: Tensor, image: Tensor) -> Tensor:
    if saliency.shape[-2:] != image.shape[-2:]:
        raise ValueError(
            f"the Saliency is {tuple(saliency.shape[-2:])} pixels and its image "
            f"{tuple(image.shape[-2:])}; let geometric transforms see both"
        )
    maps = saliency.as_subclass(Tensor)
    if maps.ndim == image.ndim - 1:
        maps = maps.unsqueeze(-3)
    if image.ndim == 3:
        maps, image = maps.unsqueeze(0), image.unsqueeze(0)
    return to_maps(maps, len(image), (image.shape[-2], image.shape[-1])).to(image.device)
