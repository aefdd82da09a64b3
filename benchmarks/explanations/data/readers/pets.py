"""The Oxford-IIIT Pets, with a mask of pixels for each animal."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from benchmarks.explanations.data.readers.source import Source, stored_picture
from captum_excon.errors import UserError

_FOREGROUND = 1  # of the trimap; 2 is background, 3 the undecided border


def open_pets(path: Path, split: str | None) -> Source:
    """Opens ``path/images`` and ``path/annotations`` as published.

    Args:
        path: The folder; torchvision's download names it ``oxford-iiit-pet``.
        split: "trainval" or "test"; the latter if None.

    Raises:
        UserError: There is no list of such images.
    """
    split = split or "test"
    table = path / "annotations" / f"{split}.txt"
    if not table.is_file():
        raise UserError(f"{path}: expected annotations/{split}.txt, images and annotations/trimaps")
    stems = [line.split()[0] for line in table.read_text().splitlines() if line.strip()]
    breeds = [stem.rpartition("_")[0].replace("_", " ") for stem in stems]
    # The table numbers the breeds by name, in any case.
    class_names = tuple(sorted(set(breeds), key=str.casefold))
    numbers = {name: number for number, name in enumerate(class_names)}

    def picture(row: int) -> Image.Image:
        return stored_picture(path / "images" / f"{stems[row]}.jpg")

    def mask(row: int) -> Image.Image:
        with Image.open(path / "annotations" / "trimaps" / f"{stems[row]}.png") as trimap:
            return trimap.convert("L").point(lambda value: 255 * (value == _FOREGROUND))

    return Source(
        "oxford-pets",
        split,
        class_names,
        stems,
        [numbers[breed] for breed in breeds],
        picture,
        mask,
    )
