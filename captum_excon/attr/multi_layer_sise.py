"""SISE: semantic input sampling for explanation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from captum.log import log_usage
from torch import Tensor

from captum_excon.attr._captum import ForwardFunc, Inputs, Target
from captum_excon.attr._capture import Layer, LayerChoice, Reshape, capture
from captum_excon.attr._mask_attribution import (
    Maps,
    MaskAttribution,
    Request,
    without_layer_maps_in_noise,
)
from captum_excon.attr._masks import (
    FeatureMasks,
    Fusion,
    check_fusion,
    fuse,
    minmax,
    resize,
    select_fixed,
)
from captum_excon.attr._scoring import Batch, Score


class MultiLayerSISE(MaskAttribution):
    r"""Semantic Input Sampling for Explanation (SISE); `captum_excon.SISE` is the same class.

    The feature maps of the last layer of every convolutional block become masks; each mask is
    scored by the model's confidence on the masked input; the layers' weighted sums of masks are
    fused from shallow to deep. Four phases, all of the paper:

    1. One forward and one backward pass give the feature maps :math:`A_k^l` of all layers and the
       mean gradients :math:`\alpha_k^l` of the score :math:`\Psi_c`.
    2. Maps with :math:`\alpha_k^l > \mu \max_k \alpha_k^l` (and positive) are up-sampled linearly
       to the input's size and then scaled to [0, 1]: the masks :math:`m`.
    3. :math:`V^l(\lambda) = E_m[\Psi_c(x \odot m)\, m(\lambda) / \sum_{\lambda'} m(\lambda')]`.
    4. :math:`E_1 = \hat V_1`, :math:`E_b = (E_{b-1} + \hat V_b) \odot [\hat V_b >
       \mathrm{otsu}(\hat V_b)]` with :math:`\hat V` the maps scaled to [0, 1]; the result is
       :math:`E_B`, in [0, B] for B layers, positive inside the Otsu region of the deepest map.

    What the paper leaves open and is decided here: Ψ is the softmax probability; masked-out
    pixels take the value of ``baselines``; Otsu's threshold uses 256 bins on [0, 1]; maps are
    rectified first (``rectify``), which changes nothing on layers after a ReLU and keeps negative
    evidence from becoming masks on others; constant maps are dropped; a layer without a positive
    gradient contributes nothing and does not mask. The gradients are those of the log-odds of Ψ,
    which select the same maps as those of Ψ (they differ by one positive factor an image) and do
    not vanish for a confident model.

    The cost is one forward and one backward pass and as many forward rows as masks are kept: from
    under a hundred to a thousand. Memory does not grow with the number of masks.

    Reference: Sattarzadeh et al., *Explaining Convolutional Neural Networks through
    Attribution-Based Input Sampling and Block-Wise Feature Aggregation*, AAAI 2021,
    https://arxiv.org/abs/2010.00672.

    Args:
        forward_func: The model, or any function of the inputs that returns a tensor (N, ...).
            Only a `torch.nn.Module` can have its layers chosen.
        layers: The layers, shallow to deep, as modules or names, or a single one (an
            `nn.Sequential` is one layer; list its parts to have several). By default those of
            `captum_excon.select_layers`, chosen at the first call for each input shape (a trace on
            an empty batch or, for models that cannot take one, on one row) and logged at INFO
            level.
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

    @without_layer_maps_in_noise
    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]
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
        rectify: bool = True,
        return_layer_maps: bool = False,
        autocast_dtype: torch.dtype | None = None,
    ) -> Any:
        r"""Computes the SISE maps of a batch.

        Args:
            inputs: Tensor (N, C, \*spatial) with one to three spatial dimensions, or a tuple of
                them, all masked together, each at its own size.
            baselines: What masked-out pixels become, in the model's input space: a number, a
                tensor (1 or N, C, \*spatial) or one broadcastable to it, or a tuple of them; None
                means 0. Black for a normalised image is ``(0 - mean) / std``.
            target: The class, in any form that Captum takes.
            additional_forward_args: As in Captum; tensors with N rows follow their images.
            perturbations_per_eval: Forward rows per batch. By default it is found: it starts
                small, doubles while memory and throughput allow, and halves when memory runs out.
                The result does not depend on it, to float tolerance; set it where runs must be
                equal to the bit.
            show_progress: Show a bar over forward rows.
            attribute_to_layer_input: Use the layers' inputs in place of their outputs.
            threshold: The paper's μ >= 0. Larger keeps fewer masks: 0.3 costs the paper's ResNet-50
                a quarter of the time at equal quality.
            score: Ψ: ``"softmax"`` over dimension 1, ``"sigmoid"`` for independent labels,
                ``"identity"`` for outputs that are scores already, or a callable of the output.
                None means ``"identity"`` for a model of `captum_excon.callable_targets`, and
                ``"softmax"`` for any other.
            fusion: ``"otsu"`` (the paper), ``"soft_otsu"`` (the authors' code), ``"sum"``, or a
                callable that gets the list of layer maps (N, 1, \*spatial), shallow to deep, zero
                where a layer has nothing to say, and returns one map.
            rectify: Set negative activations to zero first.
            return_layer_maps: Also return each layer's map.
            autocast_dtype: Run the scoring passes under autocast, such as `torch.bfloat16`;
                scores are accumulated in float32.

        Returns:
            Attributions of the inputs' shape, dtype and device, equal in all channels, in [0, B]
            for B layers; a tuple for a tuple of inputs. With ``return_layer_maps``, a pair of
            that and the list of the layers' maps, (N, 1, \*spatial) in [0, 1], shallow to deep
            (tuples of them for a tuple of inputs; an empty list for an empty batch).

        Raises:
            AssertionError: A target that does not fit the output, as in Captum.
            ValueError: NaN in inputs or scores, wrong shapes, options, or layers; the message
                names the remedy.
        """
        request = Request(
            inputs,
            baselines,
            target,
            additional_forward_args,
            perturbations_per_eval,
            show_progress,
            score,
            autocast_dtype,
        )
        return self._sise(
            request,
            _above(threshold),
            to_input=attribute_to_layer_input,
            fusion=fusion,
            rectify=rectify,
            return_layer_maps=return_layer_maps,
        )

    def _sise(
        self,
        request: Request,
        select: Callable[[Tensor], Tensor],
        *,
        to_input: bool,
        fusion: Fusion,
        rectify: bool,
        return_layer_maps: bool,
    ) -> Any:
        """SISE with the maps that ``select`` chooses: (..., K) mean gradients to (..., K) bool."""
        check_fusion(fusion)

        def explain(batch: Batch) -> list[list[Maps]]:
            found = capture(
                self.forward_func,
                self._layers(batch.inputs, batch.args),
                batch.inputs,
                batch.args,
                [functools.partial(r.differentiable, image=batch.index) for r in batch.readouts],
                to_input=to_input,
            )
            keep = [select(weights) for weights in found.weights]
            maps = [m.relu() if rectify else m for m in found.maps]
            results = _score_and_fuse(batch, maps, keep, fusion)
            return results if return_layer_maps else [[fused] for fused, *_ in results]

        return self._run(request, explain, extras=return_layer_maps)


def _above(threshold: float) -> Callable[[Tensor], Tensor]:
    if not isinstance(threshold, (int, float)) or not threshold >= 0:
        raise ValueError(f"threshold must be a number >= 0, but found {threshold!r}")
    return functools.partial(select_fixed, threshold=threshold)


def _score_and_fuse(
    batch: Batch, maps: list[Tensor], keep: list[Tensor], fusion: Fusion
) -> list[list[Maps]]:
    """Scores the union of the targets' masks, and combines and fuses them for each target.

    Args:
        batch: N images and T readouts.
        maps: For each layer (N, K, *spatial).
        keep: For each layer (T, N, K) bool.
        fusion: As in `fuse`.

    Returns:
        For each target the fused map and the layers' maps.
    """
    masks = FeatureMasks(maps, [k.any(0) for k in keep], batch.sizes)
    scores = batch.score(masks)
    kept = torch.cat([k[:, n, c] for k, (n, c) in zip(keep, masks.index, strict=True)], dim=1)
    saliency: list[list[list[Tensor]]] = [[] for _ in batch.readouts]
    present: list[list[list[Tensor]]] = [[] for _ in batch.readouts]
    for i, (size, area) in enumerate(zip(batch.sizes, masks.areas(), strict=True)):
        # The mean over masks is left a sum: the maps are scaled to [0, 1] next.
        summed = masks.combine(torch.where(area > 0, scores / area, 0.0) * kept, i)
        for t in range(len(batch.readouts)):
            scaled = [minmax(resize(v[t].unsqueeze(1), size)) for v in summed]
            saliency[t].append([v for v, _ in scaled])
            present[t].append([p for _, p in scaled])
    results = []
    for layer_maps, here in zip(saliency, present, strict=True):
        fused = tuple(fuse(v, p, fusion) for v, p in zip(layer_maps, here, strict=True))
        results.append([fused, *zip(*layer_maps, strict=True)])
    return results
