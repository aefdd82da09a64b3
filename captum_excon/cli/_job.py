"""One model and some methods: images explained for the command line."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import GradientAttribution, LayerAttribution
from PIL import Image
from torch import Tensor, nn

from captum_excon.layers import SelectedLayer
from captum_excon.methods.registry import Method, takes
from captum_excon.models import Model
from captum_excon.models.named_layers import Reshape, choose_layers
from captum_excon.models.preprocessing import Box


class _Counts:
    """Rows that a model was given, in all and masked."""

    rows = 0
    masked = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> _Counts:
        # pytorch-grad-cam's methods call a copy of the model, whose rows count too.
        return self


class _Counted(nn.Module):
    """A model that counts the rows it is given; a hook cannot, on a TorchScript module."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.counts = _Counts()
        self.train(model.training)

    def forward(self, inputs: Tensor) -> Any:
        self.counts.rows += len(inputs)
        # Masked inputs alone are scored in inference mode: what is differentiated cannot be.
        self.counts.masked += len(inputs) * torch.is_inference_mode_enabled()
        return self.model(inputs)


@dataclass(frozen=True)
class Explanation:
    """What one method found in one image; maps are float32, on the CPU."""

    method: Method
    saliency: list[Tensor]  # for each target, (H, W) as the input
    layer_maps: list[dict[str, Tensor]]  # for each target by the layer's name, if asked for
    layers: list[str]
    masks: int | None  # masked inputs that were scored; None for methods that mask nothing
    forward_rows: int
    seconds: float


@dataclass(frozen=True)
class Explained:
    """One image and its explanations."""

    image: Image.Image
    box: Box  # the part of it that the network saw
    inputs: Tensor  # what the network saw, (1, C, H, W), normalised
    probabilities: Tensor
    targets: list[int]
    explanations: list[Explanation]


class Job:
    """One model and the methods to explain it with, checked before the first image.

    Args:
        model: The model.
        methods: The methods.
        layers: "auto" or names with commas.
        targets: Each "auto" (the image's most probable class), an index or a label.
        options: Keywords for `attribute`; a method gets those that it has.
        reshape: See `reshape_for`.

    Raises:
        UserError: The model does not classify, or a layer or a target is wrong.
    """

    def __init__(
        self,
        model: Model,
        methods: Sequence[Method],
        layers: str,
        targets: Sequence[str],
        options: dict[str, Any],
        reshape: Reshape | None,
    ) -> None:
        self.model, self.methods, self.options, self.reshape = model, methods, options, reshape
        blank = model.blank()
        self.size = tuple(blank.shape[2:])
        classes = len(model.probabilities(blank))
        self.targets = [None if t == "auto" else model.class_index(t, classes) for t in targets]
        needed = any(method.layer_argument for method in methods)
        self.layers = choose_layers(model, layers, reshape) if needed else []
        self._single = self.layers[-1:]
        if needed and layers == "auto" and model.layer is not None:
            self._single = choose_layers(model, model.layer, reshape)

    def explain(self, image: Image.Image) -> Explained:
        """Explains one image by every method."""
        inputs = self.model.inputs(image)
        probabilities = self.model.probabilities(inputs)
        best = int(probabilities.argmax())
        targets = list(dict.fromkeys(best if t is None else t for t in self.targets))
        explanations = [self._explain(method, inputs, targets) for method in self.methods]
        box = self.model.view(image)
        return Explained(image, box, inputs, probabilities, targets, explanations)

    def _explain(self, method: Method, inputs: Tensor, targets: list[int]) -> Explanation:
        counted = _Counted(self.model.module)
        attribution, layers = self._construct(method, counted)
        # Captum warns where it has to ask for gradients itself.
        differentiable = issubclass(method.attribution, GradientAttribution)
        inputs = inputs.clone().requires_grad_(differentiable)
        keywords = self._keywords(method, inputs)
        began = time.perf_counter()
        if len(targets) > 1 and hasattr(attribution, "attribute_classes"):
            found = attribution.attribute_classes(inputs, targets, **keywords)
        else:
            found = [attribution.attribute(inputs, target=t, **keywords) for t in targets]
        seconds = time.perf_counter() - began
        names = [layer.name for layer in layers]
        pairs = [each if isinstance(each, tuple) else (each, []) for each in found]
        return Explanation(
            method,
            [_at_size(maps, inputs) for maps, _ in pairs],
            [
                {name: maps[0, 0].float().cpu() for name, maps in zip(names, each, strict=False)}
                for _, each in pairs
            ],
            names,
            counted.counts.masked or None,
            counted.counts.rows,
            seconds,
        )

    def _construct(self, method: Method, model: nn.Module) -> tuple[Any, list[SelectedLayer]]:
        """Returns the method for the model, with the layers it takes."""
        arguments: dict[str, Any] = {}
        used: list[SelectedLayer] = []
        if method.layer_argument is not None:
            used = self.layers if method.fuses else self._single
            # Captum's own classes take nothing but modules.
            deepest = used[-1] if used[-1].channels_last else used[-1].module
            arguments[method.layer_argument] = used if method.fuses else deepest
        if self.reshape is not None and takes(method.attribution, "reshape_transform"):
            arguments["reshape_transform"] = self.reshape
        return method.attribution(*method.positional, model, **arguments), used

    def _keywords(self, method: Method, inputs: Tensor) -> dict[str, Any]:
        keywords = {key: v for key, v in self.options.items() if method.accepts(key)}
        if method.accepts("baselines") and method.baseline == "black":
            keywords["baselines"] = self.model.black().expand_as(inputs)
        if method.accepts("sliding_window_shapes"):
            # Occlusion has no default: windows of a seventh of the image, overlapping by half.
            channels, height, width = inputs.shape[1:]
            window = (channels, math.ceil(height / 7), math.ceil(width / 7))
            keywords["sliding_window_shapes"] = window
            keywords["strides"] = (channels, math.ceil(height / 14), math.ceil(width / 14))
        return keywords


def _at_size(maps: Tensor, inputs: Tensor) -> Tensor:
    """Returns a map (1, C, h, w) at the size of the inputs, (H, W)."""
    if maps.shape[2:] != inputs.shape[2:]:
        maps = LayerAttribution.interpolate(maps, inputs.shape[2:], "bilinear")
    return maps.detach().float().mean((0, 1)).cpu()
