"""Which images stand together in a mosaic, and where its cells are."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.explanations.data.mosaics import cell_mask, draw_mosaics, mosaic


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=4, max_size=20).filter(lambda c: len(set(c)) >= 4),
    st.integers(1, 30),
    st.integers(0, 3),
)
def test_no_class_stands_twice_and_every_image_is_explained_in_turn(classes, count, seed):
    mosaics = draw_mosaics(classes, count, seed)
    assert len(mosaics) == count
    for number, (cells, position) in enumerate(mosaics):
        assert len({classes[cell] for cell in cells}) == 4
        assert position == number % 4
    explained = Counter(cells[position] for cells, position in mosaics)
    most, least = max(explained.values()), min(explained[i] for i in range(len(classes)))
    assert most - least <= 1


def test_more_mosaics_leave_the_first_as_they_are():
    assert draw_mosaics("abcdef", 9)[:4] == draw_mosaics("abcdef", 4)
    assert draw_mosaics("abcdef", 9, seed=1) != draw_mosaics("abcdef", 9)


def test_fewer_than_four_classes_are_refused():
    with pytest.raises(ValueError, match="a mosaic needs 4 classes, but found 3"):
        draw_mosaics("abcabc", 1)


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
@pytest.mark.parametrize("full", [False, True])
def test_each_cell_lies_where_its_mask_says(size, full):
    cells = [torch.full((3, *size), value) for value in (0.1, 0.2, 0.3, 0.4)]
    pixels = mosaic(cells, full=full)
    height, width = size
    assert pixels.shape == ((3, 2 * height, 2 * width) if full else (3, height, width))
    masks = [cell_mask(position, *pixels.shape[1:]) for position in range(4)]
    assert torch.stack(masks).sum(0).eq(1).all()
    for cell, mask in zip(cells, masks, strict=True):
        assert torch.allclose(pixels[mask.expand_as(pixels)], cell[0, 0, 0])
