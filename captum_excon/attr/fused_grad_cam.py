"""Grad-CAM of several layers, fused from shallow to deep."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from captum.attr import GradientAttribution
from captum.log import log_usage

from captum_excon.attr._captum import Classes, ForwardFunc, Inputs, Target
from captum_excon.attr._capture import Reshape
from captum_excon.attr._layers import Layer, LayerChoice
from captum_excon.attr._mask_attribution import ImageAttribution, Maps, Request
from captum_excon.attr._scoring import Batch
from captum_excon.attr._views import check_scales, viewed_maps
from captum_excon.attr.fusion import Fusion, check_fusion, check_smooth, fuse, gaussian


class FusedGradCAM(ImageAttribution, GradientAttribution):
    r"""Grad-CAM of the last layer of every convolutional block, fused into one map [ours].

    For each layer :math:`C_b = \mathrm{ReLU}(\sum_k \alpha_k A_k)`, up-sampled and divided by its
    maximum, with :math:`\alpha_k` the mean gradient of the raw output :math:`y_c`; then from
    shallow to deep :math:`E_1 = C_1`, :math:`E_b = (E_{b-1} + C_b) \odot C_b`, and a Gaussian of a
    quarter of the deepest layer's cell. Each part has its reason:

    - Shallow layers know edges, deep layers know the class: the sum adds detail and the product
      leaves none of it where the deeper map is zero.
    - SISE's own gate, the Otsu region, makes most of the map an exact zero, whose order ranking
      metrics draw by lot; the map itself as the gate does not.
    - Linear up-sampling leaves kinks at the cells' centers; the Gaussian removes them.

    All layers take one forward and one backward pass: the cost of Grad-CAM. For other layer
    attributions see `captum_excon.attr.fuse_layers`.

    References: Selvaraju et al., *Grad-CAM: Visual Explanations from Deep Networks via
    Gradient-based Localization*, ICCV 2017, https://arxiv.org/abs/1610.02391; the fusion is after
    SISE, see `MultiLayerSISE`.

    Args:
        forward_func: The model, or any function of the inputs that returns a tensor (N, ...).
        layers: As in `MultiLayerSISE`.
        device_ids: As in Captum; a data-parallel model runs on its module.
        reshape_transform: Turns a captured tensor into (N, C, \*spatial), for token layers; see
            `captum_excon.tokens_to_map`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2),
        ...                       nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> cam = FusedGradCAM(model.eval(), layers=[model[1], model[3]])
        >>> cam.attribute(torch.rand(2, 3, 32, 32), target=[0, 3]).shape
        torch.Size([2, 3, 32, 32])
    """

    _empty = (
        "Grad-CAM is positive nowhere, in none of the layers; explain another target or choose "
        "other layers"
    )

    def __init__(
        self,
        forward_func: ForwardFunc,
        layers: Layer | Iterable[Layer] | None = None,
        device_ids: list[int] | None = None,
        *,
        reshape_transform: Reshape | None = None,
    ) -> None:
        super().__init__(forward_func)
        self.device_ids = device_ids
        self._layers = LayerChoice(forward_func, layers, reshape_transform)

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        *,
        fusion: Fusion = "gated",
        smooth: float = 0.25,
        scales: Sequence[float] = (1.0,),
        mirror: bool = False,
    ) -> Any:
        r"""Computes the fused Grad-CAM maps of a batch.

        Args:
            inputs: Tensor (N, C, \*spatial) or a tuple of them.
            target: The output, in any form that Captum takes. Note the order: as in
                `captum.attr.LayerGradCam` there are no baselines.
            additional_forward_args: As in Captum; tensors with N rows follow their images.
            attribute_to_layer_input: Use the layers' inputs in place of their outputs.
            fusion: As in `MultiLayerSISE.attribute`.
            smooth: σ of a Gaussian over the result, in cells of the deepest layer.
            scales: Input sizes, relative to the given one, whose Grad-CAM maps are averaged; the
                first is 1. Each must be a size that the model takes.
            mirror: Average in the image with its last dimension reversed as well.

        Returns:
            Attributions of the inputs' shape, dtype and device, equal in all channels, in [0, B]
            for B layers; a tuple for a tuple of inputs.

        Raises:
            AssertionError: A target that does not fit the output, as in Captum.
            ValueError: NaN in inputs, wrong shapes, options, or layers; the message names the
                remedy.
        """
        check_fusion(fusion)
        check_smooth(smooth)
        check_scales(scales)

        def explain(batch: Batch) -> list[list[Maps]]:
            layers = self._layers(batch.inputs, batch.args)
            found, cams = viewed_maps(
                batch, layers, scales=scales, mirror=mirror, to_input=attribute_to_layer_input
            )
            grid = found.maps[-1].shape[2:]
            return [
                [tuple(gaussian(fuse(*maps, fusion), smooth, grid) for maps in per_input)]
                for per_input in cams
            ]

        request = Request(
            inputs, None, target, additional_forward_args, None, False, "identity", None
        )
        return self._run(request, explain)

    def attribute_classes(
        self,
        inputs: Inputs,
        classes: Sequence[Target],
        additional_forward_args: Any = None,
        **options: Any,
    ) -> list[Any]:
        """Computes the maps of several classes of each image, sharing the forward pass.

        Args:
            inputs: As in `attribute`.
            classes: Targets, each in any form that `attribute` takes for the whole batch.
            additional_forward_args: As in `attribute`.
            **options: The other keywords of `attribute`.

        Returns:
            For each class what ``attribute(inputs, target=class)`` returns.
        """
        maps: list[Any] = self.attribute(
            inputs, Classes(classes), additional_forward_args, **options
        )
        return maps
