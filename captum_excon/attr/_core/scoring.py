"""Scores of masked inputs: the one hot loop."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_excon.attr._core.batching import run_in_batches
from captum_excon.attr._core.captum import (
    ForwardArgs,
    ForwardFunc,
    Target,
    run_forward,
    select_target,
    take_targets,
)
from captum_excon.attr._core.capture import Capture, HookedLayer, capture
from captum_excon.layers import unwrap

Score = Literal["softmax", "sigmoid", "identity"] | Callable[[Tensor], Tensor]


def settle_score(score: Score | None, forward_func: ForwardFunc) -> Score:
    """Returns the score, checked; None means the probability.

    The outputs of a model with a true attribute ``emits_scores``, as that of `callable_targets`,
    are used as they are.
    """
    if score is None:
        model = unwrap(forward_func) if isinstance(forward_func, nn.Module) else forward_func
        return "identity" if getattr(model, "emits_scores", False) else "softmax"
    if not callable(score) and score not in ("softmax", "sigmoid", "identity"):
        raise ValueError(
            f"score must be 'softmax', 'sigmoid', 'identity' or a callable, but found {score!r}"
        )
    return score


@dataclass(frozen=True)
class Readout:
    """Ψ: how one score per row is read from the model's output."""

    target: Target
    score: Score

    def take(self, index: Tensor) -> Readout:
        """Returns the readout of the images ``index``, (R,)."""
        return replace(self, target=take_targets(self.target, index))

    def value(self, output: Tensor, image: Tensor) -> Tensor:
        """Scores Ψ of rows that stem from the images ``image``: (R, ...) -> (R,)."""
        if self.score == "softmax":
            output = _needs_classes(output).softmax(1)
        elif self.score == "sigmoid":
            output = output.sigmoid()
        return self.raw(output, image)

    def raw(self, output: Tensor, image: Tensor) -> Tensor:
        """What Grad-CAM differentiates: the output itself, or a callable's score."""
        if callable(self.score):
            output = _called(self.score, output)
        return select_target(output, take_targets(self.target, image))

    def differentiable(self, output: Tensor, image: Tensor) -> Tensor:
        """Scores whose gradients are those of Ψ up to one positive factor per row.

        Selection depends only on ratios within an image. The log-odds log(p / (1 - p)) have the
        gradient of p divided by p (1 - p): the same ratios, which do not vanish where p rounds to
        0 or 1.
        """
        if self.score == "softmax":
            output = _log_odds(_needs_classes(output))
        return self.raw(output, image)


def _called(score: Callable[[Tensor], Tensor], output: Tensor) -> Tensor:
    scores = score(output)
    if not isinstance(scores, Tensor) or scores.shape[:1] != output.shape[:1]:
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(
            "a score callable must return a tensor with as many rows as the model's output, "
            f"but returned {found} for shape {tuple(output.shape)}"
        )
    return scores


def _needs_classes(output: Tensor) -> Tensor:
    if output.dim() < 2 or output.shape[1] < 2:
        raise ValueError(
            "score='softmax' needs outputs (N, classes, ...) of at least two classes, but found "
            f"shape {tuple(output.shape)}; pass score='sigmoid' for a single logit or independent "
            "labels, or score='identity' for outputs that are scores already"
        )
    return output


def _log_odds(logits: Tensor) -> Tensor:
    """log(p / (1 - p)) of p = softmax(logits, 1), exact for p near 1."""
    top = logits.argmax(1, keepdim=True)
    others = logits.scatter(1, top, -torch.inf)
    total = logits.logsumexp(1, keepdim=True)
    log_rest = total + torch.log1p(-(others - total).exp())
    log_rest = log_rest.scatter(1, top, others.logsumexp(1, keepdim=True))
    return logits - log_rest


class MaskSource(Protocol):
    """Rows of masks, made on demand."""

    image: Tensor  # the image that each row masks, (R,)

    def masks(self, start: int, stop: int) -> tuple[Tensor, ...]:
        """Masks in [0, 1] of rows ``start`` to ``stop``, (rows, 1, *spatial) for each input."""


@dataclass(frozen=True)
class Batch:
    """N images and what it takes to score masks of them."""

    forward_func: ForwardFunc
    inputs: tuple[Tensor, ...]  # (N, C, *spatial)
    baselines: tuple[Tensor, ...]  # what masked-out pixels become, 1 or N rows for each input
    args: ForwardArgs
    readouts: Sequence[Readout]  # T ways to read a score from the output
    batch_size: int | None  # forward rows per batch; None to find it
    autocast_dtype: torch.dtype | None  # of the scoring passes
    progress: tqdm[Any]  # counts forward rows

    @property
    def sizes(self) -> list[tuple[int, ...]]:
        """The inputs' spatial sizes."""
        return [tuple(x.shape[2:]) for x in self.inputs]

    @property
    def index(self) -> Tensor:
        """The images' numbers, (N,)."""
        return torch.arange(len(self.inputs[0]), device=self.inputs[0].device)

    def rows(self, start: int, stop: int) -> Batch:
        """Returns the images ``start`` to ``stop``."""
        at = self.index[start:stop]
        return replace(
            self,
            inputs=tuple(x[start:stop] for x in self.inputs),
            baselines=tuple(b if len(b) == 1 else b[start:stop] for b in self.baselines),
            args=self.args.take(at),
            readouts=[readout.take(at) for readout in self.readouts],
        )

    def capture(
        self,
        layers: Sequence[HookedLayer],
        scores: Sequence[Callable[..., Tensor]],
        *,
        to_input: bool,
    ) -> Capture:
        """Runs the hooked pass; scores take the output and the images' numbers."""
        bound = [functools.partial(score, image=self.index) for score in scores]
        return capture(self.forward_func, layers, self.inputs, self.args, bound, to_input=to_input)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.inputs[0].device.type, dtype=self.autocast_dtype)

    def score(self, source: MaskSource) -> Tensor:
        """Returns Ψ(m ⊙ x + (1 - m) ⊙ b) of every readout and mask, (T, R).

        Rows fill every forward batch across images and layers; memory is that of one batch.

        Raises:
            ValueError: A score is NaN or infinite.
        """
        image = source.image
        forward_func = without_ddp(self.forward_func)
        layout = memory_format_of(forward_func, self.inputs[0])
        dtype = torch.promote_types(self.inputs[0].dtype, torch.float32)
        scores = torch.empty(
            len(self.readouts), len(image), dtype=dtype, device=self.inputs[0].device
        )
        self.progress.total = self.progress.n + len(image)

        def step(start: int, stop: int) -> None:
            at = image[start:stop]
            masked = tuple(
                _blend(x, b, m, at).contiguous(memory_format=layout)
                for x, b, m in zip(
                    self.inputs, self.baselines, source.masks(start, stop), strict=True
                )
            )
            with self._autocast():
                output = run_forward(forward_func, masked, self.args.take(at).values)
            with torch.autocast(self.inputs[0].device.type, enabled=False):
                for t, readout in enumerate(self.readouts):
                    scores[t, start:stop] = readout.value(output, at)
            self.progress.update(stop - start)

        with torch.inference_mode():
            run_in_batches(len(image), step, self.inputs, self.batch_size)
        if not bool(torch.isfinite(scores).all()):
            raise ValueError(
                "the model returned NaN or infinite scores for masked inputs; check its weights, "
                "try other baselines, and do not use float16 where it overflows (autocast_dtype)"
            )
        return scores


def progress_bar(name: str, show: bool, total: int | None = None) -> tqdm[Any]:
    """A bar over forward rows, silent unless ``show``."""
    return tqdm(total=total, desc=name, unit="row", disable=not show, leave=False)


def without_ddp(forward_func: ForwardFunc) -> ForwardFunc:
    """Unwraps a model whose forward would wait for ranks that have other numbers of rows."""
    if isinstance(forward_func, nn.parallel.DistributedDataParallel):
        return cast(ForwardFunc, forward_func.module)
    inside = forward_func.modules() if isinstance(forward_func, nn.Module) else ()
    if any(isinstance(module, nn.parallel.DistributedDataParallel) for module in inside):
        raise ValueError(
            "the model contains a DistributedDataParallel module, whose forward would wait for "
            "ranks that have other numbers of rows; put its .module there"
        )
    return forward_func


def _blend(x: Tensor, baseline: Tensor, mask: Tensor, image: Tensor) -> Tensor:
    kept = x[image]
    if len(baseline) == len(x) and len(x) > 1:
        baseline = baseline[image]
    return torch.lerp(baseline.expand_as(kept), kept, mask.to(x.dtype))


def memory_format_of(forward_func: ForwardFunc, x: Tensor) -> torch.memory_format:
    """channels_last for a model whose filters are: mixed layouts cost a copy in each layer."""
    tensors = [x, *forward_func.parameters()] if isinstance(forward_func, nn.Module) else [x]
    for tensor in tensors:
        for dim, layout in ((4, torch.channels_last), (5, torch.channels_last_3d)):
            if x.dim() != dim or tensor.dim() != dim or tensor.is_contiguous():
                continue
            if tensor.is_contiguous(memory_format=layout):
                return layout
    return torch.contiguous_format
