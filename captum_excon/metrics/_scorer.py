"""Scores of perturbed images: rows of all images and steps fill every forward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from captum_excon.attr._batching import check_batch_size, run_in_batches
from captum_excon.attr._captum import (
    ForwardFunc,
    Target,
    check_targets,
    format_args,
    run_forward,
)
from captum_excon.attr._modes import preserved_state
from captum_excon.attr._scoring import (
    Readout,
    Score,
    memory_format_of,
    settle_score,
    take_args,
    without_ddp,
)
from captum_excon.metrics._maps import check_images

# On the CPU small batches cost least: 3 rows of 224 × 224 RGB took half the time per row that 16
# took with EfficientNet-Lite0. Elsewhere a batch should keep the device busy.
_CPU_ROWS, _CPU_ELEMENTS = 64, 2**19
_ROWS, _ELEMENTS = 128, 2**24

# From the rows' images and their places among an image's rows, (R,) each, to (R, C, H, W).
Build = Callable[[Tensor, Tensor], Tensor]


class Scorer:
    """Reads one score Ψ per row of a model, for images and for what becomes of them.

    Every forward pass has the same number of rows: a last one that is short is filled up with
    copies, whose scores are thrown away. Kernels are chosen by shape, so an image's scores then
    depend neither on how many images a call has nor on which ones. Other batch sizes change them
    in the last bits.

    Args:
        forward_func: The model or a function that returns a tensor (N, ...).
        images: (N, C, H, W).
        target: As in Captum; None for the class that the model predicts for the unchanged image.
        score: What turns the model's output into scores.
        additional_forward_args: As in Captum.
        batch_size: Rows per forward pass; by default as many as `default_rows` says.
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
        self.args = format_args(additional_forward_args)
        self.batch_size = batch_size
        self.readout = Readout(target, score, len(images))
        self.original = self._score_originals()

    def __call__(self, rows_per_image: int, build: Build) -> Tensor:
        """Scores of ``rows_per_image`` rows for each image, (N, rows_per_image)."""
        rows = len(self.images) * rows_per_image
        scores = self._empty(rows)

        def keep(start: int, output: Tensor, image: Tensor) -> None:
            scores[start : start + len(output)] = self.readout.value(output, image)

        self._run(rows, rows_per_image, build, keep)
        return self._checked(scores).view(len(self.images), rows_per_image)

    def _score_originals(self) -> Tensor:
        """Scores of the unchanged images, (N,); settles the target where there is none."""
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
            batch = _fill_up(build(image, row % rows_per_image), stop - start)
            output = run_forward(
                self.forward_func,
                (batch.contiguous(memory_format=layout),),
                take_args(self.args, _fill_up(image, stop - start), len(self.images)),
            )
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
