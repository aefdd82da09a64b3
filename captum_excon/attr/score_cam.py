"""Score-CAM: score-weighted class activation maps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from captum_excon.attr._core.captum import ForwardFunc, Inputs, Target
from captum_excon.attr._core.capture import Reshape
from captum_excon.attr._core.layers import Layer, LayerChoice
from captum_excon.attr._core.mask_attribution import Maps, MaskAttribution, Request, Scoring
from captum_excon.attr._core.masks import FeatureMasks, channel_sum, resize
from captum_excon.attr._core.scoring import Batch, Score


class ScoreCAM(MaskAttribution):
    r"""Score-Weighted Class Activation Mapping (Score-CAM).

    Every feature map of a layer, up-sampled and scaled to [0, 1], masks the image; a softmax over
    the masks' scores gives the weights of the maps:
    :math:`\mathrm{ReLU}(\sum_k \mathrm{softmax}_k(\Psi_c(x \odot m_k))\, A_k)`.

    Ψ is the raw output, as in the paper. The score of the masked-out image, which the paper
    subtracts, cancels in the softmax. Where sources differ, the maps are those of pytorch-grad-cam
    up to its final scaling to [0, 1]: masks are up-sampled with ``align_corners=True``, and a
    constant map counts with the score of an empty mask.

    It costs one forward row for each feature map of the layer, 2048 for a ResNet-50, and two more:
    the hooked pass and the empty mask.

    Reference: Wang et al., *Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural
    Networks*, CVPR Workshops 2020, https://arxiv.org/abs/1910.01279.

    Args:
        forward_func: As in `MultiLayerSISE`.
        layer: The layer, as a module or a name; by default the deepest of
            `captum_excon.select_layers`.
        device_ids: As in Captum.
        reshape_transform: As in `MultiLayerSISE`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        ...                       nn.Flatten(), nn.Linear(8, 5)).eval()
        >>> ScoreCAM(model, model[1]).attribute(torch.rand(2, 3, 16, 16), target=1).shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(
        self,
        forward_func: ForwardFunc,
        layer: Layer | None = None,
        device_ids: list[int] | None = None,
        *,
        reshape_transform: Reshape | None = None,
    ) -> None:
        super().__init__(forward_func)
        self.device_ids = device_ids
        layers = None if layer is None else [layer]
        self._layers = LayerChoice(forward_func, layers, reshape_transform, deepest=True)

    def attribute(
        self,
        inputs: Inputs,
        baselines: Any = None,
        target: Target = None,
        additional_forward_args: Any = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        attribute_to_layer_input: bool = False,
        *,
        score: Score = "identity",
        align_corners: bool = True,
        autocast_dtype: torch.dtype | None = None,
    ) -> Any:
        """Computes the Score-CAM maps of a batch, non-negative.

        For the other arguments, the result and the errors see `MultiLayerSISE.attribute`.

        Args:
            score: Ψ; the default is the paper's.
            align_corners: How masks are up-sampled; False is the authors' code.
        """

        def explain(batch: Batch) -> list[list[Maps]]:
            layers = self._layers(batch.inputs, batch.args)
            found = batch.capture(layers, [], to_input=attribute_to_layer_input)
            masks = FeatureMasks(found.maps, None, batch.sizes, align_corners=align_corners)
            (maps,), ((image, channel),) = masks.maps, masks.index
            # A constant map is an empty mask; one is enough for each image.
            scores = batch.score(_EmptyMasks(batch)).unsqueeze(2).repeat(1, 1, maps.shape[1])
            scores[:, image, channel] = batch.score(masks)
            cams = channel_sum(scores.softmax(2), maps).relu()
            return [[tuple(resize(cam, size) for size in batch.sizes)] for cam in cams]

        scoring = Scoring(score, perturbations_per_eval, show_progress, autocast_dtype)
        request = Request(inputs, baselines, target, additional_forward_args, scoring)
        return self._run(request, explain)


class _EmptyMasks:
    """One mask of zeros for each image."""

    def __init__(self, batch: Batch) -> None:
        self.image = batch.index
        self._like = batch.inputs

    def masks(self, start: int, stop: int) -> tuple[Tensor, ...]:
        return tuple(x.new_zeros(stop - start, 1, *x.shape[2:]) for x in self._like)
