"""Activations and gradients of many layers: one forward pass, one backward pass."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from captum_excon.attr._core.captum import ForwardArgs, ForwardFunc, run_forward
from captum_excon.attr._core.modes import eager
from captum_excon.layers import unwrap
from captum_excon.layers._trace import registration

Reshape = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class HookedLayer:
    """A layer, its name in messages, and how its output or input becomes (N, C, *spatial)."""

    module: nn.Module
    name: str
    reshape: Reshape | None = None
    call: int | None = None  # which of the module's calls in a pass counts; None: the last
    reshape_input: Reshape | None = None


@dataclass(frozen=True)
class Capture:
    """What one hooked pass found at each layer; no weights without scores."""

    maps: list[Tensor]  # activations (N, K, *spatial), detached
    weights: list[Tensor]  # spatial means of the scores' gradients, (scores, N, K), >= float32
    calls: list[int]  # how often the layer was called


def capture(
    forward_func: ForwardFunc,
    layers: Sequence[HookedLayer],
    inputs: tuple[Tensor, ...],
    args: ForwardArgs,
    scores: Sequence[Callable[[Tensor], Tensor]],
    *,
    to_input: bool = False,
    grad_kwargs: dict[str, Any] | None = None,
    calls: Sequence[int] | None = None,
) -> Capture:
    """Runs the model once and differentiates each score for all layers at once.

    The forward pass runs without gradients until the first layer's hook switches them on: at the
    layer's first call, or at its last if ``calls`` says how often an earlier pass called each.
    Compiled models run uncompiled, data-parallel ones on their module.

    Each of ``scores`` turns the output into (N,) scores; without any there is no backward pass.
    ``to_input`` captures the layers' inputs; ``grad_kwargs`` are for `torch.autograd.grad`.
    """
    if isinstance(forward_func, nn.Module):
        forward_func = unwrap(forward_func)
    if to_input:
        layers = [replace(layer, reshape=layer.reshape_input) for layer in layers]
    with eager(), torch.inference_mode(False):
        # A model that sets the grad mode itself (a no_grad block around its backbone) undoes what
        # the first layer's hook set, and one that calls a layer less often than before never
        # reaches that hook; both run once more with gradients on from the start.
        for recorded_from_start in (False, True):
            keep = _Keeper(layers, calls or [1] * len(layers), enable_grad=bool(scores))
            with _hooks(layers, to_input, keep), torch.set_grad_enabled(recorded_from_start):
                # The model may write to its inputs, and autograd refuses inference tensors.
                copies = tuple(x.clone() for x in inputs)
                output = _run(forward_func, copies, args)
                # An ambient autocast is for the model, not for the scores and the backward pass.
                with torch.autocast(inputs[0].device.type, enabled=False):
                    selected = [score(output) for score in scores]
            tensors = keep.all()
            with torch.autocast(inputs[0].device.type, enabled=False):
                grads, without = _gradients(selected, tensors, grad_kwargs or {})
            if not without:
                break
        else:
            names = [layers[i].name for i in without]
            if any(s.requires_grad for s in selected):
                raise ValueError(
                    f"the layers {names} have no influence on the selected output; leave them out"
                )
            raise RuntimeError(
                f"the model's output does not depend differentiably on {names}; remove no_grad, "
                "inference_mode and .detach() from what follows these layers in its forward"
            )
    maps = [_as_map(t.detach(), layer, inputs) for t, layer in zip(tensors, layers, strict=True)]
    weights = [
        torch.stack([_spatial_mean(_as_map(g, layer, inputs)) for g in per_score])
        for per_score, layer in zip(grads, layers, strict=True)
        if scores
    ]
    if not all(bool(torch.isfinite(w).all()) for w in weights):
        raise ValueError(
            "the scores' gradients are NaN or infinite; check the model's weights, and explain in "
            "float32 where float16 overflows"
        )
    return Capture(maps, weights, keep.calls)


def _run(forward_func: ForwardFunc, inputs: tuple[Tensor, ...], args: ForwardArgs) -> Tensor:
    values = (v.clone() if isinstance(v, Tensor) and v.is_inference() else v for v in args.values)
    try:
        return run_forward(forward_func, inputs, tuple(values))
    except RuntimeError as error:
        if "Inference tensors cannot be saved for backward" not in str(error):
            raise
        raise ValueError(
            "the model's parameters or buffers were made under torch.inference_mode and have no "
            "gradients; make the model outside of it, or pass copy.deepcopy(model)"
        ) from error


def _gradients(
    scores: list[Tensor], tensors: list[Tensor], grad_kwargs: dict[str, Any]
) -> tuple[list[list[Tensor]], list[int]]:
    """Returns each layer's gradient of each score, and which layers no score depends on."""
    grads: list[list[Tensor]] = [[] for _ in tensors]
    connected = [not scores] * len(tensors)
    for i, score in enumerate(scores):
        options = {"retain_graph": i + 1 < len(scores), "allow_unused": True, **grad_kwargs}
        found: Sequence[Tensor | None] = [None] * len(tensors)
        if score.requires_grad:
            found = torch.autograd.grad(score.sum(), tensors, **options)
        for j, grad in enumerate(found):
            connected[j] |= grad is not None
            grads[j].append(torch.zeros_like(tensors[j]) if grad is None else grad.detach())
    return grads, [j for j, yes in enumerate(connected) if not yes]


def _spatial_mean(grad: Tensor) -> Tensor:
    grad = grad.to(torch.promote_types(grad.dtype, torch.float32))
    return grad.flatten(2).mean(2) if grad.dim() > 2 else grad


def _as_map(tensor: Tensor, layer: HookedLayer, inputs: tuple[Tensor, ...]) -> Tensor:
    shape = tuple(tensor.shape)
    if layer.reshape is not None:
        tensor = layer.reshape(tensor)
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"reshape_transform must return a tensor, but returned {type(tensor).__name__}"
            )
    ranks = {2, *(x.dim() for x in inputs)}
    if tensor.shape[:1] != inputs[0].shape[:1] or tensor.dim() not in ranks:
        after = "" if layer.reshape is None else f" ({tuple(tensor.shape)} after reshape_transform)"
        raise ValueError(
            f"the layer {layer.name!r} gives a tensor of shape {shape}{after}, not a feature map "
            f"(N, C, *spatial) for inputs of shape {tuple(inputs[0].shape)}; for tokens pass "
            "reshape_transform=, such as captum_excon.tokens_to_map(height, width)"
        )
    return tensor


class _Keeper:
    """Keeps the tensors of the calls that count and switches gradients on there."""

    def __init__(
        self, layers: Sequence[HookedLayer], expected: Sequence[int], *, enable_grad: bool
    ) -> None:
        self.calls = [0] * len(layers)
        self._layers = layers
        self._expected = expected
        self._enable_grad = enable_grad
        self._held: dict[int, Tensor] = {}

    def __call__(self, i: int, tensor: Tensor) -> Tensor:
        layer, call = self._layers[i], self.calls[i]
        self.calls[i] += 1
        if layer.call is not None and call != layer.call:
            return tensor
        if not tensor.is_floating_point():
            raise TypeError(
                f"the layer {layer.name!r} carries {tensor.dtype} values, which have no gradient; "
                "choose a layer of floating-point activations"
            )
        counts = layer.call is not None or self.calls[i] >= self._expected[i]
        if self._enable_grad and (counts or torch.is_grad_enabled()):
            torch.set_grad_enabled(True)
            if not tensor.requires_grad:
                tensor = tensor.detach().requires_grad_()
        self._held[i] = tensor
        # The copy goes on through the model: what follows may overwrite it in place.
        return tensor.clone()

    def all(self) -> list[Tensor]:
        for i, layer in enumerate(self._layers):
            if i not in self._held:
                raise ValueError(
                    f"the layer {layer.name!r} was not seen in the forward pass; pass a module "
                    "that the model calls, not one of another model, a copy or a scripted model"
                )
        return [self._held[i] for i in range(len(self._layers))]


@contextlib.contextmanager
def _hooks(
    layers: Sequence[HookedLayer], to_input: bool, keep: Callable[[int, Tensor], Tensor]
) -> Iterator[None]:
    """Hooks the layers for the calling thread alone."""
    owner = threading.get_ident()

    def on_input(i: int) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if threading.get_ident() != owner:
                return None
            if args and isinstance(args[0], Tensor):
                return (keep(i, args[0]), *args[1:]), kwargs
            for key, value in kwargs.items():
                if isinstance(value, Tensor):
                    return args, {**kwargs, key: keep(i, value)}
            raise _no_single_tensor(layers[i], "input")

        return hook

    def on_output(i: int) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if threading.get_ident() != owner:
                return None
            if isinstance(output, Tensor):
                return keep(i, output)
            if type(output) in (tuple, list) and len(output) == 1 and isinstance(output[0], Tensor):
                return type(output)((keep(i, output[0]),))
            raise _no_single_tensor(layers[i], "output")

        return hook

    handles = []
    try:
        with registration:
            for i, layer in enumerate(layers):
                if to_input:
                    hook = layer.module.register_forward_pre_hook(on_input(i), with_kwargs=True)
                else:
                    hook = layer.module.register_forward_hook(on_output(i))
                handles.append(hook)
        yield
    finally:
        with registration:
            for handle in handles:
                handle.remove()


def _no_single_tensor(layer: HookedLayer, side: str) -> TypeError:
    other = "output" if side == "input" else "input"
    return TypeError(
        f"the layer {layer.name!r} has no single tensor as its {side}; choose one of its "
        f"submodules, or its {other} (attribute_to_layer_input={side == 'output'})"
    )
