"""Labelled figures of many pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.colors import Colormap
from PIL import Image, ImageDraw, ImageFont

from captum_excon.visualization._overlay import colours
from captum_excon.visualization._pixels import Array, quantized, to_uint8


def grid(
    rows: Iterable[Sequence[Array | Image.Image | None]],
    *,
    titles: Sequence[str] | None = None,
    captions: Sequence[Sequence[str]] | None = None,
    row_labels: Sequence[str] | None = None,
    height: int = 288,
    cmap: str | Colormap | None = None,
    cmap_labels: tuple[str, str] = ("lowest", "highest"),
) -> npt.NDArray[np.uint8]:
    """Arranges pictures in a labelled figure.

    ``zip`` turns batches into rows: one row per image, one column per batch. Text is drawn
    literally and wrapped to the width of its column.

    Args:
        rows: Rows of pictures ``(3, H, W)`` or ``(1, H, W)``, ``uint8`` or in [0, 1], or PIL
            images, of any size; ``None`` leaves a place empty.
        titles: Text above each column.
        captions: Text below each picture, in rows like the pictures; "" for none.
        row_labels: Text to the left of each row.
        height: Height of every picture in pixels. Fonts and gutters scale with it.
        cmap: Draws a bar of this colour map to the right of the first row.
        cmap_labels: Text at the lower and the upper end of the bar.

    Returns:
        ``uint8`` array of shape ``(height, width, 3)`` with a white background.

    Raises:
        ValueError: If there is no picture, rows or texts differ in number, a picture has the wrong
            shape or range, or ``height`` is not positive.
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
    text = _Text(height)
    heads = [text.wrap(title, w) for title, w in zip(titles or (), widths, strict=False)]
    sides = [text.wrap(label, height) for label in row_labels or ()]
    feet = [
        [text.wrap(caption, w) for caption, w in zip(texts, widths, strict=True)]
        for texts in captions or [[""] * columns] * len(table)
    ]
    gutter, side = text.gutter, text.width(sides)
    lefts, tops = [gutter + (side + gutter if side else 0)], [gutter + text.room(heads)]
    for width in widths:
        lefts.append(lefts[-1] + width + gutter)
    for foot in feet:
        tops.append(tops[-1] + height + text.room(foot) + gutter)
    bar = 0 if cmap is None else 3 * gutter + text.width([list(cmap_labels)])

    figure = Image.new("RGB", (lefts[-1] + bar, tops[-1]), "white")
    draw = ImageDraw.Draw(figure)
    for r, line in enumerate(tiles):
        if sides:
            middle = tops[r] + (height - len(sides[r]) * text.pitch) / 2
            text.write(draw, sides[r], gutter + side, middle, "ra")
        for c, tile in enumerate(line):
            centre = lefts[c] + widths[c] / 2
            if tile is not None:
                figure.paste(tile, (lefts[c] + (widths[c] - tile.width) // 2, tops[r]))
            if r == 0 and heads:
                above = tops[0] - gutter // 2 - len(heads[c]) * text.pitch
                text.write(draw, heads[c], centre, above, "ma")
            text.write(draw, feet[r][c], centre, tops[r] + height + gutter // 2, "ma")
    if cmap is not None:
        figure.paste(_bar(cmap, gutter, height), (lefts[-1], tops[0]))
        x, low, high = lefts[-1] + 2 * gutter, *cmap_labels
        text.write(draw, [high], x, tops[0], "la")
        text.write(draw, [low], x, tops[0] + height - text.pitch, "la")
    return np.array(figure)


class _Text:
    """Measures and draws text in proportion to the height of the pictures."""

    def __init__(self, height: int) -> None:
        self.gutter = max(4, height // 36)
        self.font = ImageFont.truetype(
            # Pillow 9.1 takes no Path.
            str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")),
            max(12, height // 16),
            layout_engine=ImageFont.Layout.BASIC,
        )
        self.pitch = sum(self.font.getmetrics())

    def room(self, texts: list[list[str]]) -> int:
        """Returns the height of the tallest of some texts, with a gutter."""
        lines = max(map(len, texts), default=0)
        return lines * self.pitch + self.gutter if lines else 0

    def width(self, texts: list[list[str]]) -> int:
        lengths = (self.font.getlength(line) for lines in texts for line in lines)
        return max(map(math.ceil, lengths), default=0)

    def write(
        self, draw: ImageDraw.ImageDraw, lines: list[str], x: float, y: float, anchor: str
    ) -> None:
        for i, line in enumerate(lines):
            draw.text((x, y + i * self.pitch), line, fill="black", font=self.font, anchor=anchor)

    def wrap(self, text: str, width: int) -> list[str]:
        """Breaks text into lines no wider than ``width``, inside a word only if it is wider."""
        lines: list[str] = []
        length = self.font.getlength
        for paragraph in text.splitlines():
            line = ""
            for word in paragraph.split():
                if line and length(f"{line} {word}") <= width:
                    line = f"{line} {word}"
                    continue
                if line:
                    lines.append(line)
                while len(word) > 1 and length(word) > width:
                    fits = max(1, sum(length(word[:k]) <= width for k in range(1, len(word))))
                    lines.append(word[:fits])
                    word = word[fits:]
                line = word
            lines.append(line)
        return lines


def _tile(picture: Array | Image.Image, height: int) -> Image.Image:
    if not isinstance(picture, Image.Image) and picture.ndim != 3:
        raise ValueError(f"a picture has shape (3, H, W) or (1, H, W), not {tuple(picture.shape)}.")
    pixels = to_uint8(picture).movedim(0, -1).cpu().numpy()
    width = max(1, round(pixels.shape[1] * height / pixels.shape[0]))
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)


def _bar(cmap: str | Colormap, width: int, height: int) -> Image.Image:
    """Returns a strip of all colours, the highest at the top."""
    levels = torch.linspace(1, 0, height).view(1, height, 1).expand(-1, -1, width)
    return Image.fromarray(quantized(colours(levels, cmap))[0].movedim(0, -1).numpy())


def _check_length(name: str, items: Sequence[Any] | None, expected: int) -> None:
    if isinstance(items, str):
        raise TypeError(f"{name} must be a list of strings, not one string.")
    if items is not None and len(items) != expected:
        raise ValueError(f"{name} has {len(items)} entries; expected {expected}.")
