"""SISE: semantic input sampling for explanation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_excon.attr._core.captum import Inputs, Target
from captum_excon.attr._core.fusion import Fusion, check_fusion, check_smooth, fuse, gaussian
from captum_excon.attr._core.layer_maps import gradient_maps, scored_maps
from captum_excon.attr._core.mask_attribution import (
    LayeredAttribution,
    Maps,
    MaskAttribution,
    Request,
    Scoring,
)
from captum_excon.attr._core.masks import select_fixed
from captum_excon.attr._core.scoring import Batch, Score


@dataclass(frozen=True)
class SiseOptions:
    """What SISE and Ada-SISE have in common, checked; see `MultiLayerSISE.attribute`."""

    to_input: bool
    fusion: Fusion
    hybrid: bool
    smooth: float
    rectify: bool
    return_layer_maps: bool

    def __post_init__(self) -> None:
        check_fusion(self.fusion)
        check_smooth(self.smooth)


class MultiLayerSISE(LayeredAttribution, MaskAttribution):
    r"""Semantic Input Sampling for Explanation (SISE); `captum_excon.SISE` is the same class.

    Feature maps of the last layer of every convolutional block become masks, the model scores the
    masked inputs, and the layers' weighted sums of masks are fused. The paper's four phases:

    1. One forward and one backward pass give the feature maps :math:`A_k^l` of all layers and the
       mean gradients :math:`\alpha_k^l` of the score :math:`\Psi_c`.
    2. Maps with :math:`\alpha_k^l > \mu \max_k \alpha_k^l` (and positive) are up-sampled linearly
       to the input's size and then scaled to [0, 1]: the masks :math:`m`.
    3. :math:`V^l(\lambda) = E_m[\Psi_c(x \odot m)\, m(\lambda) / \sum_{\lambda'} m(\lambda')]`.
    4. :math:`E_1 = \hat V_1`, :math:`E_b = (E_{b-1} + \hat V_b) \odot [\hat V_b >
       \mathrm{otsu}(\hat V_b)]` with :math:`\hat V` the maps scaled to [0, 1]; the result is
       :math:`E_B`, in [0, B] for B layers, positive inside the Otsu region of the deepest map.

    The paper leaves open what is decided here: Ψ is the softmax probability; masked-out pixels
    take the value of ``baselines``; Otsu's threshold uses 256 bins on [0, 1]; maps are rectified
    first, so that negative evidence becomes no mask on layers without a ReLU; constant maps are
    dropped; a layer without a positive gradient contributes nothing and does not mask. The
    gradients are those of the log-odds of Ψ: the same up to a positive factor per image, but not
    vanishing for a confident model.

    The cost is one forward and one backward pass and one forward row for each mask, under a
    hundred to a thousand of them. Memory does not grow with the number of masks.

    Reference: Sattarzadeh et al., *Explaining Convolutional Neural Networks through
    Attribution-Based Input Sampling and Block-Wise Feature Aggregation*, AAAI 2021,
    https://arxiv.org/abs/2010.00672.

    Args:
        forward_func: The model, or any function of the inputs that returns a tensor (N, ...).
            Only a `torch.nn.Module` can have its layers chosen.
        layers: The layers, shallow to deep, as modules or names, or a single one (an
            `nn.Sequential` is one layer). By default those of `captum_excon.select_layers`, chosen
            at the first call for each input shape and logged at INFO level.
        device_ids: As in Captum; a data-parallel model's hooked pass runs on its module.
        reshape_transform: Turns a captured tensor into (N, C, \*spatial), for token layers; see
            `captum_excon.tokens_to_map`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2),
        ...                       nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> images = torch.rand(2, 3, 32, 32)
        >>> sise = MultiLayerSISE(model.eval(), layers=[model[1], model[3]])
        >>> sise.attribute(images, target=[0, 3]).shape
        torch.Size([2, 3, 32, 32])
    """

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
        threshold: float = 0.0,
        score: Score | None = None,
        fusion: Fusion = "otsu",
        hybrid: bool = False,
        smooth: float = 0.0,
        rectify: bool = True,
        return_layer_maps: bool = False,
        autocast_dtype: torch.dtype | None = None,
    ) -> Any:
        r"""Computes the SISE maps of a batch.

        Args:
            inputs: Tensor (N, C, \*spatial) with one to three spatial dimensions, or a tuple of
                them, all masked together, each at its own size.
            baselines: What masked-out pixels become, in the model's input space: a number, a
                tensor that broadcasts to (N, C, \*spatial), or a tuple of them; None means 0.
                Black for a normalised image is ``(0 - mean) / std``.
            target: The class, in any form that Captum takes.
            additional_forward_args: As in Captum; tensors with N rows follow their images.
            perturbations_per_eval: Forward rows per batch. By default it is found: it doubles
                while memory and throughput allow, and halves when memory runs out. Results agree
                to float tolerance; set it where they must agree to the bit.
            show_progress: Show a bar over forward rows.
            attribute_to_layer_input: Use the layers' inputs instead of their outputs.
            threshold: The paper's μ >= 0. Larger keeps fewer masks: 0.3 took the paper's ResNet-50
                a quarter of the time at equal quality.
            score: Ψ: ``"softmax"`` over dimension 1, ``"sigmoid"`` for independent labels,
                ``"identity"`` for outputs that are scores already, or a callable of the output.
                None means ``"identity"`` for a model of `captum_excon.callable_targets`, and
                ``"softmax"`` for any other.
            fusion: ``"otsu"`` (the paper), ``"soft_otsu"`` (the authors' code), ``"sum"``,
                ``"gated"`` (:math:`E_b = (E_{b-1} + \hat V_b) \odot \hat V_b`), ``"product"``, or a
                callable from the list of layer maps (N, 1, \*spatial), shallow to deep and zero
                where a layer has none, to one map. All but the first two are ours.
            hybrid: Multiply the fused map by the rectified Grad-CAM of the deepest layer, scaled to
                a maximum of 1: one more backward pass, no forward row [ours].
            smooth: σ of a Gaussian over the result, in cells of the deepest layer [ours].
            rectify: Set negative activations to zero first.
            return_layer_maps: Also return each layer's map.
            autocast_dtype: Run the scoring passes under autocast to `torch.bfloat16` or
                `torch.float16`; scores are kept in float32.

        Returns:
            Attributions of the inputs' shape, dtype and device, equal in all channels, in [0, B]
            for B layers; a tuple for a tuple of inputs. With ``return_layer_maps``, a pair of
            that and the list of the layers' maps, (N, 1, \*spatial) in [0, 1], shallow to deep
            (tuples of them for a tuple of inputs; an empty list for an empty batch).

        Raises:
            AssertionError: The target does not fit the output, as in Captum.
            ValueError: Inputs or scores contain NaN, or shapes, options or layers are wrong.
        """
        scoring = Scoring(score, perturbations_per_eval, show_progress, autocast_dtype)
        request = Request(inputs, baselines, target, additional_forward_args, scoring)
        options = SiseOptions(
            attribute_to_layer_input, fusion, hybrid, smooth, rectify, return_layer_maps
        )
        return self._sise(request, options, _above(threshold))

    def _sise(
        self, request: Request, options: SiseOptions, select: Callable[[Tensor], Tensor]
    ) -> Any:
        """SISE with the maps that ``select`` chooses: (..., K) mean gradients to (..., K) bool."""

        def explain(batch: Batch) -> list[list[Maps]]:
            scores = [r.differentiable for r in batch.readouts]
            if options.hybrid:
                scores += [r.raw for r in batch.readouts]
            layers, targets = self._layers(batch.inputs, batch.args), len(batch.readouts)
            found = batch.capture(layers, scores, to_input=options.to_input)
            keep = [select(weights[:targets]) for weights in found.weights]
            maps = [m.relu() if options.rectify else m for m in found.maps]
            scored = scored_maps(batch, maps, keep)
            fused = [[fuse(*m, options.fusion) for m in inputs] for inputs in scored]
            if options.hybrid:
                weights = found.weights[-1][targets:]
                cams = gradient_maps(found.maps[-1:], [weights], batch.sizes)
                fused = [
                    [e * c.maps[0] for e, c in zip(*pair, strict=True)]
                    for pair in zip(fused, cams, strict=True)
                ]
            grid = maps[-1].shape[2:]
            results = [
                [tuple(gaussian(e, options.smooth, grid) for e in inputs)] for inputs in fused
            ]
            if options.return_layer_maps:
                for result, inputs in zip(results, scored, strict=True):
                    result += zip(*(m.maps for m in inputs), strict=True)
            return results

        return self._run(request, explain, extras=options.return_layer_maps)


def _above(threshold: float) -> Callable[[Tensor], Tensor]:
    if not isinstance(threshold, (int, float)) or not threshold >= 0:
        raise ValueError(f"threshold must be a number >= 0, but found {threshold!r}")
    return functools.partial(select_fixed, threshold=threshold)
