"""The command line from outside: figures, facts, arrays, errors and exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.workplace import photograph
from PIL import Image

import captum_excon
from captum_excon import attr
from captum_excon.models import load_model

pytest.importorskip("typer")
from typer.testing import CliRunner

from captum_excon.__main__ import main
from captum_excon._files import read_image
from captum_excon.cli.app import app

SMALL = ["--model", "nets:small", "--size", "24"]
FAST = [*SMALL, "--method", "adaptive-hybrid-cam"]

pytestmark = [
    pytest.mark.usefixtures("workplace"),
    # The small networks are not trained.
    pytest.mark.filterwarnings("ignore:.*maps? (is|are) all zero"),
]


@pytest.fixture(autouse=True)
def image(workplace: Path) -> Path:
    torch.manual_seed(3)  # the small networks' weights are random
    path = workplace / "photo.png"
    photograph().save(path)
    return Path("photo.png")


def run(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def facts(*arguments: object, code: int = 0) -> Any:
    return json.loads(run(*arguments, "--json", code=code).stdout)


def refused(*arguments: object) -> str:
    """The one line on standard error of a command that ends with status 2."""
    result = run(*arguments, code=2)
    assert result.stdout == ""
    (line,) = errors(result)
    assert line.startswith("captum-excon: error: ")
    return line.removeprefix("captum-excon: error: ")


def errors(result: Any) -> list[str]:
    """The lines on standard error after the one that says what is being loaded."""
    lines: list[str] = result.stderr.splitlines()
    return [line for line in lines if not line.startswith("captum-excon: loading ")]


def shape(path: str | Path) -> tuple[int, int]:
    with Image.open(path) as figure:
        assert (figure.format, figure.mode) == ("PNG", "RGB")
        return figure.size


@pytest.mark.slow
def test_without_arguments_a_photograph_is_explained_by_the_demo_model(workplace: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("skimage")
    command = "-m captum_excon explain --method adaptive-hybrid-cam --out figure.png --json"
    result = subprocess.run(
        [sys.executable, *command.split()],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert found["model"] == "demo"
    assert found["input"] == {"size": [224, 224], "mean": [0.5] * 3, "std": [0.5] * 3}
    (one,) = found["images"]
    assert one["target"]["label"] == "espresso"
    assert one["target"] == one["top5"][0]
    (method,) = one["methods"]
    assert method["layers"] == [layer["name"] for layer in found["layers"]]
    assert method["masks"] >= 10
    assert shape("figure.png")[0] > 500


@pytest.mark.slow
def test_an_interrupt_ends_with_130_and_without_a_traceback() -> None:
    Path("slow.py").write_text(
        "import time\n\ndef net():\n    open('started', 'w').close()\n    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "captum_excon", "explain", "photo.png", "--model", "slow:net"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in the background, children inherit that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not Path("started").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    assert stderr == "captum-excon: loading slow:net ...\n"


def test_main_names_the_extra_if_typer_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "captum_excon.cli.app")
    monkeypatch.delattr(captum_excon.cli, "app", raising=False)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith('pip install "captum-excon[cli]"')


def test_all_four_methods_are_shown_and_counted(image: Path) -> None:
    found = facts("explain", image, *SMALL, "--n-steps", 5)
    (one,) = found["images"]
    fused, integrated, sise, adaptive = one["methods"]
    assert [m["method"] for m in one["methods"]] == [
        "fused-group-cam",
        "integrated-grad-cam",
        "multi-layer-sise",
        "adaptive-hybrid-cam",
    ]
    assert (integrated["masks"], integrated["layers"]) == (None, ["4"])
    assert 5 <= integrated["forward_rows"] <= 6
    assert fused["layers"] == sise["layers"] == adaptive["layers"] == ["1", "4"]
    assert 1 <= fused["masks"] <= 6  # as many as the deepest layer has maps
    assert fused["forward_rows"] == fused["masks"] + 3
    assert sise["forward_rows"] == sise["masks"] + 1
    assert adaptive["forward_rows"] == adaptive["masks"] + 1
    assert adaptive["masks"] <= sise["masks"]
    assert found["layers"] == [
        {"name": "1", "type": "ReLU", "channels": 5, "size": [24, 24]},
        {"name": "4", "type": "ReLU", "channels": 6, "size": [10, 10]},
    ]
    assert one["figure"] == "explanation.png"
    width, height = shape("explanation.png")
    assert 6 < width / height < 8  # five photographs of 3:2, and the bar


def test_the_text_names_classes_layers_masks_rows_time_and_files(image: Path) -> None:
    Path("names.txt").write_text("ant\nbee\ncat\ndog\n")
    out = run(
        "explain", image, *FAST, "--labels", "names.txt", "--target", "BEE", "--save-npz"
    ).stdout
    for part in (
        "model: nets:small on cpu",
        "input: 24x24, mean 0, 0, 0, std 1, 1, 1",
        "layers: 1, 4",
        "image: photo.png",
        "top 5: ",
        "explained: 1 bee",
        "method               masks  forward rows    time\nadaptive-hybrid-cam ",
        " s\nwrote: explanation.png, explanation.npz",
    ):
        assert part in out


def test_the_text_is_silent_with_quiet(image: Path) -> None:
    assert run("explain", image, *FAST, "--quiet").output == ""


def test_layer_maps_are_drawn_below(image: Path) -> None:
    run("explain", image, *FAST, "--out", "plain.png")
    run("explain", image, *FAST, "--out", "layers.png", "--layer-maps", "--save-npz")
    assert shape("layers.png")[1] > 1.8 * shape("plain.png")[1]
    with np.load("layers.npz", allow_pickle=False) as arrays:
        assert {"adaptive-hybrid-cam.1", "adaptive-hybrid-cam.4"} < set(arrays)
        assert arrays["adaptive-hybrid-cam.4"].max() == pytest.approx(1)


def test_arrays_hold_the_maps_of_the_library(image: Path) -> None:
    options = ["--mean", "0.4", "--std", "0.2,0.2,0.3", "--target", "1", "--threshold", "0.2"]
    torch.manual_seed(3)
    run("explain", image, *SMALL, *options, "--n-steps", 4, "--save-npz", "--weights", saved())
    model = load_model(
        "nets:small", size=(24, 24), mean=(0.4,), std=(0.2, 0.2, 0.3), weights=Path("net.pt")
    )
    inputs = model.inputs(photograph())
    sise = attr.MultiLayerSISE(model.module).attribute(inputs, target=1, threshold=0.2)
    cam = attr.IntegratedGradCAM(model.module).attribute(
        inputs, baselines=model.black(), target=1, n_steps=4
    )
    cam = torch.nn.functional.interpolate(cam, (24, 24), mode="bilinear")
    with np.load("explanation.npz", allow_pickle=False) as arrays:
        assert arrays["multi-layer-sise"].dtype == np.float32
        np.testing.assert_allclose(arrays["multi-layer-sise"], sise[0, 0], atol=1e-5)
        np.testing.assert_allclose(arrays["integrated-grad-cam"], cam[0, 0], atol=1e-5)
        assert (arrays["path"], arrays["target"], arrays["class_name"]) == (
            "photo.png",
            1,
            "class 1",
        )
        assert arrays["layers"].tolist() == ["1", "4"]
        np.testing.assert_allclose(
            arrays["image"], model.geometry(photograph()).permute(1, 2, 0), atol=1e-6
        )


def saved() -> str:
    torch.save(load_model("nets:small").module.state_dict(), "net.pt")
    return "net.pt"


def test_the_figure_shows_the_whole_photograph_and_heat_where_the_model_looked(image: Path) -> None:
    style = ["--height", 120, "--cmap", "gray", "--alpha", 1]
    run("explain", image, *FAST, "--size", "24x24", "--mean", "0.3", "--std", "0.1", *style)
    with Image.open("explanation.png") as figure:
        left, heat = (figure.crop((4 + x, 4, 4 + x + 180, 124)) for x in (0, 184))
    small = np.array(left.resize((90, 60))).astype(int)
    assert np.abs(small - np.array(photograph())).mean() < 3
    shown = np.array(heat).astype(int)
    assert (shown[..., 0] == shown[..., 2]).all()  # gray everywhere
    outside = np.concatenate([shown[:, :30], shown[:, 150:]])
    assert outside.min() >= 0.6 * 255
    inside = shown[:, 32:148]
    assert (inside.min(), inside.max()) == (0, 255)


def test_each_target_has_a_row_of_its_own(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweeps: list[Any] = []
    original = attr.AdaptiveHybridCAM.attribute_classes

    def spy(self: Any, inputs: Any, classes: Any, *args: Any, **kwargs: Any) -> Any:
        sweeps.append(classes)
        return original(self, inputs, classes, *args, **kwargs)

    monkeypatch.setattr(attr.AdaptiveHybridCAM, "attribute_classes", spy)
    options = [*SMALL, "-m", "ada-sise,grad-cam", "--save-npz", "--layer-maps"]
    options += ["--weights", saved()]
    run("explain", image, *options, "--target", 1, "--out", "one.png")
    found = facts("explain", image, *options, "-t", 1, "-t", 2, "-t", "1", "--out", "two.png")
    (one,) = found["images"]
    assert [target["index"] for target in one["targets"]] == [1, 2]
    assert sweeps == [[1, 2]]
    assert shape("two.png")[1] > 1.8 * shape("one.png")[1]
    with np.load("one.npz") as alone, np.load("two.npz") as both:
        assert both["target"].tolist() == [1, 2]
        for name in ("adaptive-hybrid-cam", "captum:layer-grad-cam", "adaptive-hybrid-cam.4"):
            np.testing.assert_allclose(both[name][0], alone[name], atol=1e-6)
            assert both[name].shape == (2, 24, 24)
            assert not np.allclose(both[name][0], both[name][1])


@pytest.mark.parametrize(
    "name",
    ["captum:layer-grad-cam", "captum:integrated-gradients", "captum:occlusion",
     "captum:guided-grad-cam", "grad-cam:LayerCAM", "grad-cam:FullGrad"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Setting backward hooks")
def test_methods_of_captum_and_grad_cam_are_drawn_too(image: Path, name: str) -> None:
    if name.startswith("grad-cam:"):
        pytest.importorskip("pytorch_grad_cam")
    found = facts("explain", image, *SMALL, "--method", name, "--save-npz")
    (method,) = found["images"][0]["methods"]
    assert method["method"] == name
    assert method["forward_rows"] >= 1
    with np.load("explanation.npz") as arrays:
        assert arrays[name].shape == (24, 24)
        assert arrays[name].any()


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_methods_can_be_repeated_or_listed_and_new_ones_are_found(
    image: Path,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (workplace / "more").mkdir()
    (workplace / "more" / "plain_gradient.py").write_text(
        "from captum.attr import Saliency\n\n\nclass PlainGradient(Saliency):\n    pass\n"
    )
    monkeypatch.setattr(attr, "__path__", [*attr.__path__, str(workplace / "more")])
    listed = "rise, score-cam,rise"
    found = facts("explain", image, *SMALL, "-m", listed, "-m", "plain-gradient", "--n-masks", 20)
    sys.modules.pop("captum_excon.attr.plain_gradient", None)
    methods = found["images"][0]["methods"]
    assert [m["method"] for m in methods] == ["rise", "score-cam", "plain-gradient"]
    assert [m["layers"] for m in methods] == [[], ["4"], []]
    assert (methods[0]["masks"], methods[0]["forward_rows"]) == (20, 20)
    assert (methods[2]["masks"], methods[2]["forward_rows"]) == (None, 1)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_rise_explains_a_torchscript_model_and_the_others_refuse_it(image: Path) -> None:
    Path("scripted.py").write_text(
        "import nets, torch\n\ndef net():\n    return torch.jit.script(nets.small())\n"
    )
    model = ["--model", "scripted:net", "--size", 24]
    found = facts("explain", image, *model, "--method", "rise", "--n-masks", 10)
    assert found["layers"] == []
    assert found["images"][0]["methods"][0]["forward_rows"] == 10
    assert "no layers found in scripted:net; pass --layers, " in refused(
        "explain", image, *model, "--method", "multi-layer-sise"
    )


def test_options_reach_the_methods(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    original = attr.MultiLayerSISE.attribute

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.update(kwargs)
        return original(self, *args, **kwargs)

    spy.__wrapped__ = original  # type: ignore[attr-defined]
    monkeypatch.setattr(attr.MultiLayerSISE, "attribute", spy)
    options = ["--batch-size", 3, "--autocast", "bfloat16", "--threshold", 0.5, "--layers", "4"]
    found = facts("explain", image, *SMALL, "-m", "multi-layer-sise", *options)
    assert seen == {
        "target": found["images"][0]["target"]["index"],
        "perturbations_per_eval": 3,
        "autocast_dtype": torch.bfloat16,
        "threshold": 0.5,
        "show_progress": False,
    }
    assert found["images"][0]["methods"][0]["layers"] == ["4"]


def test_tokens_are_explained_through_their_grid(image: Path) -> None:
    options = ["--model", "nets:Tokens", "--size", 16, "--tokens", "4x4", "--layers", "first"]
    found = facts("explain", image, *options, "-m", "multi-layer-sise,integrated-grad-cam")
    assert found["layers"] == [{"name": "first", "type": "Linear", "channels": 6, "size": [4, 4]}]


def test_folders_and_patterns_give_one_figure_an_image(workplace: Path) -> None:
    for name in ("in/b.png", "in/a.jpg", "in/deep/c.png", "in/A.bmp"):
        Path(name).parent.mkdir(exist_ok=True, parents=True)
        photograph().save(name)
    Path("in/notes.txt").touch()
    found = facts("explain", "in", "in/**/c.png", "photo.png", *FAST, "--out", "new/figures")
    assert [Path(one["image"]).name for one in found["images"]] == [
        "A.bmp",
        "a.jpg",
        "b.png",
        "c.png",
        "photo.png",
    ]
    written = sorted(p.name for p in Path("new/figures").iterdir())
    assert written == ["A.png", "a-2.png", "b.png", "c.png", "photo.png"]
    assert found["images"][1]["figure"] == str(Path("new/figures/a-2.png"))


def test_an_existing_folder_takes_the_figure_of_one_image(image: Path) -> None:
    Path("figures").mkdir()
    run("explain", image, *FAST, "--out", "figures", "--save-npz")
    assert sorted(p.name for p in Path("figures").iterdir()) == ["photo.npz", "photo.png"]


def test_images_are_never_replaced_by_figures(image: Path) -> None:
    before = image.read_bytes()
    assert "is the image itself" in refused("explain", image, *FAST, "--out", image)
    run("explain", image, "photo.png", *FAST, "--out", ".")
    assert image.read_bytes() == before
    shape("photo-2.png")


def test_the_other_images_of_a_batch_are_still_written(image: Path) -> None:
    Path("in").mkdir()
    photograph().save("in/good.png")
    Path("in/broken.png").write_bytes(Path("in/good.png").read_bytes()[:200])
    Path("in/text.jpg").write_text("no picture")
    result = run("explain", "in", "missing.png", "no*.png", *FAST, "--json", code=2)
    found = json.loads(result.stdout)
    assert [one["figure"] for one in found["images"]] == [str(Path("explanations/good.png"))]
    shape("explanations/good.png")
    assert [e["image"] for e in found["errors"]] == [
        "missing.png",
        "no*.png",
        str(Path("in/broken.png")),
        str(Path("in/text.jpg")),
    ]
    lines = errors(result)
    assert len(lines) == 4
    assert "missing.png: no such file" in lines[0]
    assert "no*.png: no file matches this pattern" in lines[1]
    assert all("cannot be read as an image (" in line for line in lines[2:])


def test_a_model_that_fails_on_one_image_is_reported_for_that_one(image: Path) -> None:
    Path("moody.py").write_text(
        "import nets\n\n\nclass Net(type(nets.small())):\n    def __init__(self):\n"
        "        super().__init__(*nets.small())\n\n    def forward(self, x):\n"
        "        if x.min() == 1:\n            raise RuntimeError('too\\nwhite')\n"
        "        return super().forward(x)\n"
    )
    Image.new("RGB", (30, 30), "white").save("white.png")
    options = ["--model", "moody:Net", "--size", "24", "-m", "adaptive-hybrid-cam"]
    result = run("explain", "white.png", image, *options, code=2)
    (line,) = errors(result)
    assert "error: white.png: moody:Net fails on an input" in line
    assert line.endswith("(RuntimeError: too white)")
    assert "image: photo.png" in result.stdout
    assert CliRunner().invoke(app, ["explain", "white.png", *options, "--traceback"]).exception


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.png", *FAST], "missing.png: no such file"),
        (["empty", *FAST], "empty: no images in this folder; looked for .bmp, "),
        (["photo.png", *FAST, "--target", "cat"], "class names of nets:small are not known"),
        (["photo.png", *FAST, "--target", "4"], "--target 4 is out of range: nets:small has 4"),
        (["photo.png", "--model", "resnet18"], "did you mean 'torchvision:resnet18'"),
        (["photo.png", *FAST, "--layers", "44"], "nets:small has no layer '44'; did you mean '4'"),
        (["photo.png", *SMALL, "-m", "multi-layer-size"], "did you mean 'multi-layer-sise'"),
        (["photo.png", *SMALL, "-m", ","], "--method is empty"),
        (["photo.png", *FAST, "--out", "photo.png/x.png"], "photo.png: cannot make this folder"),
        (["photo.png", *FAST, "--out", "x.jpg"], "--out x.jpg: figures are PNG"),
        (["empty/../photo.png", "nets.py", *FAST, "--out", "x.png"], "--out x.png is one figure"),
        (["photo.png", *FAST, "--threshold", "0.3"], "--threshold is not an option of adaptive-"),
        (
            ["photo.png", *FAST, "--cmap", "virids"],
            "no colour map 'virids'; did you mean",
        ),
        (["photo.png", *SMALL, "-m", "siise"], "unknown method 'siise'; did you mean 'sise'"),
        (
            ["photo.png", *FAST, "--autocast", "int8"],
            "--autocast should be 'bfloat16' or",
        ),
        (["photo.png", *FAST, "--device", "tpu"], "'tpu' is unknown; devices are auto, "),
        (["photo.png", *FAST, "--size", "0"], "--size: must be N or HxW"),
        (["photo.png", *FAST, "--size", "1x2x3"], "--size: must be N or HxW"),
        (["photo.png", *FAST, "--mean", "a,b"], "--mean.0 should be a valid number, but found 'a'"),
        (["photo.png", *FAST, "--std", "0"], "--std must be positive"),
        (["photo.png", *FAST, "--tokens", "4*4"], "--tokens: must be N or HxW"),
        (["photo.png", *FAST, "--weights", "nets.py"], "nets.py holds no plain weights"),
    ],
)
def test_what_the_user_can_mend_is_one_line(arguments: list[str], message: str) -> None:
    Path("empty").mkdir()
    assert message in refused("explain", *arguments)
    assert not Path("explanation.png").exists()


def test_a_figure_is_written_whole_or_not_at_all(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("explanation.png").write_text("before")

    def full(picture: Any, path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("captum_excon.visualization.save_png", full)
    before = sorted(os.listdir())
    line = run("explain", image, *FAST, code=2).stderr
    assert "explanation.png: cannot be written (No space left on device)" in line
    assert Path("explanation.png").read_text() == "before"
    assert [f for f in sorted(os.listdir()) if f != "__pycache__"] == [
        f for f in before if f != "__pycache__"
    ]


def test_random_weights_come_with_a_warning(image: Path) -> None:
    options = ["--model", "torchvision:squeezenet1_1@random", "--size", "32"]
    result = run("explain", image, *options, "-m", "integrated-grad-cam", "--n-steps", 2)
    (line,) = errors(result)
    assert line == (
        "captum-excon: warning: torchvision:squeezenet1_1@random has random weights, so its maps "
        "mean nothing"
    )


@pytest.mark.filterwarnings("default")
def test_warnings_are_one_line_and_prints_of_the_model_no_facts(image: Path) -> None:
    Path("chatty.py").write_text(
        "import warnings, nets\n\ndef net():\n    print('hello')\n"
        "    warnings.warn('first\\nsecond')\n    return nets.small()\n"
    )
    options = ["--model", "chatty:net", "--size", 24, "-m", "adaptive-hybrid-cam", "--json"]
    result = run("explain", image, *options)
    assert json.loads(result.stdout)["model"] == "chatty:net"
    assert result.stderr.splitlines() == ["hello", "captum-excon: warning: first second"]


def test_layers_lists_the_chosen_ones_without_downloading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", pytest.fail)
    table = run("layers", "--model", "torchvision:resnet18", "--size", "64x96").stdout
    assert table.splitlines()[:3] == [
        "name          type  channels   size",
        "relu          ReLU        64  32x48",
        "layer1  Sequential        64  16x24",
    ]
    found = facts("layers", "--model", "nets:small")
    assert found["model"] == "nets:small"
    assert [layer["name"] for layer in found["layers"]] == ["1", "4"]
    assert found["layers"][0]["size"] == [224, 224]
    assert "has no layer 'x'" in refused("layers", "--model", "nets:small", "--layers", "x")


def test_version_and_help() -> None:
    assert run("--version").stdout == f"captum-excon {captum_excon.__version__}\n"
    assert {"explain", "layers"} <= set(run("--help").stdout.split())
    manual = run("explain", "--help").stdout
    for option in ("--method", "--weights", "--layer-maps", "Examples:", "Exit status:"):
        assert option in manual


def pixel(path: str) -> tuple[int, ...]:
    value = read_image(Path(path)).getpixel((0, 0))
    assert isinstance(value, tuple)
    return value


def test_every_kind_of_picture_becomes_upright_rgb() -> None:
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save("clear.png")
    Image.new("LA", (2, 2), (0, 128)).save("half.png")
    Image.new("L", (2, 2), 77).save("gray.png")
    Image.new("CMYK", (8, 8), (0, 0, 0, 0)).save("cmyk.jpg")
    Image.fromarray(np.full((2, 2), 257 * 200, np.uint16)).save("deep.png")
    Image.fromarray(np.full((2, 2), 257 * 200, np.int32)).save("deep.tif")
    palette = Image.new("P", (2, 2))
    palette.putpalette([0, 9, 0])
    palette.save("palette.png")
    palette.save("keyed.png", transparency=0)
    turned = Image.new("RGB", (4, 2), "red")
    turned.paste("blue", (2, 0, 4, 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    turned.save("turned.png", exif=exif)
    assert pixel("clear.png") == (255, 255, 255)
    assert pixel("half.png") == (127, 127, 127)
    assert pixel("gray.png") == (77, 77, 77)
    assert pixel("cmyk.jpg") == (255, 255, 255)
    assert pixel("deep.png") == pixel("deep.tif") == (200, 200, 200)
    assert pixel("palette.png") == (0, 9, 0)
    assert pixel("keyed.png") == (255, 255, 255)
    upright = read_image(Path("turned.png"))
    assert (upright.size, upright.getpixel((0, 0))) == ((2, 4), (255, 0, 0))
    assert upright.getpixel((0, 3)) == (0, 0, 255)
    assert read_image(Path("turned.png"), upright=False).size == (4, 2)


def test_pictures_without_a_defined_range_or_too_large_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Image.fromarray(np.zeros((2, 2), np.float32)).save("float.tif")
    assert "floating-point pixels" in refused("explain", "float.tif", *FAST, "-q")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "decompression bomb" in refused("explain", "photo.png", *FAST, "-q")


def test_the_photograph_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    assert 'pip install "captum-excon[demo]"' in refused("explain", *FAST, "-q")
