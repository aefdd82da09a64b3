"""What methods at the inputs' size share: from Captum's arguments to batches, and back."""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import Attribution, PerturbationAttribution
from torch import Tensor

from captum_excon.attr._batching import check_batch_size, run_in_batches
from captum_excon.attr._captum import (
    Classes,
    Inputs,
    Target,
    check_targets,
    format_args,
    format_baselines,
    format_inputs,
)
from captum_excon.attr._masks import warn_of_empty
from captum_excon.attr._modes import preserved_state
from captum_excon.attr._scoring import (
    Batch,
    Readout,
    Score,
    check_autocast,
    progress_bar,
    settle_score,
)

# One saliency map (N, 1, *spatial) for each input tensor.
Maps = tuple[Tensor, ...]


@dataclass(frozen=True)
class Request:
    """The arguments that `attribute` of every method takes, under its names for them."""

    inputs: Inputs
    baselines: Any
    target: Target | Classes
    additional_forward_args: Any
    perturbations_per_eval: int | None
    show_progress: bool
    score: Score | None
    autocast_dtype: torch.dtype | None


class ImageAttribution(Attribution):
    """Base of the methods whose maps have the inputs' size.

    A method implements its idea as a function of a `Batch` of images that returns, for each
    target, a list of maps: the attribution first, then whatever else it was asked for. Its
    ``attribute`` hands that function and the `Request` to `_run`.
    """

    # Why a map may be all zero, for the warning.
    _empty: str

    def _run(
        self,
        request: Request,
        explain: Callable[[Batch], list[list[Maps]]],
        *,
        extras: bool = False,
    ) -> Any:
        """Returns what `attribute` returns: the attribution, with ``extras`` a pair.

        The second of the pair is the list of the other maps. For `Classes`, a list of these.
        """
        score = settle_score(request.score, self.forward_func)
        check_autocast(request.autocast_dtype)
        check_batch_size("perturbations_per_eval", request.perturbations_per_eval)
        inputs = format_inputs(request.inputs, spatial=True)
        baselines = format_baselines(request.baselines, inputs)
        rows = len(inputs[0])
        if len({x.dim() for x in inputs}) > 1:
            raise ValueError(
                "inputs must have the same number of spatial dimensions to be masked together, "
                f"but found {[tuple(x.shape) for x in inputs]}; pass the others as "
                "additional_forward_args"
            )
        several = isinstance(request.target, Classes)
        targets = list(request.target) if isinstance(request.target, Classes) else [request.target]
        check_targets(targets, rows)
        done: dict[int, list[list[Maps]]] = {}
        with (
            preserved_state(self.forward_func),
            contextlib.closing(progress_bar(type(self).__name__, request.show_progress)) as bar,
        ):
            images = Batch(
                self.forward_func,
                inputs,
                baselines,
                format_args(request.additional_forward_args, rows),
                [Readout(target, score) for target in targets],
                request.perturbations_per_eval,
                request.autocast_dtype,
                bar,
            )

            def step(start: int, stop: int) -> None:
                done[start] = explain(images.rows(start, stop))

            run_in_batches(rows, step, inputs, grow=False, first=16)
        results = []
        for t in range(len(targets)):
            # No image says how many layers there are, and the maps of no image are no maps.
            kinds = list(zip(*(done[start][t] for start in sorted(done)), strict=True))
            whole = [tuple(map(torch.cat, zip(*parts, strict=True))) for parts in kinds]
            first, *others = whole or [tuple(map(torch.empty_like, inputs))]
            warn_of_empty(first, type(self).__name__, self._empty)
            # One channel stands for all of an input's.
            first = tuple(
                m.to(x.dtype).expand_as(x).contiguous() for m, x in zip(first, inputs, strict=True)
            )
            others = [
                tuple(m.to(x.dtype) for m, x in zip(maps, inputs, strict=True)) for maps in others
            ]
            pick: Callable[[Maps], Any] = (
                tuple if isinstance(request.inputs, tuple) else operator.itemgetter(0)
            )
            results.append((pick(first), list(map(pick, others))) if extras else pick(first))
        return results if several else results[0]


class MaskAttribution(ImageAttribution, PerturbationAttribution):
    """Base of the methods that score masked images."""

    _empty = (
        "no mask makes a difference to the score (for SISE, of the feature maps with a positive "
        "gradient); explain another target, choose other layers, or lower the threshold"
    )

    def attribute_classes(
        self,
        inputs: Inputs,
        classes: Sequence[Target],
        baselines: Any = None,
        additional_forward_args: Any = None,
        **options: Any,
    ) -> list[Any]:
        """Computes the maps of several classes of each image in one sweep.

        A mask that several classes use is scored once, so any number of classes costs at most one
        forward row for each mask that the method can make.

        Args:
            inputs: As in `attribute`.
            classes: Targets, each in any form that `attribute` takes for the whole batch.
            baselines: As in `attribute`.
            additional_forward_args: As in `attribute`.
            **options: The other keywords of `attribute`.

        Returns:
            For each class what ``attribute(inputs, target=class)`` returns.
        """
        maps: list[Any] = self.attribute(
            inputs, baselines, Classes(classes), additional_forward_args, **options
        )
        return maps


def without_layer_maps_in_noise(attribute: Any) -> Any:
    """Makes a logged ``attribute`` refuse layer maps to `captum.attr.NoiseTunnel`.

    NoiseTunnel averages tensors and would fail on a pair with an error that names no remedy. It
    calls the function that Captum's log wraps, past the log.
    """
    inner = attribute.__wrapped__

    @functools.wraps(inner)
    def unlogged(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("return_layer_maps"):
            raise ValueError(
                "NoiseTunnel averages attributions and cannot average layer maps; leave out "
                "return_layer_maps, or call attribute on noisy copies of the images"
            )
        return inner(*args, **kwargs)

    attribute.__wrapped__ = unlogged
    return attribute
