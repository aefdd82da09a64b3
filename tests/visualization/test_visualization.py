"""Pictures of attributions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from captum_excon.visualization import grid, overlay, save_png, to_uint8

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def every_grey_level() -> Tensor:
    return torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(2, 3, 1, 1)


def normalized(images: Tensor) -> Tensor:
    mean, std = torch.tensor(MEAN).reshape(3, 1, 1), torch.tensor(STD).reshape(3, 1, 1)
    return (images / 255 - mean) / std


def heat(*values: float, **options: Any) -> list[int]:
    """The gray levels of a map of one row over a black image, blended by nothing."""
    image = torch.zeros(1, 1, 1, len(values))
    options = {"cmap": "gray", "alpha": 1.0} | options
    return overlay(image, torch.tensor([[values]]), **options)[0, 0, 0].tolist()


# Images


def test_normalisation_is_undone_to_the_exact_pixel() -> None:
    pixels = every_grey_level()
    assert torch.equal(to_uint8(normalized(pixels), mean=MEAN, std=STD), pixels)
    black_at_zero = to_uint8((pixels / 255 - 0.5) / 0.5, mean=0.5, std=torch.tensor(0.5))
    assert torch.equal(black_at_zero, pixels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
def test_images_of_every_dtype_are_the_same_picture(dtype: torch.dtype) -> None:
    pixels = every_grey_level()
    images = pixels if dtype == torch.uint8 else pixels.to(dtype) / 255
    assert torch.equal(to_uint8(images), pixels)


def test_normalised_bfloat16_images_are_not_out_of_range() -> None:
    pixels = every_grey_level()
    restored = to_uint8(normalized(pixels).bfloat16(), mean=MEAN, std=STD)
    assert (restored.int() - pixels).abs().max() <= 1


def test_grayscale_images_become_rgb() -> None:
    picture = to_uint8(torch.tensor([[[[0.0, 1.0]]]]))
    assert picture.tolist() == [[[[0, 255]]] * 3]


def test_float_rounding_beyond_the_range_is_tolerated() -> None:
    assert to_uint8(torch.tensor([[[-1e-6, 1 + 1e-6]]]))[0].tolist() == [[0, 255]]


@pytest.mark.parametrize(
    ("images", "options", "error", "message"),
    [
        (
            torch.full((1, 3, 2, 2), 2.0),
            {},
            ValueError,
            r"from 2 to 2, outside .*pass mean and std",
        ),
        (torch.full((1, 3, 2, 2), -0.1), {}, ValueError, "pass mean and std"),
        (torch.ones(1, 3, 2, 2), {"mean": 0.5, "std": 1}, ValueError, "not the ones it used"),
        (torch.ones(1, 3, 2, 2), {"mean": 0.5}, ValueError, "mean and std together"),
        (torch.ones(1, 3, 2, 2), {"mean": (0, 0), "std": 1}, ValueError, "mean has 2 values"),
        (torch.ones(1, 1, 2, 2), {"mean": 0, "std": STD}, ValueError, "std has 3 values"),
        (torch.ones(1, 3, 2, 2), {"mean": 0, "std": 0}, ValueError, "std also positive"),
        (every_grey_level(), {"mean": 0, "std": 1}, ValueError, "uint8 images are not normalised"),
        (torch.full((1, 3, 2, 2), torch.nan), {}, ValueError, "images contain NaN"),
        (torch.ones(1, 2, 2, 3), {}, ValueError, r"C = 1 or 3 channels, not \(1, 2, 2, 3\)"),
        (torch.ones(4, 4), {}, ValueError, r"not \(4, 4\)"),
        (torch.ones(1, 3, 0, 4), {}, ValueError, r"not \(1, 3, 0, 4\)"),
        (torch.ones(1, 3, 2, 2).int(), {}, TypeError, "uint8 or floating-point"),
    ],
)
def test_images_that_cannot_be_shown_are_refused(
    images: Tensor, options: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        to_uint8(images, **options)
    with pytest.raises(error, match=message):
        overlay(images, torch.ones(1, 1, 2, 2), **options)


# Heat maps


def test_a_map_spans_the_colour_map_from_its_minimum_to_its_maximum() -> None:
    assert heat(1.0, 2.0, 3.0) == [0, 128, 255]


@pytest.mark.parametrize(
    ("sign", "expected"),
    [
        ("positive", [0, 0, 0, 255]),
        ("negative", [255, 64, 0, 0]),
        ("absolute_value", [255, 64, 0, 128]),
        # -4 is as far from 0 as the scale goes, so 0 is in the middle and 2 halfway up.
        ("all", [0, 96, 128, 191]),
    ],
)
def test_sign_says_which_values_are_heat(sign: Any, expected: list[int]) -> None:
    assert heat(-4.0, -1.0, 0.0, 2.0, sign=sign) == expected


def test_each_image_has_its_own_scale_unless_one_is_given() -> None:
    images, maps = torch.zeros(2, 1, 1, 2), torch.tensor([[[[0.0, 1.0]]], [[[0.0, 4.0]]]])
    own = overlay(images, maps, cmap="gray", alpha=1)
    common = overlay(images, maps, cmap="gray", alpha=1, vmin=0, vmax=4)
    assert own[:, 0, 0].tolist() == [[0, 255], [0, 255]]
    assert common[:, 0, 0].tolist() == [[0, 64], [0, 255]]


def test_a_given_scale_clips_what_lies_beyond_it() -> None:
    assert heat(1.0, 2.0, 3.0, 9.0, vmin=2.0, vmax=4.0) == [0, 0, 128, 255]
    assert heat(1.0, 2.0, 8.0, vmax=4.0) == [64, 128, 255]  # from 0
    assert heat(1.0, 2.0, 4.0, vmin=2.0) == [0, 0, 255]
    assert heat(-1.0, 0.0, 0.5, 9.0, sign="all", vmax=1.0) == [0, 128, 191, 255]
    assert heat(0.5, 0.5, vmin=2.0) == [0, 0]
    assert heat(0.5, 0.5, vmin=0.0, vmax=1.0) == [128, 128]  # constant, but on a known scale


def test_the_largest_values_saturate_by_their_share_of_the_sum() -> None:
    # The sum is 10; 1, 2 and 3 are the first to reach half of it.
    assert heat(0.0, 1.0, 2.0, 3.0, 4.0, outlier_perc=50) == [0, 85, 170, 255, 255]
    assert heat(0.0, -1.5, 1.5, 3.0, -4.0, outlier_perc=50, sign="all") == [128, 64, 191, 255, 0]


def test_a_single_hot_pixel_is_not_saturated_away() -> None:
    assert heat(*[0.0] * 99, 1.0, outlier_perc=2) == [0] * 99 + [255]


@pytest.mark.parametrize("value", [0.0, 0.7, 1e30, 1e-40])
def test_a_map_without_contrast_shows_no_heat(value: float) -> None:
    image = torch.rand(1, 3, 37, 53)
    for size in ((37, 53), (7, 5)):  # bilinear resizing adds rounding noise to a constant
        shown = overlay(image, torch.full((1, 1, *size), value), cmap="gray", alpha=0.5)
        expected = (image * 255 / 2).round()
        assert (shown - expected).abs().max() <= 1


def test_a_zero_map_has_the_middle_colour_of_a_signed_picture() -> None:
    picture = overlay(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2), sign="all", alpha=1)
    middle = np.round(255 * np.array(matplotlib.colormaps["bwr"](128)[:3]))
    assert picture[0, :, 0, 0].tolist() == middle.tolist()
    assert picture.unique().numel() == 2  # white, up to the half step from 127.5 to 128


@pytest.mark.parametrize(("sign", "name"), [("positive", "inferno"), ("all", "bwr")])
def test_colours_are_those_of_matplotlib(sign: Any, name: str) -> None:
    values = torch.linspace(-1, 1, 256) if sign == "all" else torch.linspace(0, 1, 256)
    picture = overlay(torch.zeros(1, 1, 256), values[None], sign=sign, alpha=1)
    table = matplotlib.colormaps[name](np.arange(256), bytes=True)[:, :3]
    assert (picture[:, 0].T.int() - torch.from_numpy(table).int()).abs().max() <= 1
    given = overlay(
        torch.zeros(1, 1, 256), values[None], sign=sign, alpha=1, cmap=matplotlib.colormaps[name]
    )
    assert torch.equal(given, picture)


def test_alpha_blends_between_the_image_and_the_colours() -> None:
    image, ramp = torch.full((1, 1, 1, 2), 0.2), torch.tensor([[[0.0, 1.0]]])
    shown = {a: overlay(image, ramp, cmap="gray", alpha=a)[0, 0, 0].tolist() for a in (0, 0.5, 1)}
    assert shown == {0: [51, 51], 0.5: [26, 153], 1: [0, 255]}


def test_channels_are_averaged_so_repeated_ones_do_not_matter() -> None:
    images, maps = torch.rand(2, 3, 6, 8), torch.randn(2, 1, 6, 8)
    one = overlay(images, maps)
    assert (overlay(images, maps.expand(-1, 3, -1, -1)).int() - one).abs().max() <= 1
    assert torch.equal(overlay(images, maps[:, 0]), one)
    two = torch.cat([maps, torch.zeros_like(maps)], dim=1)
    assert (overlay(images, two, vmax=0.5).int() - overlay(images, maps, vmax=1.0)).abs().max() <= 1


def test_a_layers_map_is_resized_bilinearly_to_a_non_square_image() -> None:
    images, maps = torch.rand(2, 3, 20, 30), torch.randn(2, 1, 4, 5)
    resized = interpolate(maps, size=(20, 30), mode="bilinear", align_corners=False)
    assert torch.equal(overlay(images, maps), overlay(images, resized))


def test_a_batch_equals_its_images_one_by_one() -> None:
    images, maps = torch.rand(3, 3, 9, 1), torch.randn(3, 1, 3, 1)  # one pixel wide
    together = overlay(images, maps, sign="all", outlier_perc=2)
    assert together.shape == (3, 3, 9, 1)
    for i in range(3):
        alone = overlay(images[i], maps[i], sign="all", outlier_perc=2)
        assert torch.equal(alone, together[i])
        assert torch.equal(overlay(images[i], maps[i, 0], sign="all", outlier_perc=2), alone)


def test_an_empty_batch_gives_no_pictures() -> None:
    assert overlay(torch.zeros(0, 1, 8, 8), torch.zeros(0, 1, 2, 2)).shape == (0, 3, 8, 8)


def test_numpy_maps_and_images_are_taken_as_they_are() -> None:
    images, maps = torch.rand(2, 3, 6, 8), torch.rand(2, 6, 8)
    read_only = maps.numpy().copy()
    read_only.setflags(write=False)
    expected = overlay(images, maps)
    assert torch.equal(overlay(images.numpy(), read_only), expected)
    flipped = overlay(images.flip(-1), maps.numpy()[:, :, ::-1])
    assert torch.equal(flipped, expected.flip(-1))


def test_inputs_that_require_gradients_are_left_as_they_were() -> None:
    images = torch.rand(1, 3, 4, 4, requires_grad=True)
    maps = images.sum(dim=1)
    before = images.detach().clone(), maps.detach().clone()
    assert not overlay(images, maps).requires_grad
    assert torch.equal(images, before[0])
    assert torch.equal(maps, before[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pictures_are_made_on_the_images_device() -> None:
    images, maps = torch.rand(2, 3, 6, 8), torch.randn(2, 1, 3, 4)
    shown = overlay(images.cuda(), maps, mean=0, std=1, outlier_perc=2)
    assert shown.is_cuda
    on_cpu = overlay(images, maps, outlier_perc=2)
    assert (shown.cpu().int() - on_cpu).abs().max() <= 1
    assert np.array_equal(grid([[shown[0]]], height=6), grid([[shown[0].cpu()]], height=6))


@settings(max_examples=60, deadline=None)
@given(
    maps=hnp.arrays(np.float32, (2, 3, 4), elements=st.floats(-(2.0**126), 2.0**126, width=32)),
    sign=st.sampled_from(["positive", "negative", "absolute_value", "all"]),
)
def test_any_finite_map_gives_a_picture_that_keeps_the_order_of_its_values(
    maps: Any, sign: Any
) -> None:
    picture = overlay(torch.zeros(2, 1, 3, 4), maps, sign=sign, cmap="gray", alpha=1)
    meant = {
        "positive": maps.clip(min=0),
        "negative": (-maps).clip(min=0),
        "absolute_value": abs(maps),
        "all": maps,
    }[sign]
    for values, grays in zip(meant.reshape(2, -1), picture[:, 0].reshape(2, -1), strict=True):
        ascending = grays[np.argsort(values, kind="stable")].int()
        assert (ascending.diff() >= 0).all()
        extreme = grays[int(abs(values).argmax())]
        assert extreme in (0, 255) or abs(values).max() < 1e-30


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_maps_that_are_not_finite_are_refused(bad: float) -> None:
    maps = torch.zeros(2, 1, 4, 4)
    maps[1, 0, 2, 2] = bad
    with pytest.raises(ValueError, match="attributions contain NaN or infinite values"):
        overlay(torch.zeros(2, 3, 4, 4), maps)


@pytest.mark.parametrize(
    ("images", "maps", "expected"),
    [
        ((2, 3, 4, 4), (3, 1, 4, 4), r"\(3, 1, 4, 4\) do not fit 2 image.*expected \(N, C, h, w\)"),
        ((2, 3, 4, 4), (4, 4), r"expected \(N, C, h, w\) or \(N, h, w\)"),
        ((2, 3, 4, 4), (2, 1, 0, 4), r"\(2, 1, 0, 4\) do not fit"),
        ((2, 3, 4, 4), (2, 0, 4, 4), r"\(2, 0, 4, 4\) do not fit"),
        ((3, 4, 4), (1, 1, 4, 4), r"expected \(C, h, w\) or \(h, w\)"),
    ],
)
def test_maps_that_do_not_fit_the_images_are_refused(images: Any, maps: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        overlay(torch.zeros(images), torch.zeros(maps))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sign": "signed"}, "sign must be one of positive, negative, absolute_value, all"),
        ({"alpha": 1.1}, r"alpha must be in \[0, 1\], not 1.1"),
        ({"vmin": 2, "vmax": 2}, "vmin < vmax, not 2 and 2"),
        ({"vmax": 0}, "vmin < vmax, not None and 0"),
        ({"vmin": -torch.inf}, "must be finite"),
        ({"vmax": torch.nan}, "must be finite"),
        ({"sign": "all", "vmin": -1, "vmax": 1}, "symmetric about 0: pass vmax alone"),
        ({"outlier_perc": 100}, r"outlier_perc must be in \[0, 100\), not 100"),
        ({"cmap": "no-such-map"}, "'no-such-map' is not a valid value"),
    ],
)
def test_options_out_of_range_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        overlay(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4), **options)


# Photographs


def test_a_photograph_is_drawn_whole_with_heat_where_the_network_looked() -> None:
    photograph = Image.new("RGB", (8, 6), (0, 0, 255))
    maps = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    picture = overlay(photograph, maps, box=(2, 1, 6, 5), cmap="gray", alpha=1)
    assert picture.shape == (3, 6, 8)
    assert picture[:, 1:5, 2:6].tolist() == [[[0, 64, 191, 255]] * 4] * 3
    outside = torch.ones(6, 8, dtype=torch.bool)
    outside[1:5, 2:6] = False
    assert picture[:, outside].unique().tolist() == [round(255 * (0.4 / 3 + 0.6))]  # pale and gray
    assert torch.equal(
        overlay(photograph, maps[0], box=(2, 1, 6, 5), cmap="gray", alpha=1), picture
    )


def test_a_photograph_needs_the_part_that_the_network_saw() -> None:
    photograph = Image.new("RGB", (8, 6))
    with pytest.raises(ValueError, match=r"pass box=model.view\(image\), .* box=\(0, 0, 8, 6\)"):
        overlay(photograph, torch.ones(2, 2))
    with pytest.raises(ValueError, match="box must lie in the image of 8x6 pixels"):
        overlay(photograph, torch.ones(2, 2), box=(0, 0, 9, 6))


def test_photographs_become_pictures() -> None:
    photograph = Image.new("L", (4, 2), 7)
    assert torch.equal(to_uint8(photograph), torch.full((3, 2, 4), 7, dtype=torch.uint8))
    assert grid([[photograph]], height=2)[4:6, 4:8].tolist() == [[[7] * 3] * 4] * 2


# Figures


def plain(value: int, height: int = 72, width: int = 72) -> Tensor:
    return torch.full((3, height, width), value, dtype=torch.uint8)


def ink(figure: Any) -> Any:
    return (figure < 128).all(axis=-1)


def test_pictures_stand_in_rows_and_columns_with_gutters_between() -> None:
    figure = grid([[plain(10), plain(20)], [plain(30), None]], height=72)
    expected = np.full((4 + 72 + 4 + 72 + 4, 4 + 72 + 4 + 72 + 4, 3), 255, dtype=np.uint8)
    expected[4:76, 4:76], expected[4:76, 80:152], expected[80:152, 4:76] = 10, 20, 30
    assert figure.dtype == np.uint8
    assert np.array_equal(figure, expected)


def test_pictures_of_all_sizes_get_one_height_and_stand_in_the_middle_of_their_column() -> None:
    rows = [[plain(10, 36, 72)], [torch.zeros(1, 9, 3)]]  # 72 × 144 and 72 × 24 when scaled
    figure = grid(rows, height=72)
    assert figure.shape == (156, 4 + 144 + 4, 3)
    assert (figure[4:76, 4:148] == 10).all()
    black = np.flatnonzero(ink(figure)[80])
    assert (black[0], black[-1], len(black)) == (4 + 60, 4 + 60 + 23, 24)


def test_batches_become_rows_with_zip() -> None:
    images, maps = torch.rand(3, 3, 12, 16), torch.rand(3, 1, 3, 4)
    figure = grid(zip(to_uint8(images), overlay(images, maps), strict=True), height=12)
    assert figure.shape == (3 * (12 + 4) + 4, 2 * (16 + 4) + 4, 3)
    assert np.array_equal(figure[20:32, 24:40], overlay(images, maps)[1].permute(1, 2, 0))


def test_each_text_stands_by_its_picture() -> None:
    rows = [[plain(255), plain(255)], [plain(255), plain(255)]]
    bare = grid(rows, height=72).shape
    titled = grid(rows, titles=["", "two"], height=72)
    rise = titled.shape[0] - bare[0]
    assert ink(titled)[:rise, 80:].any()
    assert not ink(titled)[:, :80].any()
    assert not ink(titled)[rise:].any()
    captioned = grid(rows, captions=[["", ""], ["three", ""]], height=72)
    assert captioned.shape[0] == bare[0] + rise
    assert ink(captioned)[152:, :76].any()
    assert not ink(captioned)[:152].any()
    assert not ink(captioned)[:, 76:].any()
    labelled = grid(rows, row_labels=["", "row"], height=72)
    shift = labelled.shape[1] - bare[1]
    assert ink(labelled)[80:, :shift].any()
    assert not ink(labelled)[:80].any()
    assert not ink(labelled)[:, shift:].any()


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_stays_within_its_column(text: str) -> None:
    figure = grid([[plain(255), plain(255)]], titles=[text, ""], captions=[[text, ""]], height=72)
    assert figure.shape[1] == 156
    assert not ink(figure)[:, 80:].any()


def test_long_texts_are_broken_at_spaces_and_inside_long_words() -> None:
    def rise(text: str) -> int:
        return grid([[plain(255)]], titles=[text], height=72).shape[0] - 80

    one_line = rise("one") - 4
    assert rise("one two three four") > one_line + 4
    assert rise("one\ntwo\nthree") == 3 * one_line + 4
    assert rise("without_any_space_at_all") > one_line + 4


def test_a_bar_shows_the_colours_from_lowest_to_highest() -> None:
    bare = grid([[plain(10)], [plain(20)]], height=72)
    figure = grid([[plain(10)], [plain(20)]], height=72, cmap="gray", cmap_labels=("", ""))
    assert np.array_equal(figure[:, : bare.shape[1]], bare)
    bar = figure[4:76, 80:84].astype(int)
    assert (bar[0].min(), bar[-1].max()) == (255, 0)
    assert (np.diff(bar, axis=0) <= 0).all()
    assert (figure[80:, bare.shape[1] :] == 255).all()
    labelled = grid([[plain(255)]], height=72, cmap="viridis", cmap_labels=("low", "high"))
    assert ink(labelled)[4:24, 88:].any()
    assert ink(labelled)[56:76, 88:].any()


def test_dollar_signs_are_not_mathematics() -> None:
    titles = ["$x^2$", "x\N{SUPERSCRIPT TWO}"]
    with_dollars, typeset = (
        ink(grid([[plain(255)]], titles=[title], height=72)).sum() for title in titles
    )
    assert with_dollars > 2 * typeset


@pytest.mark.parametrize(
    ("rows", "options", "error", "message"),
    [
        ([], {}, ValueError, "there is no picture"),
        ([[]], {}, ValueError, "there is no picture"),
        ([[plain(0)], [plain(0)] * 2], {}, ValueError, r"rows\[1\] has 2 entries; expected 1"),
        ([[plain(0)]], {"titles": ["a", "b"]}, ValueError, "titles has 2 entries; expected 1"),
        ([[plain(0)]], {"titles": "a"}, TypeError, "titles must be a list of strings"),
        ([[plain(0)]], {"captions": [["a", "b"]]}, ValueError, r"captions\[0\] has 2 entries"),
        ([[plain(0)]], {"row_labels": []}, ValueError, "row_labels has 0 entries"),
        ([[plain(0)]], {"height": 0}, ValueError, "height must be at least 1 pixel"),
        ([[plain(0)[None]]], {}, ValueError, r"not \(1, 3, 72, 72\)"),
        ([[torch.full((3, 4, 4), -2.0)]], {}, ValueError, "pass mean and std"),
    ],
)
def test_figures_that_do_not_fit_together_are_refused(
    rows: Any, options: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        grid(rows, **options)


def test_an_empty_place_alone_keeps_its_column() -> None:
    assert grid([[None]], height=72).shape == (80, 4 + 36 + 4, 3)


# Files


def test_what_is_saved_is_what_is_read(tmp_path: Path) -> None:
    picture = torch.randint(256, (3, 5, 7), dtype=torch.uint8)
    save_png(picture, tmp_path / "tensor.png")
    save_png(picture.permute(1, 2, 0).numpy(), str(tmp_path / "array.PNG"))
    for name in ("tensor.png", "array.PNG"):
        with Image.open(tmp_path / name) as read:
            assert read.format == "PNG"
            assert np.array_equal(np.array(read), picture.permute(1, 2, 0))


def test_a_figure_that_cannot_be_saved_says_why(tmp_path: Path) -> None:
    figure = np.zeros((4, 6, 3), dtype=np.uint8)
    with pytest.raises(FileNotFoundError, match="missing does not exist: create it first"):
        save_png(figure, tmp_path / "missing" / "figure.png")
    with pytest.raises(ValueError, match=r"figure\.jpg does not end in \.png"):
        save_png(figure, tmp_path / "figure.jpg")
    for wrong in (figure[None], figure / 255, torch.from_numpy(figure)):
        with pytest.raises(ValueError, match="expected one uint8 picture"):
            save_png(wrong, tmp_path / "figure.png")
    assert list(tmp_path.iterdir()) == []
