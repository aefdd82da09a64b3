"""Runs a model once under a `Trace`, and leaves it as it was."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from captum_excon.layers._trace import ReshapeTransform, Trace, registration, tensors_in


def row_counts(
    model: nn.Module, rows: int, reshape_transform: ReshapeTransform | None
) -> list[int]:
    """Returns the numbers of rows to try, the cheapest first."""
    if any(module.training for module in model.modules()):
        if rows == 0:
            raise ValueError(
                "An empty batch would spoil the statistics of a model in training mode: call "
                "model.eval(), or pass example_inputs with rows."
            )
        return [rows]
    # On no elements every reshape succeeds, so a transform needs a row to tell maps from others.
    return [0] if rows == 0 else [1] if reshape_transform else [0, 1]


def first_rows(value: Any, rows: int, count: int) -> Any:
    if isinstance(value, Tensor) and value.ndim > 0 and len(value) == rows:
        return value.detach()[:count]
    return value


def run_traced(
    model: nn.Module, args: list[Any], image: int, reshape_transform: ReshapeTransform | None
) -> Trace:
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(reshape_transform is not None))
        stack.enter_context(_state_kept(model, args))
        # Inference tensors cannot require gradients, nor can leaves that do be written to.
        args = [value.clone() if isinstance(value, Tensor) else value for value in args]
        if reshape_transform is not None and args[image].is_floating_point():
            args[image] = args[image].requires_grad_().clone()
        trace = Trace(args[image], reshape_transform)
        with registration:
            for name, module in model.named_modules():
                if isinstance(module, torch.jit.ScriptModule):
                    continue  # They take no hooks.
                before = functools.partial(trace.before, name)
                stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(trace.after).remove)
        stack.enter_context(trace)
        model(*args)
    return trace


@contextmanager
def _state_kept(model: nn.Module, args: list[Any]) -> Iterator[None]:
    """Puts the random state and the model's buffers back afterwards."""
    tensors = [*tensors_in(args), *model.parameters(), *model.buffers()]
    devices = {tensor.get_device() for tensor in tensors if tensor.is_cuda}
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    with torch.random.fork_rng(sorted(devices)):
        try:
            yield
        finally:
            for module, name, buffer, before in buffers:
                # Nothing is written where nothing changed: other threads may be reading, and to a
                # graph that waits for its backward pass every write is a change.
                if module._buffers[name] is not buffer:
                    module._buffers[name] = buffer
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
