"""Mosaics of 2×2 images: localization without annotation.

The grid pointing game of Böhle et al., *Convolutional Dynamic Alignment Networks for
Interpretable Classifications*, CVPR 2021, https://arxiv.org/abs/2104.00032, with 2×2 cells. The
classes of the cells differ, so that what speaks for the explained class lies in one of them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_excon.training.data.sampling import derive_seed

CELLS = 4


def draw_mosaics(
    classes: Sequence[Hashable], count: int, seed: int = 0
) -> list[tuple[tuple[int, ...], int]]:
    """Draws which images stand together, and which of them is explained.

    No image is explained a second time before all have been once, and likewise for the other
    cells. The explained position takes turns. A mosaic does not depend on how many follow.

    Args:
        classes: The class of each image.
        count: The number of mosaics.
        seed: Decides the draw.

    Returns:
        For each mosaic the four images, row by row, and the position of the explained one.

    Raises:
        ValueError: There are fewer than four classes.

    Example:
        >>> draw_mosaics("abcd", 1)[0][1]
        0
        >>> sorted(draw_mosaics("abcd", 1)[0][0])
        [0, 1, 2, 3]
    """
    if len(set(classes)) < CELLS:
        raise ValueError(f"a mosaic needs {CELLS} classes, but found {len(set(classes))}")
    explained, fillers = _deck(len(classes), seed, 0), _deck(len(classes), seed, 1)
    waiting: list[int] = []
    mosaics = []
    for number in range(count):
        image = next(explained)
        cells: list[int] = []
        taken, position = {classes[image]}, 0
        while len(cells) < CELLS - 1:
            if position == len(waiting):
                waiting.append(next(fillers))
            if classes[waiting[position]] in taken:
                position += 1
            else:
                cells.append(waiting.pop(position))
                taken.add(classes[cells[-1]])
        cells.insert(number % CELLS, image)
        mosaics.append((tuple(cells), number % CELLS))
    return mosaics


def mosaic(cells: Sequence[Tensor], *, full: bool = False) -> Tensor:
    """Puts four views of one size together, row by row.

    Args:
        cells: Four of (C, H, W) in [0, 1].
        full: Leave the cells as large as they are. Otherwise each is scaled to a quarter, so that
            the mosaic has the size of one.

    Returns:
        (C, 2H, 2W), or (C, H, W).
    """
    if not full:
        height, width = cells[0].shape[1:]
        sizes = [(h, w) for h in _halves(height) for w in _halves(width)]
        scaled = partial(F.interpolate, mode="bilinear", antialias=True)
        cells = [scaled(cell[None], size)[0] for cell, size in zip(cells, sizes, strict=True)]
    return torch.cat([torch.cat(list(cells[:2]), 2), torch.cat(list(cells[2:]), 2)], 1)


def cell_mask(position: int, height: int, width: int) -> Tensor:
    """The cell at a position of a mosaic of this size, (1, H, W) bool."""
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    rows, columns = _halves(height), _halves(width)
    top, left = (position // 2) * rows[0], (position % 2) * columns[0]
    mask[:, top : top + rows[position // 2], left : left + columns[position % 2]] = True
    return mask


def _halves(length: int) -> tuple[int, int]:
    return length // 2, length - length // 2


def _deck(images: int, *seeds: int) -> Iterator[int]:
    """All images in random order, again and again."""
    deal = 0
    while True:
        generator = torch.Generator().manual_seed(derive_seed(*seeds, deal))
        yield from torch.randperm(images, generator=generator).tolist()
        deal += 1
