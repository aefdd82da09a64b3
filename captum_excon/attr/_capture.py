"""Activations and gradients of many layers: one forward pass, one backward pass."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captum_excon.attr._captum import ForwardArgs, ForwardFunc, run_forward
from captum_excon.attr._modes import eager
from captum_excon.layers import SelectedLayer, channels_last_to_first, select_layers, unwrap
from captum_excon.layers._trace import registration

logger = logging.getLogger(__name__)

Reshape = Callable[[Tensor], Tensor]
Layer = nn.Module | str | SelectedLayer
_NO_ARGS = ForwardArgs()


@dataclass(frozen=True)
class HookedLayer:
    """A layer, its name in messages, and how its output becomes (N, C, *spatial)."""

    module: nn.Module
    name: str
    reshape: Reshape | None = None


@dataclass(frozen=True)
class Capture:
    """What one hooked pass found.

    Attributes:
        maps: For each layer its activations, (N, K, *spatial), detached.
        weights: For each layer the spatial means of the gradients of each score with respect to
            them, (scores, N, K), in float32 or wider; empty without scores.
    """

    maps: list[Tensor]
    weights: list[Tensor]


def resolve_layers(
    forward_func: ForwardFunc, layers: Sequence[Layer], reshape: Reshape | None
) -> list[HookedLayer]:
    """Looks up layers given by module, by name, or as `select_layers` returns them."""
    model = unwrap(forward_func) if isinstance(forward_func, nn.Module) else None
    if not layers:
        raise ValueError("layers is empty; pass at least one module, or None to let them be chosen")
    names = {} if model is None else {module: name for name, module in model.named_modules()}
    resolved = []
    for layer in layers:
        if isinstance(model, torch.jit.ScriptModule) or isinstance(layer, torch.jit.ScriptModule):
            raise ValueError(
                "the layers of a scripted model cannot be observed; pass the original module, or "
                "use RISE, which needs no layer"
            )
        if isinstance(layer, str):
            if model is None:
                raise ValueError(
                    f"the layer {layer!r} cannot be looked up by name because forward_func is no "
                    "torch.nn.Module; pass the module itself"
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
        resolved.append(HookedLayer(layer, names.get(layer) or type(layer).__name__, reshape))
    return resolved


def listed(layers: Layer | Iterable[Layer]) -> list[Layer]:
    """Returns the layers as a list: a module is one layer, also an `nn.Sequential` of several."""
    if isinstance(layers, nn.ModuleList) or (
        isinstance(layers, Iterable) and not isinstance(layers, (nn.Module, str))
    ):
        return list(layers)
    return [layers]


class LayerChoice:
    """The layers of a method: those it was given, or those chosen for the inputs it meets.

    The choice depends on the inputs' shape (a small image loses a block), so it is made once for
    each; see `captum_excon.select_layers`.
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
        self._chosen: dict[tuple[torch.Size, ...], list[HookedLayer]] = {}

    def __call__(
        self, inputs: tuple[Tensor, ...], args: ForwardArgs = _NO_ARGS
    ) -> list[HookedLayer]:
        """Returns the layers for these inputs, the deepest alone where one is wanted."""
        if self._given is not None:
            return self._given
        key = tuple(x.shape[1:] for x in inputs)
        if key not in self._chosen:
            if not isinstance(self._forward_func, nn.Module):
                raise ValueError(
                    "layers can only be chosen for a torch.nn.Module, and forward_func is a "
                    f"{type(self._forward_func).__name__}; pass the layers"
                )
            inputs, args = _unambiguous(inputs, args)
            with eager():
                selected = select_layers(
                    self._forward_func, inputs, args.values, reshape_transform=self._reshape
                )
            selected = selected[-1:] if self._deepest else selected
            logger.info("layers: %s", ", ".join(layer.name for layer in selected))
            self._chosen[key] = [_from_selection(layer, self._reshape) for layer in selected]
        return self._chosen[key]


def _unambiguous(
    inputs: tuple[Tensor, ...], args: ForwardArgs
) -> tuple[tuple[Tensor, ...], ForwardArgs]:
    """Returns the first rows, not as many as a shared tensor has: `select_layers` would cut it."""
    shared = {
        len(value)
        for value, rowwise in zip(args.values, args.per_image, strict=True)
        if not rowwise and isinstance(value, Tensor) and value.dim() > 0
    }
    rows = next((n for n in range(len(inputs[0]), 0, -1) if n not in shared), len(inputs[0]))
    at = torch.arange(rows, device=inputs[0].device)
    return tuple(x[:rows] for x in inputs), args.take(at)


def _from_selection(layer: SelectedLayer, reshape: Reshape | None) -> HookedLayer:
    if reshape is None and layer.channels_last:
        reshape = channels_last_to_first
    return HookedLayer(layer.module, layer.name, reshape)


def capture(
    forward_func: ForwardFunc,
    layers: Sequence[HookedLayer],
    inputs: tuple[Tensor, ...],
    args: ForwardArgs,
    scores: Sequence[Callable[[Tensor], Tensor]],
    *,
    to_input: bool = False,
    grad_kwargs: dict[str, Any] | None = None,
) -> Capture:
    """Runs the model once and differentiates each score for all layers at once.

    Nothing before the first layer is recorded for the backward pass: the forward pass runs without
    gradients until that layer's hook switches them on.

    Args:
        forward_func: The model; a compiled one runs uncompiled, a data-parallel one on its module.
        layers: Where to look. Of a module that is called several times the last call counts.
        inputs: Tensors of N rows.
        args: Additional arguments of these rows.
        scores: Functions of the output, each giving (N,) scores; may be empty (no backward pass).
        to_input: Capture the layers' inputs in place of their outputs.
        grad_kwargs: More arguments for `torch.autograd.grad`.

    Raises:
        ValueError: A layer did not run, has no influence on the selected output, or its output
            is no map; gradients are NaN or infinite.
        RuntimeError: The output cannot be differentiated.
    """
    if isinstance(forward_func, nn.Module):
        forward_func = unwrap(forward_func)
    with eager(), torch.inference_mode(False):
        # Where a model sets the grad mode itself, as in a no_grad block around its backbone, it
        # takes back what the first layer's hook has set; it is then run once more, with gradients
        # on from the start.
        for recorded_from_start in (False, True):
            with (
                _hooks(layers, to_input, enable_grad=bool(scores)) as held,
                torch.set_grad_enabled(recorded_from_start),
            ):
                # Copies, since the model may write to its inputs, and since autograd refuses the
                # inference tensors of an outer inference_mode.
                copies = tuple(x.clone() for x in inputs)
                output = _run(forward_func, copies, tuple(map(_normal, args.values)))
                # An ambient autocast is for the model, not for the scores and the backward pass.
                with torch.autocast(inputs[0].device.type, enabled=False):
                    selected = [score(output) for score in scores]
            tensors = _all_held(layers, held)
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
                f"the model's output does not depend differentiably on {names}; remove "
                "torch.no_grad, torch.inference_mode and .detach() from what follows these layers "
                "in the model's forward"
            )
    maps = [_as_map(t.detach(), layer, inputs) for t, layer in zip(tensors, layers, strict=True)]
    if not scores:
        return Capture(maps, [])
    weights = [
        torch.stack([_spatial_mean(_as_map(g, layer, inputs)) for g in per_score])
        for per_score, layer in zip(grads, layers, strict=True)
    ]
    if not all(bool(torch.isfinite(w).all()) for w in weights):
        raise ValueError(
            "the model's scores have NaN or infinite gradients for these inputs; check its weights "
            "and output, and explain in float32 where float16 overflows"
        )
    return Capture(maps, weights)


def _run(forward_func: ForwardFunc, inputs: tuple[Tensor, ...], args: tuple[Any, ...]) -> Tensor:
    try:
        return run_forward(forward_func, inputs, args)
    except RuntimeError as error:
        if "Inference tensors cannot be saved for backward" not in str(error):
            raise
        raise ValueError(
            "the model holds inference tensors, which have no gradients: its parameters or buffers "
            "were made or loaded under torch.inference_mode; make the model outside of it, or pass "
            "copy.deepcopy(model)"
        ) from error


def _normal(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


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
    ranks = {x.dim() for x in inputs}
    if tensor.shape[:1] != inputs[0].shape[:1] or tensor.dim() not in ranks | {2}:
        after = "" if layer.reshape is None else f" ({tuple(tensor.shape)} after reshape_transform)"
        raise ValueError(
            f"the layer {layer.name!r} gives a tensor of shape {shape}{after}, which is no feature "
            f"map (N, C, *spatial) for inputs of shape {tuple(inputs[0].shape)}; for tokens pass "
            "reshape_transform=, for instance captum_excon.tokens_to_map(height, width)"
        )
    return tensor


def _all_held(layers: Sequence[HookedLayer], held: dict[int, Tensor]) -> list[Tensor]:
    for i, layer in enumerate(layers):
        if i not in held:
            raise ValueError(
                f"the layer {layer.name!r} was not seen in the forward pass; pass a module that "
                "the model calls (not one of another model, of a copy, of a scripted model, or one "
                "whose code is inlined by its parent)"
            )
    return [held[i] for i in range(len(layers))]


@contextlib.contextmanager
def _hooks(
    layers: Sequence[HookedLayer], to_input: bool, *, enable_grad: bool
) -> Iterator[dict[int, Tensor]]:
    """Hooks the layers for the calling thread alone, and releases them whatever happens."""
    owner = threading.get_ident()
    held: dict[int, Tensor] = {}

    def keep(i: int, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            raise TypeError(
                f"the layer {layers[i].name!r} carries {tensor.dtype} values, which have no "
                "gradient; choose a layer with floating-point activations"
            )
        if enable_grad:
            torch.set_grad_enabled(True)
            if not tensor.requires_grad:
                tensor = tensor.detach().requires_grad_()
        held[i] = tensor
        # The copy goes on through the model: what follows may overwrite it in place.
        return tensor.clone()

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

    handles: list[torch.utils.hooks.RemovableHandle] = []
    try:
        with registration:
            for i, layer in enumerate(layers):
                handles.append(
                    layer.module.register_forward_pre_hook(on_input(i), with_kwargs=True)
                    if to_input
                    else layer.module.register_forward_hook(on_output(i))
                )
        yield held
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
