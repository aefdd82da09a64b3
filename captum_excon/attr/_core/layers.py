"""The layers of a method: as they are given, or as they are chosen for the inputs."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from captum_excon.attr._core.captum import ForwardArgs, ForwardFunc, run_forward
from captum_excon.attr._core.capture import HookedLayer, Reshape
from captum_excon.attr._core.modes import eager
from captum_excon.layers import SelectedLayer, channels_last_to_first, select_layers, unwrap
from captum_excon.layers._run import row_counts
from captum_excon.layers._trace import registration

logger = logging.getLogger(__name__)

Layer = nn.Module | str | SelectedLayer
_NO_ARGS = ForwardArgs()


def resolve_layers(
    forward_func: ForwardFunc, layers: Sequence[Layer], reshape: Reshape | None
) -> list[HookedLayer]:
    """Looks up layers given as modules, names, or results of `select_layers`."""
    model = unwrap(forward_func) if isinstance(forward_func, nn.Module) else None
    if not layers:
        raise ValueError("layers is empty; pass at least one module, or None to let them be chosen")
    names = {} if model is None else {module: name for name, module in model.named_modules()}
    resolved = []
    for layer in layers:
        if isinstance(model, torch.jit.ScriptModule) or isinstance(layer, torch.jit.ScriptModule):
            raise ValueError(
                "a scripted model's layers cannot be hooked; pass the original module, or use RISE"
            )
        if isinstance(layer, str):
            if model is None:
                raise ValueError(
                    f"forward_func is not a torch.nn.Module, so the layer {layer!r} has no name in "
                    "it; pass the module itself"
                )
            try:
                layer = model.get_submodule(layer)
            except AttributeError as error:
                raise ValueError(
                    f"{error}; captum_excon.select_layers(model, inputs) lists good layers"
                ) from None
        elif isinstance(layer, SelectedLayer):
            resolved.append(_from_selection(layer, reshape))
            continue
        elif not isinstance(layer, nn.Module):
            raise TypeError(
                f"a layer must be a torch.nn.Module or its name, but found {type(layer).__name__}"
            )
        layer = unwrap(layer)
        name = names.get(layer) or type(layer).__name__
        resolved.append(HookedLayer(layer, name, reshape, reshape_input=reshape))
    return resolved


def listed(layers: Layer | Iterable[Layer]) -> list[Layer]:
    """Returns the layers as a list; a module is one layer, even an `nn.Sequential`."""
    if isinstance(layers, nn.ModuleList) or (
        isinstance(layers, Iterable) and not isinstance(layers, (nn.Module, str))
    ):
        return list(layers)
    return [layers]


class LayerChoice:
    """The layers of a method: those given, or `captum_excon.select_layers` for each input shape.

    A small image may have fewer blocks than a large one.
    """

    def __init__(
        self,
        forward_func: ForwardFunc,
        layers: Layer | Iterable[Layer] | None,
        reshape: Reshape | None,
        *,
        deepest: bool = False,
    ) -> None:
        self._forward_func = forward_func
        self._reshape = reshape
        self._deepest = deepest
        self._given = (
            None if layers is None else resolve_layers(forward_func, listed(layers), reshape)
        )
        self._settled: dict[tuple[torch.Size, ...], list[HookedLayer]] = {}

    def __call__(
        self, inputs: tuple[Tensor, ...], args: ForwardArgs = _NO_ARGS
    ) -> list[HookedLayer]:
        """Returns the layers for these inputs."""
        key = tuple(x.shape[1:] for x in inputs)
        if key not in self._settled:
            layers = self._choose(inputs, args) if self._given is None else self._given
            self._settled[key] = _with_own_calls(self._forward_func, layers, inputs, args)
        return self._settled[key]

    def _choose(self, inputs: tuple[Tensor, ...], args: ForwardArgs) -> list[HookedLayer]:
        if not isinstance(self._forward_func, nn.Module):
            kind = type(self._forward_func).__name__
            raise ValueError(f"a {kind} has no layers to choose from; pass the layers")
        inputs, args = _unambiguous(inputs, args)
        with eager():
            selected = select_layers(
                self._forward_func, inputs, args.values, reshape_transform=self._reshape
            )
        selected = selected[-1:] if self._deepest else selected
        logger.info("layers: %s", ", ".join(layer.name for layer in selected))
        return [_from_selection(layer, self._reshape) for layer in selected]


def _unambiguous(
    inputs: tuple[Tensor, ...], args: ForwardArgs
) -> tuple[tuple[Tensor, ...], ForwardArgs]:
    """Returns the first rows, but not as many as a shared tensor: `select_layers` would cut it."""
    shared = {
        len(value)
        for value, rowwise in zip(args.values, args.per_image, strict=True)
        if not rowwise and isinstance(value, Tensor) and value.dim() > 0
    }
    rows = next((n for n in range(len(inputs[0]), 0, -1) if n not in shared), len(inputs[0]))
    at = torch.arange(rows, device=inputs[0].device)
    return tuple(x[:rows] for x in inputs), args.take(at)


def _from_selection(layer: SelectedLayer, reshape: Reshape | None) -> HookedLayer:
    at_output, at_input = (
        channels_last_to_first if reshape is None and channels_last else reshape
        for channels_last in (layer.channels_last, layer.input_channels_last)
    )
    return HookedLayer(layer.module, layer.name, at_output, reshape_input=at_input)


def _with_own_calls(
    forward_func: ForwardFunc,
    layers: list[HookedLayer],
    inputs: tuple[Tensor, ...],
    args: ForwardArgs,
) -> list[HookedLayer]:
    """Finds which call of a layer sees the inputs, if an additional argument has its own.

    A siamese network sends two images through one encoder, one after the other.

    Raises:
        ValueError: Several inputs have calls of their own.
    """
    if len(inputs) == 1 and not any(isinstance(a, Tensor) and a.dim() > 2 for a in args.values):
        return layers
    chosen = []
    inputs_of_calls = _inputs_of_calls(forward_func, layers, inputs, args)
    for layer, calls in zip(layers, inputs_of_calls, strict=True):
        last = max((i for i, found in enumerate(calls) if found), default=None)
        if last is not None and calls[last] != set().union(*calls):
            raise ValueError(
                f"the layer {layer.name!r} is called for each input separately; explain one input "
                "at a time, with the others as additional_forward_args, or choose a layer that "
                "works on all of them"
            )
        chosen.append(layer if last == len(calls) - 1 else replace(layer, call=last))
    return chosen


def _inputs_of_calls(
    forward_func: ForwardFunc,
    layers: list[HookedLayer],
    inputs: tuple[Tensor, ...],
    args: ForwardArgs,
) -> list[list[set[int]]]:
    """Returns for each call of each layer which inputs it depends on."""
    model = unwrap(forward_func) if isinstance(forward_func, nn.Module) else forward_func
    rows = len(inputs[0])
    tries = row_counts(model, rows, layers[0].reshape) if isinstance(model, nn.Module) else [0, 1]
    found: list[list[set[int]]] = []
    for count in tries:
        found = [[] for _ in layers]
        at = torch.arange(count, device=inputs[0].device)
        with eager(), torch.inference_mode(False), torch.enable_grad(), ExitStack() as stack:
            leaves = [x[:count].clone().requires_grad_() for x in inputs]
            hook = functools.partial(_note_inputs, leaves, threading.get_ident())
            with registration:
                for layer, calls in zip(layers, found, strict=True):
                    handle = layer.module.register_forward_hook(functools.partial(hook, calls))
                    stack.callback(handle.remove)
            try:
                # The model may write to its inputs, which leaves forbid.
                run_forward(model, tuple(x.clone() for x in leaves), args.take(at).values)
            except Exception:
                if count > 0 or rows == 0:  # many models take no empty batch
                    raise
                continue
        break
    return found


def _note_inputs(
    leaves: list[Tensor], owner: int, calls: list[set[int]], module: nn.Module, _: Any, output: Any
) -> None:
    if threading.get_ident() != owner:
        return
    outputs = output if isinstance(output, (tuple, list)) else [output]
    sums = [t.sum() for t in outputs if isinstance(t, Tensor) and t.requires_grad]
    grads: Sequence[Tensor | None] = ()
    if sums:
        grads = torch.autograd.grad(sums, leaves, allow_unused=True, retain_graph=True)
    calls.append({i for i, grad in enumerate(grads) if grad is not None})
