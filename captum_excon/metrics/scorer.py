"""Scores of perturbed images: rows of all images and steps fill every forward pass."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor

from captum_excon.attr._core.batching import check_batch_size, run_in_batches
from captum_excon.attr._core.captum import (
    ForwardFunc,
    Target,
    check_targets,
    format_args,
    run_forward,
)
from captum_excon.attr._core.modes import preserved_state
from captum_excon.attr._core.scoring import (
    Readout,
    Score,
    memory_format_of,
    settle_score,
    without_ddp,
)
from captum_excon.metrics._maps import check_images

if TYPE_CHECKING:
    from typing_extensions import Unpack

# On the CPU small batches cost least: 3 rows of 224 × 224 RGB took half the time per row that 16
# took with EfficientNet-Lite0. Elsewhere a batch should keep the device busy.
_CPU_ROWS, _CPU_ELEMENTS = 64, 2**19
_ROWS, _ELEMENTS = 128, 2**24

# From the rows' images and their places among an image's rows, (R,) each, to (R, C, H, W).
Build = Callable[[Tensor, Tensor], Tensor]


class Scoring(TypedDict, total=False):
    """The keyword arguments of `Scorer`, which every metric that asks a model takes as well."""

    target: Target
    score: Score | None
    additional_forward_args: Any
    batch_size: int | None


class Scorer:
    """Scores images by a model, and keeps the scores of the unchanged ones.

    Every metric that asks a model takes a scorer in the model's place, so that several metrics of
    the same images score the unchanged ones once.

    Every forward pass has the same number of rows, the last one filled up with copies. Kernels are
    chosen by shape, so an image's scores do not depend on the other images; another batch size
    changes them in the last bits. An ambient `torch.autocast` is left to the model; everything else
    is computed in the images' precision.

    Args:
        forward_func: The model, or any function of the images that returns a tensor (N, ...).
        images: (N, C, H, W), as the model expects them.
        target: The class, in any form that Captum takes; None for the class that the model predicts
            for the unchanged image.
        score: How the output becomes scores: ``"softmax"``, ``"sigmoid"``, ``"identity"`` or a
            callable; None for ``"softmax"``, or for ``"identity"`` if the model emits scores, as
            that of `callable_targets` does.
        additional_forward_args: As in Captum.
        batch_size: Rows per forward pass; found from the images' size by default.

    Attributes:
        images: The images, (N, C, H, W).
        original: The scores of the unchanged images, (N,).

    Example:
        >>> from captum_excon.metrics import deletion, insertion
        >>> image = torch.tensor([[[[4.0, 3.0], [2.0, 1.0]]]])
        >>> scorer = Scorer(lambda x: x.sum((2, 3)), image, score="identity")
        >>> deletion(scorer, image, image[:, 0], steps=4)
        tensor([3.7500])
        >>> insertion(scorer, image, image[:, 0], fill=0.0, steps=4)
        tensor([6.2500])
    """

    def __init__(
        self,
        forward_func: ForwardFunc,
        images: Tensor,
        *,
        target: Target = None,
        score: Score | None = None,
        additional_forward_args: Any = None,
        batch_size: int | None = None,
    ) -> None:
        check_images(images)
        score = settle_score(score, forward_func)
        check_targets([target], len(images))
        check_batch_size("batch_size", batch_size)
        self.forward_func = without_ddp(forward_func)
        self.images = images.detach()
        self.args = format_args(additional_forward_args, len(images))
        self.batch_size = batch_size
        self.readout = Readout(target, score)
        self.original = self._score_originals()

    def score(self, rows_per_image: int, build: Build) -> Tensor:
        """Scores ``rows_per_image`` rows for each image, (N, rows_per_image)."""
        rows = len(self.images) * rows_per_image
        scores = self._empty(rows)

        def keep(start: int, output: Tensor, image: Tensor) -> None:
            scores[start : start + len(output)] = self.readout.value(output, image)

        self._run(rows, rows_per_image, build, keep)
        return self._checked(scores).view(len(self.images), rows_per_image)

    def expand(self, count: int) -> Scorer:
        """Returns the scorer of ``count`` copies of its one image, whose score is known.

        So several maps of one image fill the same forward passes.
        """
        if len(self.images) != 1:
            raise ValueError(f"only one image can be expanded, but there are {len(self.images)}")
        first = torch.zeros(count, dtype=torch.long, device=self.images.device)
        copies = copy.copy(self)
        copies.images = self.images.expand(count, *self.images.shape[1:])
        copies.args = self.args.take(first)
        copies.readout = self.readout.take(first)
        copies.original = self.original.expand(count)
        return copies

    def _score_originals(self) -> Tensor:
        """Scores the unchanged images, (N,), and settles the target if there is none."""
        count = len(self.images)
        scores = self._empty(count)
        predicted = torch.zeros(count, dtype=torch.long, device=self.images.device)
        unsettled = self.readout.target is None

        def keep(start: int, output: Tensor, image: Tensor) -> None:
            if unsettled and output.dim() > 1 and output[0].numel() > 1:
                if output.dim() != 2:
                    raise ValueError(
                        f"the output of shape {tuple(output.shape)} has no single predicted class; "
                        "pass a target"
                    )
                predicted[start : start + len(output)] = output.argmax(1)
                self.readout = replace(self.readout, target=predicted)
            scores[start : start + len(output)] = self.readout.value(output, image)

        self._run(count, 1, lambda image, step: self.images[image], keep)
        return self._checked(scores)

    def _run(
        self,
        rows: int,
        rows_per_image: int,
        build: Build,
        keep: Callable[[int, Tensor, Tensor], None],
    ) -> None:
        if rows == 0:
            return
        device = self.images.device
        size = self.batch_size or default_rows(self.images)
        layout = memory_format_of(self.forward_func, self.images)

        def step(start: int, stop: int) -> None:
            if start >= rows:
                return
            row = torch.arange(start, min(stop, rows), device=device)
            image = row // rows_per_image
            with torch.autocast(device.type, enabled=False):
                batch = _fill_up(build(image, row % rows_per_image), stop - start)
            output = run_forward(
                self.forward_func,
                (batch.contiguous(memory_format=layout),),
                self.args.take(_fill_up(image, stop - start)).values,
            )
            with torch.autocast(device.type, enabled=False):
                keep(start, output[: len(row)], image)

        with torch.inference_mode(), preserved_state(self.forward_func):
            run_in_batches(-(-rows // size) * size, step, (self.images,), size)

    def _empty(self, rows: int) -> Tensor:
        dtype = torch.promote_types(self.images.dtype, torch.float32)
        return torch.zeros(rows, dtype=dtype, device=self.images.device)

    def _checked(self, scores: Tensor) -> Tensor:
        if not bool(scores.isfinite().all()):
            raise ValueError(
                "the model returned NaN or infinite scores for perturbed images; check its "
                "weights, and its inputs' range and normalisation"
            )
        return scores


def scorer_of(
    forward_func: ForwardFunc | Scorer, images: Tensor, **scoring: Unpack[Scoring]
) -> Scorer:
    """Returns the scorer that stands in the model's place, or makes one of the model."""
    if not isinstance(forward_func, Scorer):
        return Scorer(forward_func, images, **scoring)
    if scoring:
        raise ValueError(
            f"{', '.join(sorted(scoring))} cannot be given beside a Scorer, which has its own; "
            "pass them to Scorer(...)"
        )
    known = forward_func.images
    if images is not known and not (images.shape == known.shape and bool((images == known).all())):
        raise ValueError(
            "these are not the images of the Scorer; pass scorer.images, or make a Scorer of them"
        )
    return forward_func


def default_rows(images: Tensor) -> int:
    """Rows per forward pass from the images' size and device alone, so that runs repeat."""
    cpu = images.device.type == "cpu"
    most, elements = (_CPU_ROWS, _CPU_ELEMENTS) if cpu else (_ROWS, _ELEMENTS)
    return max(1, min(most, elements // images.shape[1:].numel()))


def _fill_up(rows: Tensor, count: int) -> Tensor:
    """Repeats the last row until there are ``count``."""
    if len(rows) == count:
        return rows
    return torch.cat([rows, rows[-1:].expand(count - len(rows), *rows.shape[1:])])
