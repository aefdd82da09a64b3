"""Grad-CAM of every layer, averaged over views of the image."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from captum_excon.attr._core.batching import is_out_of_memory
from captum_excon.attr._core.capture import Capture, HookedLayer
from captum_excon.attr._core.fusion import positive
from captum_excon.attr._core.layer_maps import LayerMaps, gradient_maps
from captum_excon.attr._core.masks import resize
from captum_excon.attr._core.scoring import Batch, Readout

logger = logging.getLogger(__name__)

# What None stands for, as far as the model takes images of these sizes.
_SCALES = (1.0, 1.5)


def check_scales(scales: Sequence[float] | None) -> None:
    """Raises ValueError unless all are positive numbers and 1 is the first."""
    if scales is None:
        return
    numbers = all(isinstance(s, (int, float)) and 0 < s < float("inf") for s in scales)
    if not scales or not numbers or scales[0] != 1:
        raise ValueError(
            f"scales must be positive numbers of which the first is 1, but found {scales!r}"
        )


def viewed_maps(
    batch: Batch,
    layers: list[HookedLayer],
    *,
    scales: Sequence[float] | None,
    mirror: bool,
    to_input: bool,
) -> tuple[Capture, list[list[LayerMaps]]]:
    """Returns the capture of the images as they are, and the layers' maps over all views.

    The views are the images at each scale and, with ``mirror``, with their last dimension reversed;
    each view's maps are scaled to a maximum of 1, then added. An output with positions of its own,
    which targets index, has only the image itself as its view.
    """
    found, dims = _captured(batch, layers, to_input)
    views = [gradient_maps(found.maps, found.weights, batch.sizes)]
    if dims <= 2:
        if mirror:
            mirrored = replace(batch, inputs=tuple(x.flip(-1) for x in batch.inputs))
            other, _ = _captured(mirrored, layers, to_input)
            views.append(gradient_maps(other.maps, other.weights, batch.sizes, mirrored=True))
        for scale in (scales or _SCALES)[1:]:
            if scaled := _at_scale(batch, layers, scale, to_input, needed=scales is not None):
                views.append(gradient_maps(scaled.maps, scaled.weights, batch.sizes))
    return found, [
        [_added(maps) for maps in zip(*per_input, strict=True)]
        for per_input in zip(*views, strict=True)
    ]


def _captured(batch: Batch, layers: list[HookedLayer], to_input: bool) -> tuple[Capture, int]:
    dims = []

    def score(output: Tensor, image: Tensor, readout: Readout) -> Tensor:
        dims.append(output.dim())
        return readout.raw(output, image)

    scores = [functools.partial(score, readout=readout) for readout in batch.readouts]
    return batch.capture(layers, scores, to_input=to_input), max(dims, default=0)


def _at_scale(
    batch: Batch, layers: list[HookedLayer], scale: float, to_input: bool, *, needed: bool
) -> Capture | None:
    inputs = tuple(
        resize(x, [max(1, round(scale * length)) for length in x.shape[2:]]) for x in batch.inputs
    )
    try:
        return _captured(replace(batch, inputs=inputs), layers, to_input)[0]
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        if needed or is_out_of_memory(error):
            raise
        logger.info("no view at %g times the size, which the model refuses: %s", scale, error)
        return None


def _added(views: tuple[LayerMaps, ...]) -> LayerMaps:
    sums = [torch.stack(layer).sum(0) for layer in zip(*(v.maps for v in views), strict=True)]
    scaled = [positive(total) for total in sums]
    return LayerMaps([v for v, _ in scaled], [p for _, p in scaled])
