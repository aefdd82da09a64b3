"""Pictures of attributions: heat maps over photographs, and labelled figures of many."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.colors import Colormap
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["grid", "overlay", "save_png", "to_uint8"]

Array = Tensor | npt.NDArray[Any]
PerChannel = float | Sequence[float] | Tensor
Sign = Literal["positive", "negative", "absolute_value", "all"]


def overlay(
    images: Array,
    attributions: Array,
    *,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    sign: Sign = "positive",
    vmin: float | None = None,
    vmax: float | None = None,
    outlier_perc: float = 0.0,
    cmap: str | Colormap | None = None,
    alpha: float = 0.6,
) -> Tensor:
    """Blend heat maps with the images that they explain.

    Every image has a scale of its own unless ``vmin`` and ``vmax`` fix one. A map is shown from
    its smallest to its largest value (after ``sign``), with ``sign="all"`` from minus to plus its
    largest magnitude, so that the middle of the colour map is 0. A map without contrast, all zero
    or constant, gets the colour of the scale's lower end everywhere (with ``sign="all"`` an
    all-zero map gets the middle): no heat, rather than amplified rounding noise.

    Args:
        images: ``(N, C, H, W)``, or one image ``(C, H, W)``; grayscale (``C = 1``) or RGB
            (``C = 3``). ``uint8``, or floating-point in [0, 1], or, if ``mean`` and ``std`` are
            given, ``(image - mean) / std`` of such an image, as a network receives it.
        attributions: ``(N, C, h, w)`` or ``(N, h, w)``; for one image ``(C, h, w)`` or
            ``(h, w)``. Channels are averaged, so a map that is repeated over the channels stays
            what it is. Maps of another size, such as a layer's, are resized bilinearly
            (``align_corners=False``). Any device; numpy arrays are accepted.
        mean: Mean of the normalisation to undo, a number or one for each channel.
        std: Standard deviation of the normalisation to undo.
        sign: Which values are heat, in the terms of Captum's ``visualize_image_attr``:
            ``"positive"`` (negative ones count as 0), ``"negative"`` (the opposite),
            ``"absolute_value"``, or ``"all"`` for a signed picture.
        vmin: Heat (after ``sign``) at the lower end of the colour map, the same for every image;
            lesser heat is clipped. Default: 0 where ``vmax`` is given, else each map's smallest
            value. Not with ``sign="all"``, where it is ``-vmax``.
        vmax: Heat at the upper end. Default: each map's largest value.
        outlier_perc: Where ``vmax`` is not given: saturate the largest values, those that make up
            this percentage of the sum of the map's magnitudes, in [0, 100). Captum's definition;
            2 suits the noisy maps of gradients.
        cmap: A matplotlib colour map or its name. Default: ``"inferno"``, or ``"bwr"`` (blue,
            white, red) for ``sign="all"``.
        alpha: Opacity of the heat map, from 0 (only the image) to 1 (only the heat map).

    Returns:
        ``uint8`` tensor of shape ``(N, 3, H, W)``, or ``(3, H, W)`` for one image, on the images'
        device.

    Raises:
        ValueError: If shapes do not fit, if an attribution is NaN or infinite, if the image does
            not lie in [0, 1] after un-normalising, or if an option is out of range.
        TypeError: If the images are neither ``uint8`` nor floating-point.

    Example:
        >>> import torch
        >>> from captum_excon.visualization import overlay
        >>> image = torch.full((1, 1, 1, 3), 0.5)
        >>> picture = overlay(image, torch.tensor([[[-1.0, 0.0, 2.0]]]), cmap="gray", alpha=0.5)
        >>> picture[0, 0, 0].tolist()
        [64, 64, 191]
        >>> signed = overlay(image, torch.tensor([[[-1.0, 0.0, 2.0]]]), sign="all", alpha=1.0)
        >>> signed[0, :, 0, 2].tolist()  # red: the strongest positive value
        [255, 0, 0]
    """
    if sign not in get_args(Sign):
        raise ValueError(f"sign must be one of {', '.join(get_args(Sign))}, not {sign!r}.")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], not {alpha}.")
    photographs = _unnormalized(images, mean, std)
    heat = _heat(attributions, photographs, single=images.ndim == 3)
    levels = _levels(heat, sign, vmin, vmax, outlier_perc)

    if cmap is None:
        cmap = "bwr" if sign == "all" else "inferno"
    table = matplotlib.colormaps.get_cmap(cmap)(np.linspace(0, 1, 256))[:, :3]
    colours = torch.as_tensor(table, dtype=torch.float32, device=photographs.device)
    coloured = colours[(levels * 255).round().long()].movedim(-1, 1)
    pictures = _quantized(torch.lerp(photographs, coloured, alpha))
    return pictures[0] if images.ndim == 3 else pictures


def to_uint8(
    images: Array, *, mean: PerChannel | None = None, std: PerChannel | None = None
) -> Tensor:
    """Turn images, normalised or not, into 8-bit RGB pictures.

    Args:
        images: As for :func:`overlay`.
        mean: Mean of the normalisation to undo, a number or one for each channel.
        std: Standard deviation of the normalisation to undo.

    Returns:
        ``uint8`` tensor of shape ``(N, 3, H, W)``, or ``(3, H, W)`` for one image, on the images'
        device.

    Raises:
        ValueError: If the shape is wrong or the image does not lie in [0, 1] after un-normalising.
        TypeError: If the images are neither ``uint8`` nor floating-point.

    Example:
        >>> import torch
        >>> from captum_excon.visualization import to_uint8
        >>> to_uint8(torch.tensor([[[-1.0, 0.0, 1.0]]]), mean=0.5, std=0.5)[0]
        tensor([[  0, 128, 255]], dtype=torch.uint8)
    """
    pictures = _quantized(_unnormalized(images, mean, std))
    return pictures[0] if images.ndim == 3 else pictures


def grid(
    rows: Iterable[Sequence[Array | None]],
    *,
    titles: Sequence[str] | None = None,
    captions: Sequence[Sequence[str]] | None = None,
    row_labels: Sequence[str] | None = None,
    height: int = 288,
) -> npt.NDArray[np.uint8]:
    """Arrange pictures in a labelled figure.

    Batches of pictures become rows with ``zip``: one row for each image, one column for each
    batch. Text is drawn as it is, broken into lines where it is wider than its column.

    Args:
        rows: Rows of pictures ``(3, H, W)`` or ``(1, H, W)``, ``uint8`` or in [0, 1]; ``None``
            leaves a place empty. Pictures may differ in size: they are scaled to one height.
        titles: Text above each column.
        captions: Text below each picture, in rows as the pictures are; "" for none.
        row_labels: Text to the left of each row.
        height: Height of every picture in pixels. Fonts and gutters are in proportion to it.

    Returns:
        ``uint8`` array of shape ``(height, width, 3)`` on white ground.

    Raises:
        ValueError: If there is no picture, if rows or texts differ in number, if a picture is not
            an image, or if ``height`` is not positive.
        TypeError: If a picture is neither ``uint8`` nor floating-point.

    Example:
        >>> import torch
        >>> from captum_excon.visualization import grid, overlay, to_uint8
        >>> images, maps = torch.rand(2, 3, 24, 32), torch.rand(2, 1, 6, 8)
        >>> rows = zip(to_uint8(images), overlay(images, maps))
        >>> figure = grid(rows, titles=["Photograph", "Map"], row_labels=["cat", "dog"])
        >>> figure.dtype, figure.shape[-1]
        (dtype('uint8'), 3)
    """
    if height < 1:
        raise ValueError(f"height must be at least 1 pixel, not {height}.")
    table = [list(row) for row in rows]
    columns = len(table[0]) if table else 0
    if columns == 0:
        raise ValueError("there is no picture: pass at least one row with one picture.")
    _check_length("titles", titles, columns)
    _check_length("row_labels", row_labels, len(table))
    _check_length("captions", captions, len(table))
    for r, row in enumerate(table):
        _check_length(f"rows[{r}]", row, columns)
        _check_length(f"captions[{r}]", captions[r] if captions else None, columns)

    tiles = [[None if p is None else _tile(p, height) for p in row] for row in table]
    # At least half the height, so that the text over a narrow picture keeps some room.
    widths = [max([height // 2, *(t.width for t in c if t)]) for c in zip(*tiles, strict=True)]
    gutter = max(4, height // 36)
    font = ImageFont.truetype(
        # Pillow 9.1 takes no Path.
        str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")),
        max(12, height // 16),
        layout_engine=ImageFont.Layout.BASIC,
    )
    pitch = sum(font.getmetrics())
    heads = [_wrap(text, font, w) for text, w in zip(titles or (), widths, strict=False)]
    sides = [_wrap(text, font, height) for text in row_labels or ()]
    feet = [
        [_wrap(text, font, w) for text, w in zip(texts, widths, strict=True)]
        for texts in captions or [[""] * columns] * len(table)
    ]

    def room(texts: list[list[str]]) -> int:
        lines = max(map(len, texts), default=0)
        return lines * pitch + gutter if lines else 0

    side = max((math.ceil(font.getlength(line)) for lines in sides for line in lines), default=0)
    lefts, tops = [gutter + (side + gutter if side else 0)], [gutter + room(heads)]
    for width in widths:
        lefts.append(lefts[-1] + width + gutter)
    for texts in feet:
        tops.append(tops[-1] + height + room(texts) + gutter)

    figure = Image.new("RGB", (lefts[-1], tops[-1]), "white")
    draw = ImageDraw.Draw(figure)

    def write(lines: list[str], x: float, y: float, anchor: str) -> None:
        for i, line in enumerate(lines):
            draw.text((x, y + i * pitch), line, fill="black", font=font, anchor=anchor)

    for r in range(len(tiles)):
        if sides:
            middle = tops[r] + (height - len(sides[r]) * pitch) / 2
            write(sides[r], gutter + side, middle, "ra")
        for c, tile in enumerate(tiles[r]):
            centre = lefts[c] + widths[c] / 2
            if tile is not None:
                figure.paste(tile, (lefts[c] + (widths[c] - tile.width) // 2, tops[r]))
            if r == 0 and heads:
                write(heads[c], centre, tops[0] - gutter // 2 - len(heads[c]) * pitch, "ma")
            write(feet[r][c], centre, tops[r] + height + gutter // 2, "ma")
    return np.array(figure)


def save_png(picture: Array, path: str | Path) -> None:
    """Save a picture or a figure as a PNG file.

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
    pixels = _tensor(picture)
    channels_last = pixels if isinstance(picture, np.ndarray) else pixels.movedim(0, -1)
    if pixels.dtype != torch.uint8 or pixels.ndim != 3 or channels_last.shape[-1] != 3:
        raise ValueError(
            "expected one uint8 picture, an array (H, W, 3) or a tensor (3, H, W), not "
            f"{pixels.dtype} of shape {tuple(pixels.shape)}."
        )
    Image.fromarray(channels_last.cpu().numpy()).save(path)


def _tensor(array: Array) -> Tensor:
    # The copy is for arrays that are read-only or flipped, which torch does not take.
    return array.detach() if isinstance(array, Tensor) else torch.from_numpy(np.array(array))


def _unnormalized(images: Array, mean: PerChannel | None, std: PerChannel | None) -> Tensor:
    """Float32 RGB images ``(N, 3, H, W)`` in [0, 1]."""
    images = _tensor(images)
    if images.ndim not in (3, 4) or images.shape[-3] not in (1, 3) or 0 in images.shape[-2:]:
        raise ValueError(
            "images must have shape (N, C, H, W) or (C, H, W) with C = 1 or 3 channels, not "
            f"{tuple(images.shape)}."
        )
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images must be uint8 or floating-point, not {images.dtype}.")
    if (mean is None) != (std is None):
        raise ValueError("pass mean and std together, or neither.")

    pixels = images.float()
    if images.dtype == torch.uint8:
        if mean is not None:
            raise ValueError("uint8 images are not normalised: leave out mean and std.")
        pixels = pixels / 255
    elif mean is not None and std is not None:
        pixels = pixels * _per_channel("std", std, pixels) + _per_channel("mean", mean, pixels)
    if not pixels.isfinite().all():
        raise ValueError("images contain NaN or infinite values.")
    # Less than one grey level: what a round trip through bfloat16 costs at most.
    if pixels.numel() and (pixels.min() < -1 / 255 or pixels.max() > 1 + 1 / 255):
        raise ValueError(
            f"images have values from {pixels.min():.3g} to {pixels.max():.3g}, outside [0, 1]"
            + (
                ": pass mean and std if they are normalised (`overlay` and `to_uint8` take them)."
                if mean is None
                else " after the normalisation is undone: mean and std are not the ones it used."
            )
        )
    pixels = pixels.clamp(0, 1).reshape(-1, *pixels.shape[-3:])
    return pixels.expand(-1, 3, -1, -1)


def _per_channel(name: str, value: PerChannel, pixels: Tensor) -> Tensor:
    numbers = torch.as_tensor(value, dtype=pixels.dtype, device=pixels.device).reshape(-1, 1, 1)
    if len(numbers) not in (1, pixels.shape[-3]):
        raise ValueError(
            f"{name} has {len(numbers)} values, but the images have {pixels.shape[-3]} channels."
        )
    if not numbers.isfinite().all() or (name == "std" and (numbers <= 0).any()):
        raise ValueError(f"{name} must be finite (std also positive), not {value}.")
    return numbers


def _heat(attributions: Array, photographs: Tensor, single: bool) -> Tensor:
    """Maps ``(N, H, W)`` at the size of the images, averaged over channels."""
    given = _tensor(attributions)
    maps = given[None] if single else given
    maps = maps[:, None] if maps.ndim == 3 else maps
    if maps.ndim != 4 or len(maps) != len(photographs) or 0 in maps.shape[1:]:
        expected = "(C, h, w) or (h, w)" if single else "(N, C, h, w) or (N, h, w)"
        raise ValueError(
            f"attributions of shape {tuple(given.shape)} do not fit {len(photographs)} image(s) "
            f"of size {tuple(photographs.shape[-2:])}: expected {expected}."
        )
    maps = maps.to(photographs.device, torch.float32).mean(dim=1, keepdim=True)
    if not maps.isfinite().all():
        raise ValueError("attributions contain NaN or infinite values.")
    size = photographs.shape[-2:]
    if maps.shape[-2:] != size:
        maps = interpolate(maps, size=size, mode="bilinear", align_corners=False)
    return maps[:, 0]


def _levels(
    heat: Tensor, sign: Sign, vmin: float | None, vmax: float | None, outlier_perc: float
) -> Tensor:
    """Positions in the colour map, in [0, 1], of maps ``(N, H, W)``."""
    if sign == "all" and vmin is not None:
        raise ValueError('sign="all" is symmetric about 0: pass vmax alone, vmin is -vmax.')
    low = 0.0 if vmin is None else vmin
    if not math.isfinite(low) or (vmax is not None and not low < vmax < math.inf):
        raise ValueError(f"vmin and vmax must be finite and vmin < vmax, not {vmin} and {vmax}.")
    if not 0 <= outlier_perc < 100:
        raise ValueError(f"outlier_perc must be in [0, 100), not {outlier_perc}.")

    values = -heat.flatten(1) if sign == "negative" else heat.flatten(1)
    if sign != "all":
        values = values.abs() if sign == "absolute_value" else values.clamp(min=0)
    tiny = torch.finfo(values.dtype).tiny
    peak = values.abs().amax(dim=1, keepdim=True)
    high = _saturation(values.abs(), outlier_perc) if outlier_perc else peak
    if vmax is not None:
        high = torch.full_like(peak, vmax)
    if sign == "all":
        levels = (values / high.clamp(min=tiny) + 1) / 2
    elif vmin is None and vmax is None:
        smallest = values.amin(dim=1, keepdim=True)
        # A constant map has rounding noise after it was resized: an infinite scale hides it.
        high = high.where(peak - smallest > 1e-5 * peak, math.inf)
        levels = (values - smallest) / (high - smallest).clamp(min=tiny)
    else:
        levels = (values - low) / (high - low).clamp(min=tiny)
    return levels.clamp(0, 1).reshape(heat.shape)


def _saturation(magnitudes: Tensor, outlier_perc: float) -> Tensor:
    """The magnitude up to which a map's values add up to ``100 - outlier_perc`` % of its sum."""
    ascending = magnitudes.sort(dim=1).values
    # Divided by the peak, so that the sum of a map of very large values stays finite.
    sums = (ascending / ascending[:, -1:].clamp(min=torch.finfo(ascending.dtype).tiny)).cumsum(1)
    reached = sums >= sums[:, -1:] * (1 - outlier_perc / 100)
    return ascending.gather(1, reached.int().argmax(dim=1, keepdim=True))


def _quantized(pixels: Tensor) -> Tensor:
    return (pixels * 255).round().to(torch.uint8)


def _tile(picture: Array, height: int) -> Image.Image:
    if picture.ndim != 3:
        raise ValueError(
            f"a picture in a grid has shape (3, H, W) or (1, H, W), not {tuple(picture.shape)}."
        )
    pixels = to_uint8(picture).movedim(0, -1).cpu().numpy()
    width = max(1, round(pixels.shape[1] * height / pixels.shape[0]))
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines no wider than ``width``, broken between words, or inside those that are too long."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            if line and font.getlength(f"{line} {word}") <= width:
                line = f"{line} {word}"
                continue
            if line:
                lines.append(line)
            while len(word) > 1 and font.getlength(word) > width:
                fits = next(
                    k
                    for k in range(len(word) - 1, 0, -1)
                    if k == 1 or font.getlength(word[:k]) <= width
                )
                lines.append(word[:fits])
                word = word[fits:]
            line = word
        lines.append(line)
    return lines


def _check_length(name: str, items: Sequence[Any] | None, expected: int) -> None:
    if isinstance(items, str):
        raise TypeError(f"{name} must be a list of strings, not one string.")
    if items is not None and len(items) != expected:
        raise ValueError(f"{name} has {len(items)} entries; expected {expected}.")
