"""Grad-CAM of several layers, fused from shallow to deep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from captum.attr import GradientAttribution

from captum_excon.attr._core.captum import Inputs, Target
from captum_excon.attr._core.fusion import Fusion, check_fusion, check_smooth, fuse, gaussian
from captum_excon.attr._core.mask_attribution import LayeredAttribution, Maps, Request, Scoring
from captum_excon.attr._core.scoring import Batch
from captum_excon.attr._core.views import check_scales, viewed_maps


class FusedGradCAM(LayeredAttribution, GradientAttribution):
    r"""Grad-CAM of the last layer of every convolutional block, fused into one map [ours].

    For each layer :math:`C_b = \mathrm{ReLU}(\sum_k \alpha_k A_k)`, up-sampled and divided by its
    maximum, with :math:`\alpha_k` the mean gradient of the raw output :math:`y_c`; then from
    shallow to deep :math:`E_1 = C_1`, :math:`E_b = (E_{b-1} + C_b) \odot C_b`, and a Gaussian of a
    quarter of the deepest layer's cell. Each part has its reason:

    - Shallow layers know edges, deep layers know the class: the sum adds detail, and the product
      removes it where the deeper map is zero.
    - SISE's own gate, the Otsu region, sets most of the map to exactly zero, which ranking metrics
      order at random; a gate by the map itself does not.
    - Linear up-sampling leaves kinks at the cells' centers; the Gaussian removes them.

    It costs as much as Grad-CAM: one forward and one backward pass for all layers. For other layer
    attributions see `captum_excon.attr.fuse_layers`.

    References: Selvaraju et al., *Grad-CAM: Visual Explanations from Deep Networks via
    Gradient-based Localization*, ICCV 2017, https://arxiv.org/abs/1610.02391; the fusion is after
    SISE, see `MultiLayerSISE`.

    Constructed like `MultiLayerSISE`, whose docstring has an example.
    """

    _empty = "Grad-CAM is positive in none of the layers; explain another target or other layers"

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
        """Computes the fused Grad-CAM maps of a batch.

        For the other arguments, the result and the errors see `MultiLayerSISE.attribute`; as
        in `captum.attr.LayerGradCam`, there are no baselines.

        Args:
            smooth: σ of a Gaussian over the result, in cells of the deepest layer.
            scales: Input sizes, relative to the given one, whose Grad-CAM maps are averaged; the
                first is 1. Each must be a size that the model takes.
            mirror: Average in the image with its last dimension reversed as well.
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

        request = Request(inputs, None, target, additional_forward_args, Scoring("identity"))
        return self._run(request, explain)
