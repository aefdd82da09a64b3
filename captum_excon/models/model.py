"""A network with what its inputs and outputs mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from captum_excon._messages import close_names, one_line
from captum_excon.errors import UserError
from captum_excon.models.preprocessing import Box, Geometry, visible_box


@dataclass(frozen=True)
class Model:
    """A network in evaluation mode with its preprocessing and its classes.

    Attributes:
        name: As the user gave it.
        module: The network, from (N, C, H, W) to class scores (N, classes).
        geometry: From an RGB image to the pixels that the network looks at, (C, H, W) in [0, 1].
        mean: Subtracted from each channel of those.
        std: What each channel is then divided by.
        labels: Names of the classes, if they are known.
        trained: False for random weights.
        device: Where the network is.
        layer: The layer that training explained, for methods of one layer; None for the deepest.
    """

    name: str
    module: nn.Module
    geometry: Geometry
    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: Sequence[str] | None = None
    trained: bool = True
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    layer: str | None = None

    def inputs(self, image: Image.Image) -> Tensor:
        """Returns the network's input for an image, (1, C, H, W), normalised."""
        pixels: Tensor = F.normalize(self.geometry(image), self.mean, self.std)
        return pixels.unsqueeze(0).to(self.device)

    def view(self, image: Image.Image) -> Box:
        """Returns the part of an image that the network sees: (left, top, right, bottom).

        It is the argument ``box`` of `captum_excon.visualization.overlay`.
        """
        return visible_box(self.geometry, image.size)

    def blank(self) -> Tensor:
        """Returns the input for a grey image, to learn shapes from."""
        return self.inputs(Image.new("RGB", (64, 64), "gray"))

    def black(self) -> Tensor:
        """Returns black as the network sees it, (1, C, 1, 1)."""
        values = [-m / s for m, s in zip(self.mean, self.std, strict=True)]
        return torch.tensor(values, device=self.device).view(1, -1, 1, 1)

    def probabilities(self, inputs: Tensor) -> Tensor:
        """Returns the classes' probabilities for one input, (classes,), on the CPU.

        Raises:
            UserError: The output is not one finite score for each of several classes.
        """
        try:
            with torch.no_grad():
                output = self.module(inputs)
        except Exception as error:
            raise UserError(
                f"{self.name} fails on an input of shape {tuple(inputs.shape)} "
                f"({type(error).__name__}: {one_line(error)})"
            ) from error
        if not isinstance(output, Tensor) or output.dim() != 2 or output.shape[1] < 2:
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UserError(
                f"{self.name} returns {found}, where class scores (N, classes) of two or more "
                "classes are needed; wrap it in a function that returns them"
            )
        if self.labels is not None and len(self.labels) != output.shape[1]:
            raise UserError(
                f"there are {len(self.labels)} class names, but {self.name} has "
                f"{output.shape[1]} classes"
            )
        result = output[0].float().softmax(0).cpu()
        if not bool(result.isfinite().all()):
            raise UserError(f"{self.name} returns NaN or infinite scores for this image")
        return result

    def predict(self, inputs: Tensor) -> int:
        """Returns the index of the most probable class of one input.

        Raises:
            UserError: As `probabilities`.
        """
        return int(self.probabilities(inputs).argmax())

    def label(self, index: int) -> str:
        """Returns the name of a class."""
        return self.labels[index] if self.labels is not None else f"class {index}"

    def class_index(self, target: str, classes: int) -> int:
        """Returns the index of a class given by its index, or by its name in any case.

        Raises:
            UserError: There is no such class, or the name stands for several.
        """
        if re.fullmatch(r"[+-]?\d+", target):
            if not 0 <= int(target) < classes:
                raise UserError(
                    f"--target {target} is out of range: {self.name} has {classes} classes, "
                    f"0 to {classes - 1}"
                )
            return int(target)
        if self.labels is None:
            raise UserError(
                f"--target {target!r}: the class names of {self.name} are not known; pass an index "
                f"from 0 to {classes - 1}, or the names with --labels FILE"
            )
        wanted = target.casefold()
        hits = [i for i, label in enumerate(self.labels) if label.casefold() == wanted]
        if not hits:
            # Some lists give synonyms: "tench, Tinca tinca".
            synonyms = [[s.strip() for s in label.split(",")] for label in self.labels]
            hits = [i for i, s in enumerate(synonyms) if wanted in map(str.casefold, s)]
        if not hits:
            known = [s for names in synonyms for s in names]
            raise UserError(f"--target {target!r}: no such class{close_names(target, known)}")
        if len(hits) > 1:
            raise UserError(f"--target {target!r} names classes {hits}; pass one of these indices")
        return hits[0]
