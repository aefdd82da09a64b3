"""Checkpoints of our own training as models."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.workplace import photograph

pytest.importorskip("lightning")
import lightning as L
from torch import Tensor, nn

from captum_excon.errors import UserError
from captum_excon.models import build_encoder, load_model
from captum_excon.models.preprocessing import as_pixels, standard_view
from captum_excon.training.modules.factory import build_module, load_module

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


class Data(L.LightningDataModule):
    """As much of a data module as a checkpoint keeps."""

    class_names = ("ant", "bee", "cat")
    image_size = 16


def checkpoint(path: Path, encoder: str | nn.Module, method: str = "edda", **options: Any) -> Any:
    """Writes a checkpoint as a run does, and returns the module that is in it."""
    options = {"lr": 0.01, "mean": MEAN, "std": STD, **options}
    module = build_module(method, encoder, 3, **options)
    trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(module)
    module.trainer = trainer
    trainer.datamodule = Data()  # type: ignore[attr-defined]
    trainer.save_checkpoint(path)
    return module.eval()


@pytest.mark.parametrize("method", ["edda", "exconb"])
def test_a_checkpoint_brings_network_preprocessing_classes_and_layer(
    workplace: Path, method: str
) -> None:
    module = checkpoint(
        Path("best.ckpt"),
        "torchvision:resnet18",
        method,
        encoder_args={"cifar_stem": True},
        layer="layer2",
    )
    model = load_model("best.ckpt")
    assert model.labels == ["ant", "bee", "cat"]
    assert model.layer == "encoder.layer2"
    assert (model.mean, model.std, model.trained) == (MEAN, STD, True)
    image = photograph(40, 30)
    seen = as_pixels(standard_view(image, 16))
    assert model.inputs(image).shape == (1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model.module(model.inputs(image)), module(seen[None]))
    other = load_model("best.ckpt", labels=["x", "y", "z"], size=24)
    assert (other.label(0), other.inputs(image).shape[-1]) == ("x", 24)


def test_checkpoints_without_class_names_and_size_are_still_read(workplace: Path) -> None:
    checkpoint(Path("new.ckpt"), "torchvision:resnet18")
    old = torch.load("new.ckpt", weights_only=True)
    del old["class_names"], old["image_size"]
    old["callbacks"] = {"RunFolder": {"config": {"image_size": 16}}}
    torch.save(old, "old.ckpt")
    model = load_model("old.ckpt")
    assert (model.labels, model.inputs(photograph()).shape[-1]) == (None, 16)


def test_a_users_function_is_run_only_where_the_user_names_it(workplace: Path) -> None:
    module = checkpoint(Path("own.ckpt"), "nets:small")
    with pytest.raises(UserError, match="--model nets:small --weights own"):
        load_model("own.ckpt")
    model = load_model("nets:small", weights="own.ckpt")
    assert model.labels == ["ant", "bee", "cat"]
    inputs = model.inputs(photograph())
    with torch.no_grad():
        torch.testing.assert_close(model.module(inputs), module.explainable(inputs))


def test_an_encoder_starts_from_the_encoder_of_a_run(workplace: Path) -> None:
    module = checkpoint(Path("own.ckpt"), "nets:small")
    encoder = build_encoder("nets:small", weights="own.ckpt")
    expected: dict[str, Tensor] = module.network.encoder.state_dict()
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, expected[key])


def test_files_that_are_no_such_checkpoint_are_refused(workplace: Path) -> None:
    torch.save({"state_dict": load_model("nets:small").module.state_dict()}, "other.ckpt")
    with pytest.raises(UserError, match=r"not a checkpoint of captum-excon train; .* --weights"):
        load_model("other.ckpt")
    with pytest.raises(UserError, match=r"none.ckpt: no such file"):
        load_model("none.ckpt")
    with pytest.raises(UserError, match=r"has its own weights; leave out --weights"):
        load_model("other.ckpt", weights="nets.pt")


def test_a_network_given_as_a_module_needs_python(workplace: Path) -> None:
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    encoder.feature_dim = 4  # type: ignore[assignment]
    checkpoint(Path("module.ckpt"), encoder)
    with pytest.raises(UserError, match="load_module"):
        load_model("module.ckpt")


def test_rebuilding_downloads_nothing(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint(Path("random.ckpt"), "torchvision:resnet18@random")
    found = torch.load("random.ckpt", weights_only=True)
    found["hyper_parameters"]["encoder"] = "torchvision:resnet18@IMAGENET1K_V1"
    found["hyper_parameters"]["encoder_args"] = {"pretrained": True, "weights": "gone.pt"}
    torch.save(found, "best.ckpt")
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", pytest.fail)
    for module in (load_model("best.ckpt").module, load_module("best.ckpt").network):
        weights = module.state_dict()["encoder.conv1.weight"]
        assert torch.equal(weights, found["state_dict"]["network.encoder.conv1.weight"])


def test_the_demo_is_an_encoder_with_its_weights(workplace: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    encoder = build_encoder("demo")
    assert encoder.feature_dim == 1280
    pretrained = load_model("demo").module.state_dict()
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, pretrained[key])
    random = build_encoder("demo@random").state_dict()
    assert not torch.equal(random["_conv_stem.weight"], pretrained["_conv_stem.weight"])
    with torch.no_grad():
        assert encoder.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 1280)


def test_a_module_is_loaded_with_the_encoder_that_its_checkpoint_names(workplace: Path) -> None:
    module = checkpoint(Path("own.ckpt"), "nets:small")
    again = load_module("own.ckpt")
    images = torch.rand(2, 3, 24, 24)
    with torch.no_grad():
        torch.testing.assert_close(again(images), module(images))
