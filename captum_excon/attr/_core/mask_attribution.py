"""What methods at the inputs' size share: from Captum's arguments to batches, and back."""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import PerturbationAttribution
from torch import Tensor

from captum_excon.attr._core.batching import check_batch_size, run_in_batches
from captum_excon.attr._core.captum import (
    Classes,
    ClassesAttribution,
    ForwardFunc,
    Inputs,
    Target,
    check_targets,
    format_args,
    format_baselines,
    format_inputs,
)
from captum_excon.attr._core.capture import Reshape
from captum_excon.attr._core.layers import Layer, LayerChoice
from captum_excon.attr._core.masks import warn_of_empty
from captum_excon.attr._core.modes import preserved_state
from captum_excon.attr._core.scoring import Batch, Readout, Score, progress_bar, settle_score

# One saliency map (N, 1, *spatial) for each input tensor.
Maps = tuple[Tensor, ...]


@dataclass(frozen=True)
class Scoring:
    """How images are scored: options of `attribute`, checked."""

    score: Score | None = None
    perturbations_per_eval: int | None = None
    show_progress: bool = False
    autocast_dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.autocast_dtype not in (None, torch.bfloat16, torch.float16):
            raise ValueError(
                "autocast_dtype must be torch.bfloat16, torch.float16 or None, but found "
                f"{self.autocast_dtype!r}"
            )
        check_batch_size("perturbations_per_eval", self.perturbations_per_eval)


@dataclass(frozen=True)
class Request:
    """The arguments that `attribute` of every method takes, under its names for them."""

    inputs: Inputs
    baselines: Any
    target: Target | Classes
    additional_forward_args: Any
    scoring: Scoring


class ImageAttribution(ClassesAttribution):
    """Base of the methods whose maps have the inputs' size.

    A method implements its idea as a function of a `Batch` of images that returns, for each
    target, a list of maps: the attribution first, then whatever else it was asked for. Its
    ``attribute`` hands that function and the `Request` to `_run`.
    """

    # Why a map may be all zero, for the warning.
    _empty: str

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "attribute" in vars(cls):
            # NoiseTunnel, which cannot average layer maps, calls the function inside the log.
            cls.attribute.__wrapped__ = _without_layer_maps(cls.attribute.__wrapped__)

    def _run(
        self, request: Request, explain: Callable[[Batch], list[list[Maps]]], extras: bool = False
    ) -> Any:
        """Returns what `attribute` returns; with ``extras`` paired with the list of other maps."""
        scoring = request.scoring
        score = settle_score(scoring.score, self.forward_func)
        inputs = format_inputs(request.inputs, spatial=True)
        baselines = format_baselines(request.baselines, inputs)
        rows = len(inputs[0])
        if len({x.dim() for x in inputs}) > 1:
            raise ValueError(
                "inputs must have the same number of spatial dimensions, but found "
                f"{[tuple(x.shape) for x in inputs]}; pass the others as additional_forward_args"
            )
        several = isinstance(request.target, Classes)
        targets = list(request.target) if isinstance(request.target, Classes) else [request.target]
        check_targets(targets, rows)
        done: list[list[list[Maps]]] = []  # a batch's maps of each target
        with (
            preserved_state(self.forward_func),
            contextlib.closing(progress_bar(type(self).__name__, scoring.show_progress)) as bar,
        ):
            images = Batch(
                self.forward_func,
                inputs,
                baselines,
                format_args(request.additional_forward_args, rows),
                [Readout(target, score) for target in targets],
                scoring.perturbations_per_eval,
                scoring.autocast_dtype,
                bar,
            )

            def step(start: int, stop: int) -> None:
                done.append(explain(images.rows(start, stop)))

            run_in_batches(rows, step, inputs, grow=False, first=16)
        results = []
        for t in range(len(targets)):
            # Without images there are no maps, and no telling how many layers have one.
            kinds = zip(*(batch[t] for batch in done), strict=True)
            whole = [tuple(map(torch.cat, zip(*parts, strict=True))) for parts in kinds]
            first, *others = whole or [tuple(map(torch.empty_like, inputs))]
            warn_of_empty(first, type(self).__name__, self._empty)
            first = tuple(
                m.to(x.dtype).expand_as(x).contiguous() for m, x in zip(first, inputs, strict=True)
            )
            others = [
                tuple(m.to(x.dtype) for m, x in zip(maps, inputs, strict=True)) for maps in others
            ]
            pick: Any = tuple if isinstance(request.inputs, tuple) else operator.itemgetter(0)
            results.append((pick(first), list(map(pick, others))) if extras else pick(first))
        return results if several else results[0]


class MaskAttribution(ImageAttribution, PerturbationAttribution):
    """Base of the methods that score masked images."""

    _empty = (
        "no mask makes a difference to the score (for SISE, of the feature maps with a positive "
        "gradient); explain another target, choose other layers, or lower the threshold"
    )


class LayeredAttribution(ImageAttribution):
    """Base of the methods that fuse the maps of several layers; its constructor is theirs."""

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


def _without_layer_maps(attribute: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(attribute)
    def unlogged(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("return_layer_maps"):
            raise ValueError(
                "NoiseTunnel cannot average layer maps; leave out return_layer_maps, or call "
                "attribute on noisy copies of the images"
            )
        return attribute(*args, **kwargs)

    return unlogged
