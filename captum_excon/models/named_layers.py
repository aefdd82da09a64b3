"""The layers of a model by name, or as `select_layers` chooses them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from captum_excon._messages import close_names, one_line
from captum_excon.errors import UserError
from captum_excon.layers import SelectedLayer, select_layers, tokens_to_map
from captum_excon.models.model import Model

Reshape = Callable[[Tensor], Tensor]


def reshape_for(tokens: tuple[int, int] | None) -> Reshape | None:
    """Returns what turns (N, T, C) tokens of height x width patches into maps, None for None."""
    if tokens is None:
        return None
    height, width = tokens

    def reshape(tensor: Tensor) -> Tensor:
        # Whatever precedes the patches is not part of the picture.
        leading = tensor.shape[1] - height * width if tensor.dim() == 3 else 0
        return tokens_to_map(height, width, max(leading, 0))(tensor)

    return reshape


def choose_layers(model: Model, names: str, reshape: Reshape | None) -> list[SelectedLayer]:
    """Returns the layers that ``names`` asks for ("auto", or names with commas), as executed.

    Raises:
        UserError: A layer does not exist, does not run, or emits no map.
    """
    try:
        chosen = select_layers(model.module, model.blank(), reshape_transform=reshape)
    except Exception as error:  # the model's own, too
        if names == "auto":
            raise UserError(
                f"no layers found in {model.name}; pass --layers, for tokens also --tokens, or use "
                f"--method rise, which needs none ({one_line(error)})"
            ) from error
        chosen = []
    if names == "auto":
        return chosen
    modules = dict(model.module.named_modules())
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    for name in sorted(wanted - modules.keys()):
        raise UserError(f"--layers: {model.name} has no layer {name!r}{close_names(name, modules)}")
    known = {layer.name: layer for layer in chosen}
    outputs = _outputs(model, {name: modules[name] for name in wanted})
    for name in sorted(wanted - outputs.keys()):
        raise UserError(f"--layers: {name!r} does not run when {model.name} is called")
    if wanted - known.keys() and any(layer.channels_last for layer in chosen):
        raise UserError(
            f"--layers: {model.name} moves its channels, so only its chosen layers can be named: "
            f"{', '.join(known)}"
        )
    return [
        known.get(name) or _as_layer(name, modules[name], output, reshape)
        for name, output in outputs.items()
    ]


def _outputs(model: Model, modules: dict[str, nn.Module]) -> dict[str, Any]:
    """Returns what the modules emit, in the order of their last calls."""
    found: dict[str, Any] = {}

    def keep(name: str, module: nn.Module, args: Any, output: Any) -> None:
        found.pop(name, None)
        found[name] = output

    handles = [m.register_forward_hook(partial(keep, name)) for name, m in modules.items()]
    try:
        model.probabilities(model.blank())
    finally:
        for handle in handles:
            handle.remove()
    return found


def _as_layer(name: str, module: nn.Module, output: Any, reshape: Reshape | None) -> SelectedLayer:
    if not isinstance(output, Tensor):
        raise UserError(f"--layers: {name!r} emits {type(output).__name__}, where a map is needed")
    try:
        maps = output if reshape is None else reshape(output)
        _, channels, height, width = maps.shape
    except ValueError as error:
        raise UserError(
            f"--layers: {name!r} emits {tuple(output.shape)} and no map (N, C, height, width); for "
            "tokens (N, T, C) pass --tokens HxW, the number of patches"
        ) from error
    return SelectedLayer(name, module, channels, (height, width), channels_last=False)
