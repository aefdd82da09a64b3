"""Photographs, and the part of them that a network sees."""

from pathlib import Path

import pytest
from helpers.workplace import photograph
from PIL import Image

from captum_excon import load_image, load_model
from captum_excon.errors import UserError


def test_an_image_is_read_upright_and_in_colour(tmp_path: Path) -> None:
    turned = Image.new("L", (4, 2), "white")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    turned.save(tmp_path / "turned.png", exif=exif)
    image = load_image(tmp_path / "turned.png")
    assert (image.size, image.mode) == ((2, 4), "RGB")


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.png: cannot be read as an image \(No such file"):
        load_image(str(tmp_path / "none.png"))


def test_the_demo_is_as_sure_as_on_the_command_line() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("skimage")
    model = load_model("demo")
    inputs = model.inputs(load_image("demo"))
    assert model.label(model.predict(inputs)) == "espresso"
    assert model.probabilities(inputs).max() == pytest.approx(0.957, abs=0.002)


@pytest.mark.parametrize("size", [(600, 400), (300, 500), (224, 224)])
@pytest.mark.parametrize(
    ("name", "options", "share"),
    [
        # Resized to 256 and cropped at 224; the second to 232; scaled to cover; our own square.
        ("torchvision:resnet18@random", {}, 224 / 256),
        ("torchvision:regnet_y_400mf@random", {}, 224 / 232),
        ("nets:small", {"size": 32}, 1.0),
        ("nets:small", {"size": 32, "grayscale": True}, 1.0),
    ],
)
def test_the_view_is_the_central_square_that_the_network_sees(
    workplace: Path, name: str, options: dict[str, object], share: float, size: tuple[int, int]
) -> None:
    model = load_model(name, **options)  # type: ignore[arg-type]
    side = min(size) * share
    left, top = (size[0] - side) / 2, (size[1] - side) / 2
    view = model.view(photograph(*size))
    assert view == pytest.approx((left, top, left + side, top + side), abs=1.5)


def test_an_oblong_view_covers_the_image_in_one_direction(workplace: Path) -> None:
    view = load_model("nets:small", size=(20, 40)).view(photograph(90, 60))
    assert view == pytest.approx((0, 7.5, 90, 52.5), abs=0.5)
