"""Images read from files, and files written whole or not at all."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from captum_excon._messages import one_line
from captum_excon.errors import MissingPackageError, UserError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def read_image(path: Path, *, upright: bool = True) -> Image.Image:
    """Reads an image as RGB, on white where it is transparent.

    The first frame of several is taken; 16 bits are scaled to 8, not clipped.

    Args:
        path: The file.
        upright: Turn it as its EXIF orientation says; else the pixels stay where they are stored.

    Raises:
        UserError: The file cannot be read as an image.
    """
    try:
        with Image.open(path) as file:
            return _to_rgb(ImageOps.exif_transpose(file) if upright else file)
    except UserError:
        raise
    except Exception as error:  # a corrupt file makes Pillow's decoders raise almost anything
        raise UserError(f"cannot be read as an image ({one_line(error)})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise UserError("its floating-point pixels have no known range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        # Pillow's own conversion clips at 255.
        values = np.asarray(image).clip(0, 65535)
        image = Image.fromarray((values / 257).round().astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def load_image(source: str | os.PathLike[str]) -> Image.Image:
    """Reads a photograph as an upright RGB image.

    `captum_excon.models.Model.inputs` prepares it for a network, and
    `captum_excon.visualization.overlay` draws on it.

    Args:
        source: An image file, or ``"demo"`` for a photograph of an espresso that comes with
            scikit-image.

    Raises:
        UserError: The file cannot be read as an image.
        MissingPackageError: scikit-image is not installed.

    Example:
        >>> load_image("demo").size
        (600, 400)
    """
    if source != "demo":
        try:
            return read_image(Path(source))
        except UserError as error:
            raise UserError(f"{os.fspath(source)}: {error}") from error
    try:
        data: Any = importlib.import_module("skimage.data")
    except ImportError as error:
        raise MissingPackageError(
            'the demo photograph comes with scikit-image: pip install "captum-excon[demo]"'
        ) from error
    return Image.fromarray(data.coffee())  # under CC0


def check_writable(folder: Path) -> None:
    """Makes the folder, and fails now and not after the work if nothing can be written there.

    Raises:
        UserError: The folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot make this folder ({one_line(error)})") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: cannot write in this folder; choose another with --out")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a temporary path that becomes ``path`` at the end, or vanishes after an error.

    Raises:
        UserError: The file cannot be written.
    """
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({one_line(error)})") from error
    finally:
        temporary.unlink(missing_ok=True)
