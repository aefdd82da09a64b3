"""One model, its layers and some methods: images explained for the command line."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import Attribution, LayerAttribution
from PIL import Image
from torch import Tensor, nn

from captum_excon._images import UserError, close_names, one_line
from captum_excon._models import Model
from captum_excon.layers import SelectedLayer, select_layers, tokens_to_map

Reshape = Callable[[Tensor], Tensor]


def reshape_for(tokens: tuple[int, int] | None) -> Reshape | None:
    """Returns what turns (N, T, C) tokens of height x width patches into maps, None for None."""
    if tokens is None:
        return None
    height, width = tokens

    def reshape(tensor: Tensor) -> Tensor:
        # Whatever precedes the patches is no part of the picture.
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

    def hook(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            found.pop(name, None)
            found[name] = output

        return keep

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
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


class _Counted(nn.Module):
    """A model that counts the rows it is given; a hook cannot, on a TorchScript module."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.rows = 0
        self.masked = 0
        self.train(model.training)

    def forward(self, inputs: Tensor) -> Any:
        self.rows += len(inputs)
        # Masked inputs alone are scored in inference mode: what is differentiated cannot be.
        self.masked += len(inputs) * torch.is_inference_mode_enabled()
        return self.model(inputs)


@dataclass(frozen=True)
class Explanation:
    """What one method found in one image.

    Attributes:
        method: Its name.
        saliency: The map at the input's resolution, (H, W), float32, on the CPU.
        layer_maps: The maps of the layers, by name, if asked for.
        layers: The layers that it used.
        masks: How many masked inputs it scored, None for methods that mask nothing.
        forward_rows: How many rows the model was given.
        seconds: How long it took.
    """

    method: str
    saliency: Tensor
    layer_maps: dict[str, Tensor]
    layers: list[str]
    masks: int | None
    forward_rows: int
    seconds: float


@dataclass(frozen=True)
class Explained:
    """One image: its input (1, C, H, W), the classes' probabilities, the target, the maps."""

    inputs: Tensor
    probabilities: Tensor
    target: int
    explanations: list[Explanation]


class Job:
    """One model and the methods to explain it with, checked before the first image.

    Args:
        model: The model.
        methods: Attribution classes by name.
        layers: "auto" or names with commas.
        target: "auto" (each image's most probable class), an index or a label.
        options: Keywords for `attribute`; a method gets those that it has.
        reshape: See `reshape_for`.

    Raises:
        UserError: The model does not classify, or a layer or the target is wrong.
    """

    def __init__(
        self,
        model: Model,
        methods: dict[str, type[Attribution]],
        layers: str,
        target: str,
        options: dict[str, Any],
        reshape: Reshape | None,
    ) -> None:
        self.model, self.methods, self.options, self.reshape = model, methods, options, reshape
        blank = model.blank()
        self.size = tuple(blank.shape[2:])
        classes = len(model.probabilities(blank))
        self.target = None if target == "auto" else model.class_index(target, classes)
        needed = any(
            {"layer", "layers"} & inspect.signature(method).parameters.keys()
            for method in methods.values()
        )
        self.layers = choose_layers(model, layers, reshape) if needed else []

    def explain(self, image: Image.Image) -> Explained:
        """Explains one image by every method."""
        inputs = self.model.inputs(image)
        probabilities = self.model.probabilities(inputs)
        target = int(probabilities.argmax()) if self.target is None else self.target
        explanations = [self._explain(name, inputs, target) for name in self.methods]
        return Explained(inputs, probabilities, target, explanations)

    def _explain(self, name: str, inputs: Tensor, target: int) -> Explanation:
        counted = _Counted(self.model.module)
        method, used = self._construct(self.methods[name], counted)
        accepted = inspect.signature(method.attribute).parameters
        keywords = {key: value for key, value in self.options.items() if key in accepted}
        if "n_steps" in accepted:  # a path starts at black, which is not zero after normalisation
            keywords["baselines"] = self.model.black()
        began = time.perf_counter()
        found = method.attribute(inputs, target=target, **keywords)
        found, per_layer = found if isinstance(found, tuple) else (found, [])
        if found.shape[2:] != inputs.shape[2:]:
            found = LayerAttribution.interpolate(found, inputs.shape[2:], "bilinear")
        return Explanation(
            name,
            found.detach().float().mean((0, 1)).cpu(),
            {name: maps[0, 0].float().cpu() for name, maps in zip(used, per_layer, strict=False)},
            used,
            counted.masked or None,
            counted.rows,
            time.perf_counter() - began,
        )

    def _construct(
        self, method: type[Attribution], model: nn.Module
    ) -> tuple[Attribution, list[str]]:
        """Returns the method for the model, with the names of the layers it takes."""
        parameters = inspect.signature(method).parameters
        arguments: dict[str, Any] = {}
        used = self.layers
        if "layers" in parameters:
            arguments["layers"] = used
        elif "layer" in parameters:
            used = used[-1:]
            # Captum's own classes take nothing but modules.
            arguments["layer"] = used[0] if used[0].channels_last else used[0].module
        else:
            used = []
        if self.reshape is not None and "reshape_transform" in parameters:
            arguments["reshape_transform"] = self.reshape
        return method(model, **arguments), [layer.name for layer in used]
