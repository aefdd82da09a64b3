"""What model names stand for: preprocessing, weights, classes, layers."""

import pickle
import socket
import sys
import urllib.error
from pathlib import Path

import pytest
import torch
import torchvision
from helpers.workplace import photograph
from PIL import Image
from torch import nn

from captum_excon.cli._job import _Counted
from captum_excon.errors import UserError
from captum_excon.models import load_model, pick_device
from captum_excon.models.named_layers import choose_layers, reshape_for


def fails(match: str) -> pytest.RaisesExc[UserError]:
    return pytest.raises(UserError, match=match)


@pytest.mark.parametrize("name", ["efficientnet_b0", "resnet18"])
def test_torchvision_models_see_what_their_weights_prescribe(name: str) -> None:
    model = load_model(f"torchvision:{name}@random")
    weights = torchvision.models.get_model_weights(name).DEFAULT
    expected = weights.transforms()(photograph())
    torch.testing.assert_close(model.inputs(photograph())[0], expected)
    shown = model.geometry(photograph())
    assert shown.min() >= 0
    assert shown.max() <= 1
    assert model.label(285) == "Egyptian cat"
    assert not model.trained
    assert not model.module.training


def test_timm_models_see_what_their_config_prescribes() -> None:
    timm = pytest.importorskip("timm")
    model = load_model("timm:test_resnet@random")
    config = timm.data.resolve_model_data_config(model.module)
    expected = timm.data.create_transform(**config)(photograph())
    torch.testing.assert_close(model.inputs(photograph())[0], expected)
    assert model.inputs(photograph()).shape == (1, *config["input_size"])
    assert model.class_index("tinca TINCA", 1000) == 0


def test_the_demo_model_is_trained_and_knows_a_cat() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    data = pytest.importorskip("skimage.data")
    model = load_model("demo")
    inputs = model.inputs(Image.fromarray(data.chelsea()))
    assert inputs.shape == (1, 3, 224, 224)
    cats = [model.class_index(name, 1000) for name in ("tabby", "tiger cat", "Egyptian cat")]
    assert model.probabilities(inputs)[cats].sum() > 0.8
    assert (model.mean, model.std, model.trained) == ((0.5,) * 3, (0.5,) * 3, True)


def test_black_is_what_a_black_picture_becomes(workplace: Path) -> None:
    model = load_model("nets:small", mean=(0.1, 0.2, 0.3), std=(0.5,))
    black = model.inputs(Image.new("RGB", (9, 9)))
    torch.testing.assert_close(model.black().expand_as(black), black)


def test_size_scales_a_picture_to_cover_it_and_crops_the_centre(workplace: Path) -> None:
    picture = Image.new("RGB", (40, 10), "blue")
    picture.paste("red", (15, 0, 25, 10))
    model = load_model("nets:small", size=(20, 20))
    pixels = model.geometry(picture)
    assert pixels.shape == (3, 20, 20)
    assert pixels[:, :, 4:16].mean((1, 2)).tolist() == [1, 0, 0]
    assert load_model("nets:small", size=(8, 24)).inputs(picture).shape == (1, 3, 8, 24)


def test_a_function_without_options_sees_pixels_in_0_to_1_at_224(workplace: Path) -> None:
    inputs = load_model("nets:small").inputs(Image.new("RGB", (300, 300), (255, 0, 51)))
    assert inputs.shape == (1, 3, 224, 224)
    assert inputs[0, :, 0, 0].tolist() == pytest.approx([1, 0, 0.2])


def test_grayscale_feeds_one_channel(workplace: Path) -> None:
    (workplace / "gray.py").write_text("import nets\n\ndef lenet():\n    return nets.small(1)\n")
    model = load_model("gray:lenet", grayscale=True, size=(28, 28), mean=(0.25,), std=(0.5,))
    inputs = model.inputs(Image.new("RGB", (30, 30), "white"))
    assert inputs.shape == (1, 1, 28, 28)
    assert inputs.mean().item() == pytest.approx(1.5, abs=1e-3)
    assert model.probabilities(inputs).shape == (4,)
    with fails("--mean must have 1 value, but found 3"):
        load_model("gray:lenet", grayscale=True, mean=(0.1, 0.2, 0.3))


@pytest.mark.parametrize(
    ("target", "index"),
    [("2", 2), ("Egyptian CAT", 1), ("Tinca tinca", 0), ("tench, Tinca tinca", 0)],
)
def test_a_class_is_found_by_index_name_or_synonym(
    workplace: Path, target: str, index: int
) -> None:
    (workplace / "names.txt").write_text("tench, Tinca tinca\nEgyptian cat\ncrane\ncrane\n")
    model = load_model("nets:small", labels=Path("names.txt"))
    assert model.class_index(target, 4) == index


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("4", "out of range: nets:small has 4 classes, 0 to 3"),
        ("-1", "out of range"),
        ("egyptian dog", "did you mean 'Egyptian cat'"),
        ("zzz", "no such class$"),
        ("crane", r"names classes \[2, 3\]"),
    ],
)
def test_a_wrong_class_is_refused(workplace: Path, target: str, message: str) -> None:
    (workplace / "names.txt").write_text("tench, Tinca tinca\nEgyptian cat\ncrane\ncrane\n")
    model = load_model("nets:small", labels=Path("names.txt"))
    with fails(message):
        model.class_index(target, 4)


def test_a_label_needs_names(workplace: Path) -> None:
    with fails("class names of nets:small are not known; pass an index from 0 to 3"):
        load_model("nets:small").class_index("cat", 4)


@pytest.mark.parametrize("file", ["weights.pt", "weights.safetensors"])
def test_weights_are_loaded_into_any_model(workplace: Path, file: str) -> None:
    state = load_model("nets:small").module.state_dict()
    if file.endswith(".safetensors"):
        pytest.importorskip("safetensors.torch").save_file(state, file)
    else:
        torch.save(state, file)
    model = load_model("nets:small", weights=Path(file))
    for key, value in model.module.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0)


def test_weights_stand_in_for_a_download(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(load_model("torchvision:squeezenet1_1@random").module.state_dict(), "net.pt")
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", pytest.fail)
    assert load_model("torchvision:squeezenet1_1", weights=Path("net.pt")).trained


class Payload:
    """Unpickles to a call, as malicious files do."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("hacked"),)  # type: ignore[return-value]


def test_a_pickle_with_code_is_refused_and_not_run(workplace: Path) -> None:
    torch.save({"weight": Payload()}, "bad.pt")
    Path("bad.pkl").write_bytes(pickle.dumps(Payload()))
    for file in ("bad.pt", "bad.pkl"):
        with fails("holds no plain weights"):
            load_model("nets:small", weights=Path(file))
    assert not Path("hacked").exists()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_files_that_are_no_state_dict_of_the_model_are_refused(workplace: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save("scripted.pt")
    torch.save({"epoch": 3, "state_dict": nn.Linear(2, 2).state_dict()}, "checkpoint.pt")
    torch.save({"epoch": 3, "weights": nn.Linear(2, 2).state_dict()}, "odd.pt")
    state = load_model("nets:small").module.state_dict()
    state["extra"] = state.pop("0.weight")
    state["7.bias"] = torch.zeros(9)
    torch.save(state, "other.pt")
    Path("junk.safetensors").write_bytes(b"junk")
    for file, message in {
        "none.pt": "none.pt: no such file",
        "scripted.pt": "a TorchScript archive",
        "checkpoint.pt": r"6 missing \(0.weight, ...\); 2 unknown to the model \(weight, ...\)",
        "odd.pt": "holds a dict with keys epoch, weights, where a state dict is needed, alone or",
        "other.pt": r"1 missing \(0.weight, ...\); 1 unknown to the model \(extra, ...\); "
        r"1 of another shape \(7.bias",
        "junk.safetensors": "holds no plain weights",
    }.items():
        with fails(message):
            load_model("nets:small", weights=Path(file))


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError("no route"),
        urllib.error.HTTPError("https://example.org", 403, "Forbidden", None, None),  # type: ignore[arg-type]
        ConnectionResetError("reset"),
        RuntimeError("invalid hash value"),
    ],
)
def test_a_failed_download_names_the_alternatives(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    with fails(
        r"weights of torchvision:squeezenet1_1 cannot be loaded .*--model demo, .*--weights FILE, "
        r"or torchvision:squeezenet1_1@random"
    ) as raised:
        load_model("torchvision:squeezenet1_1@IMAGENET1K_V1")
    assert f"({error})" in str(raised.value) or "(Forbidden)" in str(raised.value)


def test_a_failed_timm_download_names_the_alternatives(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")

    def unreachable(*_: object, **__: object) -> None:
        raise RuntimeError("no hub")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with fails(r"weights of timm:test_resnet cannot be loaded \(no hub\).*timm:test_resnet@random"):
        load_model("timm:test_resnet")


@pytest.mark.parametrize("reachable", [True, False])
def test_the_hub_is_asked_once_whether_it_can_be_reached(
    monkeypatch: pytest.MonkeyPatch, reachable: bool
) -> None:
    timm = pytest.importorskip("timm")
    constants = pytest.importorskip("huggingface_hub.constants")
    module = timm.create_model("test_resnet")
    offline = []

    def connect(*_: object, **__: object) -> socket.socket:
        if not reachable:
            raise OSError("no route")
        return socket.socket()

    def create(*_: object, **__: object) -> nn.Module:
        offline.append(constants.HF_HUB_OFFLINE)
        return module

    monkeypatch.setattr(timm, "create_model", create)
    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    load_model("timm:test_resnet")
    assert offline == [not reachable]
    assert constants.HF_HUB_OFFLINE is False


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "did you mean 'torchvision:resnet18'"),
        ("dmo", "did you mean 'demo'"),
        ("torchvision:resnet51", "did you mean 'resnet50'"),
        ("torchvision:resnet18@V9", "it has IMAGENET1K_V1, DEFAULT and random"),
        ("torchvison:resnet18", "did you mean 'torchvision'"),
        ("nets:smal", "did you mean 'small'"),
        (
            "nowhere.nets:small",
            "no module 'nowhere' for nowhere.nets:small; run this in",
        ),
        ("nets:failing", "nets:failing failed: RuntimeError: two lines$"),
        ("nets:number", "must return a torch.nn.Module, but returned int"),
        ("broken:net", "importing it failed: SyntaxError"),
        ("needy:net", "importing it failed: No module named 'not_installed'"),
    ],
)
def test_a_wrong_model_is_refused_with_a_hint(workplace: Path, name: str, message: str) -> None:
    (workplace / "broken.py").write_text("def net(:\n")
    (workplace / "needy.py").write_text("import not_installed\n")
    with fails(message):
        load_model(name)


def test_an_unknown_timm_model_is_refused_with_a_hint() -> None:
    pytest.importorskip("timm")
    with fails("did you mean 'test_resnet'"):
        load_model("timm:test_resnt")


@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        ("timm", "timm:test_resnet", "pip install timm"),
        ("efficientnet_lite_pytorch", "demo", r'pip install "captum-excon\[demo\]"'),
    ],
)
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, module: str, name: str, message: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with fails(message):
        load_model(name)


def test_safetensors_is_named_where_it_is_missing(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    Path("net.safetensors").touch()
    with fails("pip install safetensors"):
        load_model("nets:small", weights=Path("net.safetensors"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nets:dense", r"returns \(1, 4, 222, 222\), where class scores"),
        ("nets:single", r"returns \(1, 1\), where class scores"),
        ("nets:nan", "NaN or infinite scores"),
    ],
)
def test_a_model_that_is_no_classifier_is_refused(workplace: Path, name: str, message: str) -> None:
    model = load_model(name)
    with fails(message):
        model.probabilities(model.blank())


def test_a_model_that_fails_is_reported_with_the_shape(workplace: Path) -> None:
    model = load_model("nets:small", grayscale=True)
    with fails(r"nets:small fails on an input of shape \(1, 1, 224, 224\) \(RuntimeError: "):
        model.probabilities(model.blank())


def test_labels_must_be_as_many_as_classes(workplace: Path) -> None:
    Path("two.txt").write_text("cat\ndog\n")
    model = load_model("nets:small", labels=Path("two.txt"))
    with fails("there are 2 class names, but nets:small has 4 classes"):
        model.probabilities(model.blank())
    with fails("--labels none.txt: cannot be read"):
        load_model("nets:small", labels=Path("none.txt"))


def test_named_layers_come_in_the_order_of_execution(workplace: Path) -> None:
    model = load_model("nets:small", size=(16, 16))
    layers = choose_layers(model, "4, 0,1", None)
    assert [(s.name, s.channels, s.size) for s in layers] == [
        ("0", 5, (16, 16)),
        ("1", 5, (16, 16)),
        ("4", 6, (6, 6)),
    ]
    assert [s.name for s in choose_layers(model, "auto", None)] == ["1", "4"]
    assert not any(module._forward_hooks for module in model.module.modules())


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("embd", "has no layer 'embd'; did you mean 'embed'"),
        ("unused", "'unused' does not run"),
        ("first", r"emits \(1, 17, 6\) and no map .* pass --tokens HxW"),
        ("auto", "pass --layers, for tokens also --tokens"),
    ],
)
def test_a_wrong_layer_is_refused(workplace: Path, layers: str, message: str) -> None:
    model = load_model("nets:Tokens", size=(16, 16))
    with fails(message):
        choose_layers(model, layers, None)


def test_tokens_become_maps_without_what_precedes_the_patches(workplace: Path) -> None:
    model = load_model("nets:Tokens", size=(16, 16))
    reshape = reshape_for((4, 4))
    assert reshape is not None
    assert [s.size for s in choose_layers(model, "first", reshape)] == [(4, 4)]
    tokens = torch.arange(17.0).view(1, 17, 1)
    assert reshape(tokens)[0, 0, 0].tolist() == [1, 2, 3, 4]


def test_layers_whose_channels_were_moved_must_be_chosen_ones() -> None:
    model = load_model("torchvision:swin_t@random", size=(64, 64))
    assert [s.channels_last for s in choose_layers(model, "features.1,features.3", None)] == [
        True
    ] * 2
    with fails("moves its channels, so only its chosen layers can be named: features.1, "):
        choose_layers(model, "features.3.0", None)


def test_devices_are_those_that_torch_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    for name, message in {
        "cuda": "'cuda' is not available here; torch finds cpu",
        "mps": "not available",
        "tpu": "unknown; devices are auto, cuda, mps, cpu",
        "cuda:x": "unknown",
    }.items():
        with fails(message):
            pick_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert pick_device("auto").type == "cuda"
    assert pick_device("cuda:0") == torch.device("cuda", 0)
    with fails("'cuda:1' is not available"):
        pick_device("cuda:1")


def test_counting_rows_leaves_the_models_mode_alone(workplace: Path) -> None:
    counted = _Counted(load_model("nets:small").module)
    with torch.inference_mode():
        counted(torch.zeros(3, 3, 8, 8))
    counted(torch.zeros(2, 3, 8, 8))
    assert (counted.counts.rows, counted.counts.masked) == (5, 3)
    assert not any(module.training for module in counted.modules())
