"""The items of a benchmark: what the model sees, which class is explained, where its object is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from benchmarks.explanations.configs.settings import Config, GridData, SyntheticData
from benchmarks.explanations.data.classes import match_classes, readable
from benchmarks.explanations.data.mosaics import CELLS, cell_mask, mosaic
from benchmarks.explanations.data.readers import Source, open_source
from captum_excon.errors import UserError
from captum_excon.models import Model


class View(NamedTuple):
    """A picture as the model looks at it, (C, H, W) in [0, 1], and the mask of its class, if any.

    The mask, (1, H, W) bool, covers the objects of the row's class.
    """

    pixels: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class PlannedItem:
    """One item, as a plan keeps it.

    Attributes:
        item: Its number, from 0.
        source: What it is of, the same on any machine; the class is part of it where an image has
            several.
        image: Which image it is of, without the class: items of one image do not count as several
            images. For a mosaic the explained photograph.
        rows: Names of the data's rows: one, or those of a mosaic's cells.
        position: Which of ``rows`` is explained.
        label: The explained row's class, as a number of the model's output.
        name: That class's name in the data, or in ImageNet where the data have its ids.
        predicted: The model's class of the whole item.
        target: The explained class.
        probability: That the model gives to the target.
    """

    item: int
    source: str
    image: str
    rows: tuple[str, ...]
    position: int
    label: int
    name: str
    predicted: int
    target: int
    probability: float


@dataclass(frozen=True)
class Item:
    """One item with its pixels.

    Attributes:
        planned: Its number, classes and source.
        image: The normalised input, (C, H, W) float32, on the model's device.
        view: The same before normalisation, (C, H, W) in [0, 1], on the CPU.
        mask: Where the object is, (1, H, W) bool, on the CPU; None without annotation.
    """

    planned: PlannedItem
    image: Tensor
    view: Tensor
    mask: Tensor | None

    @property
    def pixels(self) -> Image.Image:
        """An RGB picture of what the model sees, of the size of its input."""
        # The PIL conversion itself cuts fractions off: 72.99999 would become 72.
        eight_bits = functional.to_dtype(self.view, torch.uint8, scale=True)
        picture: Image.Image = functional.to_pil_image(eight_bits)
        return picture.convert("RGB")


class Views:
    """The rows of a source as a model sees them, with the model's number for each class.

    Raises:
        UserError: The data are not there, or their classes are not the model's.
    """

    def __init__(self, config: Config, model: Model) -> None:
        data = config.data
        self.source: Source = open_source(data)
        how = "name" if isinstance(data, SyntheticData) else data.classes
        outputs = match_classes(self.source.class_names, model, how, numbered=self.source.numbered)
        self.labels = [outputs[label] for label in self.source.labels]
        self.numbers = {name: row for row, name in enumerate(self.source.names)}
        self._model = model

    def class_name(self, row: int) -> str:
        """A row's class as people call it."""
        return readable(self.source.class_names[self.source.labels[row]])

    def __getitem__(self, row: int) -> View:
        pixels = self._model.geometry(self.source.picture(row))
        if self.source.mask is None:
            return View(pixels, None)
        # As a picture the mask goes the way of the image, whatever the model's geometry is.
        seen = self._model.geometry(self.source.mask(row).convert("RGB"))
        return View(pixels, seen.mean(0, keepdim=True) > 0.5)


class Items(Sequence[Item]):
    """The items that a plan selected, read when they are asked for.

    Raises:
        UserError: A planned row is not among the data.
    """

    def __init__(self, config: Config, planned: Sequence[PlannedItem], model: Model) -> None:
        self.planned = tuple(planned)
        self.views = Views(config, model)
        self._model = model
        self._full = isinstance(config.data, GridData) and config.data.cells == "full"
        for item in self.planned:
            if missing := [name for name in item.rows if name not in self.views.numbers]:
                raise UserError(
                    f"{missing[0]} was planned, but is not among the data; restore it, or plan in "
                    "another run folder"
                )

    def __len__(self) -> int:
        return len(self.planned)

    def __getitem__(self, number: int) -> Item:  # type: ignore[override]  # slices are of no use
        planned = self.planned[number]
        views = [self.views[self.views.numbers[name]] for name in planned.rows]
        pixels, mask = views[0]
        if len(views) == CELLS:
            pixels = mosaic([view.pixels for view in views], full=self._full)
            mask = cell_mask(planned.position, pixels.shape[1], pixels.shape[2])
        return Item(planned, normalized(pixels, self._model), pixels, mask)

    def __iter__(self) -> Iterator[Item]:
        return (self[number] for number in range(len(self)))


def normalized(pixels: Tensor, model: Model) -> Tensor:
    """The model's input of pixels in [0, 1], both (C, H, W)."""
    image: Tensor = functional.normalize(pixels, list(model.mean), list(model.std))
    return image.to(model.device, torch.float32)
