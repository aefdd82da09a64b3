"""The model that a pytorch-grad-cam class gets to see: modules of its own on shared weights.

grad-cam forces a model into evaluation mode, hooks it for as long as the CAM object lives, adds to
the gradients of its parameters, and AblationCAM replaces one of its modules meanwhile. On a copy
none of that reaches the user's model, whatever is raised and whichever threads use it.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_excon.attr._core.captum import run_forward
from captum_excon.attr._core.capture import HookedLayer, Reshape
from captum_excon.layers._trace import registration
from captum_excon.targets import CallableTargets

HALF = (torch.float16, torch.bfloat16)
_PASSES = 3


class ObservedModel(nn.Module):
    """A frozen copy of the model with one input, whose layers' outputs start the graph.

    So nothing before the layers is kept for the backward pass, frozen weights do no harm, and an
    operation that writes in place behind a layer does not change what was seen of it.

    grad-cam would take a layer's first call; it hooks probes instead, each called with what its
    layer's last call returns. That there are several shows only at the end of a pass, which is then
    made again.

    ``args`` gives the model's further arguments for a number of rows. Before the first call,
    ``differentiable`` says whether gradients are wanted, and ``forget`` drops what was recorded.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[HookedLayer],
        args: Callable[[int], tuple[Any, ...]],
        images: Tensor,
    ) -> None:
        super().__init__()
        # The first parameter tells grad-cam the device, also where the model has none.
        self.device = nn.Parameter(images.new_empty(0), requires_grad=False)
        self.model, copies = _frozen_copy(model, layers)
        self.probes = nn.ModuleList(nn.Identity() for _ in layers)
        self.differentiable = False
        self.forget: Callable[[], None] = lambda: None
        self.output_dims = 0
        self._args = args
        self._names = [layer.name for layer in layers]
        self._reshape = _common_reshape(layers)
        self._map_dims = images.dim()
        self._recording = False
        self._calls = [0] * len(layers)
        self._last_calls = [1] * len(layers)
        self._handles = [
            copied.register_forward_hook(functools.partial(self._observe, i))
            for i, copied in enumerate(copies)
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Runs the copy on any number of rows."""
        self._recording = self.differentiable and torch.is_grad_enabled()
        args = (_at_least_float32(a) if isinstance(a, Tensor) else a for a in self._args(len(x)))
        output = self._run(x, tuple(args))
        self.output_dims = output.dim()
        if self._recording and not output.requires_grad:
            raise RuntimeError(
                f"the model's output does not depend differentiably on {self._names}; choose other "
                "layers, or remove no_grad, inference_mode and detach from the code behind them"
            )
        # ShapleyCAM differentiates gradients, which depend on nothing behind a linear head: with
        # the weights frozen, autograd would refuse.
        return output * torch.ones_like(output, requires_grad=True) if self._recording else output

    def as_map(self, output: Any) -> Tensor:
        """The reshape_transform that grad-cam gets: the user's, with its result checked."""
        maps = output if self._reshape is None else self._reshape(output)
        if not isinstance(maps, Tensor) or maps.dim() != self._map_dims:
            found = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            raise ValueError(
                f"the layers {self._names} give {found}, not a feature map (N, C, *spatial) "
                f"with the {self._map_dims} dimensions of the inputs; for tokens pass "
                "reshape_transform=, for instance captum_excon.tokens_to_map(height, width)"
            )
        return maps.contiguous()

    def release(self) -> None:
        """Lets go of what holds the model in turn."""
        self.forget = lambda: None
        for handle in self._handles:
            handle.remove()

    def _run(self, x: Tensor, args: tuple[Any, ...]) -> Tensor:
        for _ in range(_PASSES):
            self._calls = [0] * len(self._calls)
            # The model may write into its inputs, and the pass may have to be made again.
            output = run_forward(self.model, (x.clone(),), args)
            unseen = [n for n, calls in zip(self._names, self._calls, strict=True) if calls == 0]
            if unseen:
                raise ValueError(
                    f"the layers {unseen} were not seen in the forward pass; pass modules that the "
                    "model calls"
                )
            if self._calls == self._last_calls:
                return output
            self._last_calls = self._calls
            self.forget()
        raise ValueError(
            f"the model calls {self._names} another number of times in each pass, so that there is "
            "no last call to look at; choose other layers"
        )

    def _observe(self, i: int, _layer: nn.Module, _args: Any, output: Any) -> Any:
        self._calls[i] += 1
        if self._calls[i] != self._last_calls[i]:
            return None
        if self._recording and isinstance(output, Tensor):
            # Here too where the model itself has switched gradients off around its first layers.
            torch.set_grad_enabled(True)
            # Never a view of something else: grad-cam detaches it in place when it is done.
            output = output.clone() if output.requires_grad else output.detach().requires_grad_()
        # By its place, since AblationCAM replaces it.
        output = self.probes[i](output)
        # What follows may write to it in place.
        return output.clone() if isinstance(output, Tensor) else None


def _frozen_copy(
    model: nn.Module, layers: Sequence[HookedLayer]
) -> tuple[nn.Module, list[nn.Module]]:
    """Copies the modules, not the tensors, which no longer require gradients."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in (*module._parameters.values(), *module._buffers.values()):
            if value is not None:
                shared = _at_least_float32(value.detach())
                is_parameter = isinstance(value, nn.Parameter)
                memo[id(value)] = nn.Parameter(shared, False) if is_parameter else shared
        for value in vars(module).values():
            if isinstance(value, Tensor):
                memo[id(value)] = _at_least_float32(value.detach())
        if isinstance(module, CallableTargets):
            memo[id(module.targets)] = module.targets
    with registration:
        try:
            copied = copy.deepcopy(model, memo)
        except Exception as error:
            raise TypeError(
                "grad-cam's classes run on a copy of the model's modules, but this model cannot be "
                f"copied by copy.deepcopy ({error}); keep what cannot be copied outside its modules"
            ) from error
    missing = [layer.name for layer in layers if id(layer.module) not in memo]
    if missing:
        raise ValueError(
            f"the layers {missing} are not part of the model; pass its own modules or their names"
        )
    return copied, [memo[id(layer.module)] for layer in layers]


def _at_least_float32(tensor: Tensor) -> Tensor:
    # numpy, in which grad-cam computes, has no bfloat16, and little use for float16.
    return tensor.float() if tensor.dtype in HALF else tensor


def _common_reshape(layers: Sequence[HookedLayer]) -> Reshape | None:
    found: list[Callable[[Tensor], Tensor] | None] = [layer.reshape for layer in layers]
    if any(reshape is not found[0] for reshape in found):
        raise ValueError(
            f"grad-cam has one reshape_transform for all layers, but {[x.name for x in layers]} "
            "need different ones; aggregate layers of one kind, or pass reshape_transform="
        )
    return found[0] if found else None
