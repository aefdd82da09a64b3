"""One model, its layers and some methods: images explained for the command line."""

from __future__ import annotations

import inspect
import time
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import Attribution, LayerAttribution
from PIL import Image
from torch import Tensor, nn

from captum_excon.models import Model
from captum_excon.models.named_layers import Reshape, choose_layers


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
