"""What all masking methods share: from Captum's arguments to batches of images, and back."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from captum.attr import PerturbationAttribution
from torch import Tensor

from captum_excon.attr._batching import check_batch_size, run_in_batches
from captum_excon.attr._captum import (
    Inputs,
    Target,
    check_targets,
    format_args,
    format_baselines,
    format_inputs,
    take_rows,
)
from captum_excon.attr._modes import preserved_state
from captum_excon.attr._scoring import (
    Batch,
    Readout,
    Score,
    check_autocast,
    progress_bar,
    settle_score,
    take_args,
)

# One saliency map (N, 1, *spatial) for each input tensor.
Maps = tuple[Tensor, ...]


class MaskAttribution(PerturbationAttribution):
    """Base of the methods that score masked images.

    A method implements its idea as a function of a `Batch` of images that returns, for each
    target, a list of maps: the attribution first, then whatever else it was asked for. Its
    ``_explain`` hands that function to `_run`, and takes what `attribute` takes with a list of
    targets in place of one.
    """

    _explain: Callable[..., list[Any]]

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
        return self._explain(inputs, list(classes), baselines, additional_forward_args, **options)

    def _run(
        self,
        explain: Callable[[Batch], list[list[Maps]]],
        inputs: Inputs,
        targets: Sequence[Target],
        baselines: Any,
        additional_forward_args: Any,
        *,
        score: Score | None,
        perturbations_per_eval: int | None,
        show_progress: bool,
        autocast_dtype: torch.dtype | None,
    ) -> list[list[Any]]:
        """Returns, for each target, the maps of all images, the first in the inputs' shape."""
        score = settle_score(score, self.forward_func)
        check_autocast(autocast_dtype)
        check_batch_size("perturbations_per_eval", perturbations_per_eval)
        images = format_inputs(inputs, spatial=True)
        references = format_baselines(baselines, images)
        args = format_args(additional_forward_args)
        rows = len(images[0])
        if len({x.dim() for x in images}) > 1:
            raise ValueError(
                "inputs must have the same number of spatial dimensions to be masked together, "
                f"but found {[tuple(x.shape) for x in images]}; pass the others as "
                "additional_forward_args"
            )
        check_targets(targets, rows)
        if rows == 0:
            # No image says how many layers there are, and the maps of no image are no maps.
            empty = tuple(torch.empty_like(x) for x in images)
            return [[empty if isinstance(inputs, tuple) else empty[0]] for _ in targets]
        done: dict[int, list[list[Maps]]] = {}
        with (
            preserved_state(self.forward_func),
            contextlib.closing(progress_bar(type(self).__name__, show_progress)) as bar,
        ):

            def step(start: int, stop: int) -> None:
                at = torch.arange(start, stop, device=images[0].device)
                batch = Batch(
                    self.forward_func,
                    tuple(x[start:stop] for x in images),
                    tuple(b if len(b) == 1 else b[start:stop] for b in references),
                    take_args(args, at, rows),
                    [Readout(take_rows(t, at, rows), score, stop - start) for t in targets],
                    perturbations_per_eval,
                    autocast_dtype,
                    bar,
                )
                done[start] = explain(batch)

            run_in_batches(rows, step, images, grow=False, first=16)
        # done[start][target][kind][input] -> [target][kind][input], all images together
        groups = [done[start] for start in sorted(done)]
        results = []
        for per_target in zip(*groups, strict=True):
            kinds = [
                tuple(torch.cat(parts) for parts in zip(*kind, strict=True))
                for kind in zip(*per_target, strict=True)
            ]
            _warn_of_empty(kinds[0], type(self).__name__)
            kinds[0] = tuple(
                m.to(x.dtype).expand_as(x).contiguous()
                for m, x in zip(kinds[0], images, strict=True)
            )
            kinds[1:] = [
                tuple(m.to(x.dtype) for m, x in zip(kind, images, strict=True))
                for kind in kinds[1:]
            ]
            results.append([kind if isinstance(inputs, tuple) else kind[0] for kind in kinds])
        return results


def _warn_of_empty(maps: Maps, name: str) -> None:
    empty = int((~maps[0].flatten(1).any(1)).sum())
    if empty:
        warnings.warn(
            f"{name}: {empty} of {len(maps[0])} maps are all zero: no mask makes a difference to "
            "the score (for SISE, of the feature maps with a positive gradient); explain another "
            "target, choose other layers, or lower the threshold",
            stacklevel=5,
        )
