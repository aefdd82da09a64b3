"""The synthetic images as pictures of eight bits, like any other data."""

from __future__ import annotations

from PIL import Image
from torchvision.transforms.v2 import functional

from benchmarks.explanations.data.readers.source import Source
from benchmarks.explanations.data.synthetic import CLASSES, SyntheticObjects


def open_synthetic(count: int, size: int, seed: int) -> Source:
    """Opens `SyntheticObjects`; its masks are exact."""
    objects = SyntheticObjects(count, size, seed)

    def picture(row: int) -> Image.Image:
        image: Image.Image = functional.to_pil_image(objects[row].image)
        return image

    def mask(row: int) -> Image.Image:
        white: Image.Image = functional.to_pil_image(objects[row].mask[None].float())
        return white

    return Source(
        "synthetic",
        "all",
        CLASSES,
        [f"{size}px-seed{seed}-{number}" for number in range(count)],
        [number % len(CLASSES) for number in range(count)],
        picture,
        mask,
    )
