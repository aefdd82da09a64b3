"""Photographs, from files or from scikit-image."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from PIL import Image

from captum_excon._files import read_image
from captum_excon.errors import MissingPackageError, UserError

# In scikit-image's wheel, under CC0.
PHOTOGRAPH = "coffee"


def load_image(source: str | os.PathLike[str]) -> Image.Image:
    """Reads a photograph as an upright RGB image.

    `Model.inputs` prepares it for a network and `captum_excon.visualization.overlay` draws on it.

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
    if source == "demo":
        return _photograph()
    try:
        return read_image(Path(source))
    except UserError as error:
        raise UserError(f"{os.fspath(source)}: {error}") from error


def _photograph() -> Image.Image:
    try:
        data: Any = importlib.import_module("skimage.data")
    except ImportError as error:
        raise MissingPackageError(
            'the demo photograph comes with scikit-image: pip install "captum-excon[demo]"'
        ) from error
    return Image.fromarray(getattr(data, PHOTOGRAPH)())
