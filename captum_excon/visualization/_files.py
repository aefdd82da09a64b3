"""Pictures written to files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from captum_excon.visualization._pixels import Array, as_tensor


def save_png(picture: Array, path: str | Path) -> None:
    """Saves a picture or a figure as a PNG file.

    Args:
        picture: What :func:`grid` returns, ``(H, W, 3)``, or one picture as :func:`overlay` makes
            it, a tensor ``(3, H, W)``; ``uint8``.
        path: The file, whose name ends in ``.png``. An existing file is replaced.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the name does not end in ``.png`` or ``picture`` is not one picture.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from captum_excon.visualization import save_png
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_png(torch.zeros(3, 4, 6, dtype=torch.uint8), Path(folder, "black.png"))
        ...     Path(folder, "black.png").read_bytes()[1:4]
        b'PNG'
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path} does not end in .png, the only format that is written.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist: create it first.")
    pixels = as_tensor(picture)
    channels_last = pixels if isinstance(picture, np.ndarray) else pixels.movedim(0, -1)
    if pixels.dtype != torch.uint8 or pixels.ndim != 3 or channels_last.shape[-1] != 3:
        raise ValueError(
            "expected one uint8 picture, an array (H, W, 3) or a tensor (3, H, W), not "
            f"{pixels.dtype} of shape {tuple(pixels.shape)}."
        )
    Image.fromarray(channels_last.cpu().numpy()).save(path)
