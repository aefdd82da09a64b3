"""A model's modes and state around a call: compiled code run uncompiled, buffers put back."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

import torch
from torch import nn

from captum_excon._messages import warn
from captum_excon.attr._core.captum import ForwardFunc

_stances = threading.Lock()
_eager_users = 0
_eager_stack = contextlib.ExitStack()


@contextlib.contextmanager
def eager() -> Iterator[None]:
    """Runs compiled code uncompiled, since compiled graphs ignore hooks silently.

    The stance of `torch.compiler` is global: the first of several threads sets it and the last
    resets it.
    """
    global _eager_users
    if "torch._dynamo.eval_frame" not in sys.modules:
        yield
        return
    with _stances:
        if _eager_users == 0:
            _eager_stack.enter_context(torch.compiler.set_stance("force_eager"))
        _eager_users += 1
    try:
        yield
    finally:
        with _stances:
            _eager_users -= 1
            if _eager_users == 0:
                _eager_stack.close()


@contextlib.contextmanager
def preserved_state(forward_func: ForwardFunc) -> Iterator[None]:
    """Restores the buffers and the random state that a model in training mode changes."""
    model = forward_func if isinstance(forward_func, nn.Module) else None
    training = [] if model is None else [m for m in model.modules() if m.training]
    if model is None or not training:
        yield
        return
    unsteady = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
    if any(isinstance(module, unsteady) for module in training):
        warn(
            "the model is in training mode: dropout and batch norm make the maps random and "
            "dependent on the other images of the batch; call model.eval() first"
        )
    saved = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    tensors = [*model.parameters(), *model.buffers()]
    devices = {t.device.index for t in tensors if t.device.type == "cuda"}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        devices.add(torch.cuda.current_device())
    try:
        with torch.random.fork_rng(devices=sorted(devices)):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in saved:
                buffer.copy_(value)
