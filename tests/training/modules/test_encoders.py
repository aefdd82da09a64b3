"""Encoders by name and by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from captum_excon.training import ProjectionHead, build_encoder


def test_torchvisions_resnet_loses_its_head_and_keeps_its_layers() -> None:
    encoder = build_encoder("torchvision:resnet18")
    assert encoder.feature_dim == 512
    assert encoder.get_submodule("layer4.1.conv2").kernel_size == (3, 3)
    assert encoder(torch.zeros(2, 3, 64, 64)).shape == (2, 512)


def test_the_cifar_stem_keeps_the_resolution_of_a_small_image() -> None:
    encoder = build_encoder("torchvision:resnet18", cifar_stem=True)
    assert encoder.conv1.kernel_size == (3, 3)
    assert encoder.conv1.stride == (1, 1)
    assert encoder.conv1.bias is None
    sizes = {}
    encoder.layer1.register_forward_hook(lambda *args: sizes.update(layer1=args[2].shape))
    assert encoder(torch.zeros(2, 3, 32, 32)).shape == (2, 512)
    assert sizes["layer1"] == (2, 64, 32, 32)


def test_timms_deep_stem_keeps_its_convolutions_with_stride_one() -> None:
    encoder = build_encoder(
        "timm:resnet10t",
        cifar_stem=True,
        channels=[16, 32, 64, 128],
        stem_width=8,
        stem_type="deep",
    )
    assert encoder.feature_dim == 128
    sizes = {}
    encoder.layer1.register_forward_hook(lambda *args: sizes.update(layer1=args[2].shape))
    assert encoder(torch.zeros(2, 3, 32, 32)).shape == (2, 128)
    assert sizes["layer1"] == (2, 16, 32, 32)


@pytest.mark.parametrize(
    "name",
    [
        "torchvision:mobilenet_v3_small",
        "torchvision:densenet121",
        "timm:mobilenetv3_small_050",
        "timm:test_vit",
    ],
)
def test_the_declared_size_is_that_of_the_features(name: str) -> None:
    encoder = build_encoder(name).eval()
    size = 160 if "vit" in name else 64
    with torch.no_grad():
        assert encoder(torch.zeros(1, 3, size, size)).shape == (1, encoder.feature_dim)


def test_a_module_declares_its_feature_size_by_argument_or_attribute() -> None:
    module = nn.Flatten()
    with pytest.raises(ValueError, match="features of Flatten is not known; pass feature_dim"):
        build_encoder(module)
    assert build_encoder(module, feature_dim=12) is module
    assert module.feature_dim == 12
    assert build_encoder(module).feature_dim == 12
    with pytest.raises(ValueError, match="feature_dim is 5, but the model's features have size 12"):
        build_encoder(module, feature_dim=5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {}, "unknown model 'resnet18'; did you mean 'torchvision:resnet18'"),
        ("torchvision:resnet19", {}, "no classifier 'resnet19'; did you mean 'resnet1"),
        ("timm:resnet10x", {}, "no model 'resnet10x'; did you mean 'resnet10t'"),
        ("torchvision:mobilenet_v2", {"cifar_stem": True}, "no stem of a convolution and a max-"),
        ("torchvision:squeezenet1_1", {}, "no linear layer at its end; pass a module"),
        ("torchvision:resnet18", {"feature_dim": 64}, "features have size 512"),
        (nn.Flatten(), {"cifar_stem": True}, "for models built by name"),
    ],
)
def test_a_wrong_encoder_is_refused_with_the_way_out(
    name: str | nn.Module, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_encoder(name, **options)


def test_an_encoder_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="a name or a module, but found int"):
        build_encoder(18)


def test_a_missing_timm_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ImportError, match="pip install timm"):
        build_encoder("timm:resnet10t")


def test_the_projection_head_is_two_layers_and_a_division_by_the_length() -> None:
    head = ProjectionHead(4, 6, 3)
    features = torch.randn(5, 4)
    inner = (features @ head.hidden.weight.T + head.hidden.bias).clamp(min=0)
    expected = F.normalize(inner @ head.output.weight.T + head.output.bias)
    torch.testing.assert_close(head(features), expected)
    assert ProjectionHead(2048).hidden.weight.shape == (2048, 2048)


def test_the_projection_head_divides_in_float32_under_autocast() -> None:
    head = ProjectionHead(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = head(torch.randn(5, 4))
    assert output.dtype == torch.float32
    torch.testing.assert_close(output.norm(dim=1), torch.ones(5))
    assert head.double()(torch.randn(5, 4, dtype=torch.float64)).dtype == torch.float64
