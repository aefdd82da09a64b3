import contextlib
import gc
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from captum_excon.attr import AdaptiveHybridCAM, IntegratedGradCAM
from captum_excon.layers import (
    SelectedLayer,
    channels_last_to_first,
    select_layers,
    tokens_to_map,
    unwrap,
)
from captum_excon.targets import callable_targets

# Name, channels, spatial size; one number stands for a square.
Row = tuple[str, int, int]


def rows(layers: list[SelectedLayer]) -> list[tuple[Any, ...]]:
    def short(size: tuple[int, ...]) -> Any:
        return size[0] if len(set(size)) == 1 else size

    return [(layer.name, layer.channels, short(layer.size)) for layer in layers]


def names(model: nn.Module, *size: int, **options: Any) -> list[str]:
    return [layer.name for layer in select_layers(model, torch.rand(2, *size), **options)]


def torchvision_model(name: str, **options: Any) -> nn.Module:
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # as slow as it is irrelevant
    return torchvision.models.get_model(name, weights=None, **options).eval()


RESNET = "relu:64 layer1:256 layer2:512 layer3:1024 layer4:2048"
# Each layer's name, channels and size; without sizes, these are 112, 56 and so on.
FAMILIES = {
    "alexnet": "features.1:64:55 features.4:192:27 features.11:256:13",
    "vgg16": "features.3:64:224 features.8:128:112 features.15:256:56 "
    "features.22:512:28 features.29:512:14",
    "vgg11_bn": "features.2:64:224 features.6:128:112 features.13:256:56 "
    "features.20:512:28 features.27:512:14",
    "resnet18": "relu:64 layer1:64 layer2:128 layer3:256 layer4:512",
    "resnet50": RESNET,
    "resnext50_32x4d": RESNET,
    "wide_resnet50_2": RESNET,
    "densenet121": "features.relu0:64 features.transition1.conv:128 features.transition2.conv:256 "
    "features.transition3.conv:512 features:1024",
    "squeezenet1_0": "features.1:96:109 features.5:256:54 features.10:512:27 features:512:13",
    "squeezenet1_1": "features.1:64:111 features.4:128:55 features.7:256:27 features:512:13",
    "googlenet": "conv1:64 conv3:192 inception3b:480 inception4e:832 inception5b:1024",
    "mobilenet_v2": "features.1:16 features.3:24 features.6:32 features.13:96 features:1280",
    "mobilenet_v3_small": "features.0:16 features.1:16 features.3:24 features.8:48 features:576",
    "mobilenet_v3_large": "features.1:16 features.3:24 features.6:40 features.12:112 features:960",
    # Its max-pool is followed by the next down-sampling at once: no block of its own.
    "shufflenet_v2_x0_5": "conv1:24:112 stage2:48:28 stage3:96:14 conv5:1024:7",
    "mnasnet0_5": "layers.7:8 layers.8:16 layers.9:24 layers.11:48 layers:1280",
    "efficientnet_b0": "features.1:16 features.2:24 features.3:40 features.5:112 features:1280",
    "efficientnet_v2_s": "features.1:24 features.2:48 features.3:64 features.5:160 features:1280",
    "regnet_x_400mf": "stem:32 trunk_output.block1:32 trunk_output.block2:64 "
    "trunk_output.block3:160 trunk_output:400",
    "regnet_y_400mf": "stem:32 trunk_output.block1:48 trunk_output.block2:104 "
    "trunk_output.block3:208 trunk_output:440",
    "convnext_tiny": "features.1:96:56 features.3:192:28 features.5:384:14 features:768:7",
    "swin_t": "features.1:96:56 features.3:192:28 features.5:384:14 norm:768:7",
    "maxvit_t": "stem:64 blocks.0:64 blocks.1:128 blocks.2:256 blocks.3:512",
}


def family(name: str) -> list[Row]:
    cells = [cell.split(":") for cell in FAMILIES[name].split()]
    return [
        (layer, int(channels), int(size[0]) if size else 112 >> i)
        for i, (layer, channels, *size) in enumerate(cells)
    ]


LARGE = {"alexnet", "vgg11_bn", "vgg16", "wide_resnet50_2"}  # whose weights take seconds to draw


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in FAMILIES],
)
def test_each_torchvision_family_gives_the_last_map_of_every_block(name: str) -> None:
    model = torchvision_model(name)
    layers = select_layers(model, torch.rand(1, 3, 224, 224))
    assert rows(layers) == family(name)
    assert all(layer.module is model.get_submodule(layer.name) for layer in layers)
    assert {layer.channels_last for layer in layers} == {name == "swin_t"}


@pytest.mark.parametrize("training", [False, True])
def test_inception_loses_a_border_without_a_new_block_and_auxiliary_heads_are_ignored(
    training: bool,
) -> None:
    model = torchvision_model("inception_v3").train(training)
    size = 299 if not training else 107
    sizes = [147, 71, 35, 17, 8] if not training else [51, 23, 11, 5, 2]
    if training:
        model.AuxLogits = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    chosen = ["Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"]
    layers = select_layers(model, torch.rand(2, 3, size, size))
    assert rows(layers) == list(zip(chosen, [64, 192, 288, 768, 2048], sizes, strict=True))


def test_auxiliary_classifiers_of_googlenet_in_training_mode_are_ignored() -> None:
    model = torchvision_model("googlenet").train()
    assert names(model, 3, 64, 64) == [name for name, _, _ in family("googlenet")]


@pytest.mark.parametrize(
    ("name", "size"), [("swin_t", (96, 64)), ("densenet121", (64, 96)), ("squeezenet1_1", (64, 80))]
)
def test_channels_and_size_are_those_of_the_module_output(name: str, size: tuple[int, int]) -> None:
    model = torchvision_model(name)
    image = torch.rand(1, 3, *size)
    layers = select_layers(model, image)
    shapes = {}
    for layer in layers:
        layer.module.register_forward_hook(
            lambda _, __, output, name=layer.name: shapes.update({name: tuple(output.shape)})
        )
    with torch.no_grad():
        model(image)
    for layer in layers:
        first, last = (1, layer.channels, *layer.size), (1, *layer.size, layer.channels)
        assert shapes[layer.name] == (last if layer.channels_last else first)


@pytest.mark.parametrize(("name", "channels_last"), [("swin_t", True), ("convnext_tiny", False)])
def test_channels_are_told_from_rows_and_columns_of_the_same_number(
    name: str, channels_last: bool
) -> None:
    first = select_layers(torchvision_model(name), torch.rand(1, 3, 384, 384))[0]
    assert (first.channels, first.size, first.channels_last) == (96, (96, 96), channels_last)


def test_permuted_view_does_not_change_the_layout_of_the_map_itself() -> None:
    def normalise(net: Any, x: Tensor) -> Tensor:
        return x + net.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    block = Steps(normalise, norm=nn.LayerNorm(8))
    model = nn.Sequential(conv(3, 8), block, head(8)).eval()
    (layer,) = select_layers(model, torch.rand(1, 3, 8, 8))  # as many channels as rows
    assert (layer.name, layer.channels_last) == ("1", False)


def test_adaptive_pooling_that_enlarges_a_map_is_no_layer() -> None:
    features = [conv(3, 4), nn.ReLU(), nn.MaxPool2d(2), conv(4, 6), nn.ReLU(), nn.MaxPool2d(2)]
    # As in a VGG, whose avgpool makes 7 x 7 of any size.
    model = nn.Sequential(*features, nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(294, 2))
    assert names(model.eval(), 3, 8, 8) == ["1", "4"]


@pytest.mark.slow
def test_timm_models() -> None:
    timm = pytest.importorskip("timm")
    assert rows(select_layers(timm.create_model("resnet18").eval(), torch.rand(1, 3, 64, 64))) == [
        ("act1", 64, 32),
        ("layer1", 64, 16),
        ("layer2", 128, 8),
        ("layer3", 256, 4),
        ("layer4", 512, 2),
    ]
    convnext = timm.create_model("convnext_atto").eval()
    assert names(convnext, 3, 64, 64) == ["stages.0", "stages.1", "stages.2", "stages"]
    swin = timm.create_model("swin_tiny_patch4_window7_224").eval()
    layers = select_layers(swin, torch.rand(1, 3, 224, 224))
    assert [layer.name for layer in layers] == ["layers.0", "layers.1", "layers.2", "norm"]
    assert all(layer.channels_last for layer in layers)


@pytest.mark.slow
def test_timm_model_whose_cells_read_two_earlier_resolutions() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("nasnetalarge").eval()
    assert rows(select_layers(model, torch.rand(1, 3, 331, 331))) == [
        ("conv0", 96, 165),
        ("cell_stem_0", 168, 83),
        ("cell_5", 1008, 42),
        ("cell_11", 2016, 21),
        ("act", 4032, 11),
    ]


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("sequencer2d_s", 224, ["stages.0", "norm"]),
        ("mixnet_s", 64, ["blocks.0", "blocks.1", "blocks.2", "blocks.4", "bn2"]),
        ("mobilenetv4_conv_small", 64, ["bn1", "blocks.0", "blocks.1", "blocks.2", "blocks"]),
        ("nf_regnet_b1", 64, ["stem", "stages.0", "stages.1", "stages.2", "final_act"]),
        pytest.param(
            "dm_nfnet_f0",
            64,
            ["stem.act4", "stages.0", "stages.1", "stages.2", "final_act"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_timm_models_with_split_or_pre_activated_strides(
    name: str, size: int, expected: list[str]
) -> None:
    timm = pytest.importorskip("timm")
    assert names(timm.create_model(name).eval(), 3, size, size) == expected


def test_efficientnet_lite() -> None:
    lite = pytest.importorskip("efficientnet_lite_pytorch")
    model = lite.EfficientNet.from_name("efficientnet-lite0").eval()
    assert rows(select_layers(model, torch.rand(1, 3, 224, 224))) == [
        ("_blocks.0", 16, 112),
        ("_blocks.2", 24, 56),
        ("_blocks.4", 40, 28),
        ("_blocks.10", 112, 14),
        ("_swish", 1280, 7),
    ]


# --- Tokens -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=224, patch_size=32, num_layers=12, num_heads=2, hidden_dim=64, mlp_dim=64
    ).eval()


def test_vit_without_reshape_transform_is_an_error_that_names_the_remedy(vit: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"tokens.*\('N', 50, 64\).*reshape_transform="):
        select_layers(vit, torch.rand(1, 3, 224, 224))


def test_vit_gives_the_input_of_its_last_block_as_that_drops_the_patches(vit: nn.Module) -> None:
    layers = select_layers(vit, torch.rand(2, 3, 224, 224), reshape_transform=tokens_to_map(7, 7))
    assert rows(layers) == [("encoder.layers.encoder_layer_10", 64, 7)]
    assert layers[0].channels_last is False


@pytest.mark.slow
def test_vit_b_16() -> None:
    model = torchvision_model("vit_b_16", image_size=64)
    layers = select_layers(model, torch.rand(1, 3, 64, 64), reshape_transform=tokens_to_map(4, 4))
    assert rows(layers) == [("encoder.layers.encoder_layer_10", 768, 4)]


def test_wrong_grid_of_tokens_is_reported_with_both_numbers(vit: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"1 \+ 14 x 14 tokens, but got \(1, 50, 64\)"):
        select_layers(vit, torch.rand(1, 3, 224, 224), reshape_transform=tokens_to_map(14, 14))


class Transformer(nn.Module):
    """Patches, two blocks, and a head on the mean of the tokens or on the first."""

    def __init__(self, read: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.Sequential(*[self.block() for _ in range(2)])
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 2)
        self.read = read

    @staticmethod
    def block() -> nn.Module:
        return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.patches(image).flatten(2).transpose(1, 2)
        return self.head(self.read(self.norm(self.blocks(tokens))))


def test_tokens_that_are_averaged_give_the_last_layer() -> None:
    model = Transformer(lambda tokens: tokens.mean(1)).eval()
    layers = select_layers(model, torch.rand(1, 3, 8, 12), reshape_transform=tokens_to_map(2, 3, 0))
    assert rows(layers) == [("norm", 8, (2, 3))]


@pytest.mark.parametrize("frozen", [False, True])
def test_tokens_of_which_one_is_read_give_the_layer_before_the_last_mixing(frozen: bool) -> None:
    model = Transformer(lambda tokens: tokens[:, 0]).eval()
    nn.init.zeros_(model.head.weight)  # as in a head that is not yet trained
    model.requires_grad_(not frozen)

    def drop_first(tokens: Tensor) -> Tensor:
        return tokens_to_map(1, 5)(tokens)

    layers = select_layers(model, torch.rand(1, 3, 8, 12), reshape_transform=drop_first)
    assert rows(layers) == [("blocks.0", 8, (1, 5))]


def test_tokens_to_map_drops_the_prefix_and_keeps_the_order() -> None:
    tokens = torch.arange(2 * 8 * 3.0).reshape(2, 8, 3)
    expected = torch.tensor([[6.0, 9.0, 12.0], [15.0, 18.0, 21.0]])
    transform = pickle.loads(pickle.dumps(tokens_to_map(2, 3, prefix_tokens=2)))
    assert transform(tokens).shape == (2, 3, 2, 3)
    assert torch.equal(transform(tokens)[0, 0], expected)


@pytest.mark.parametrize("shape", [(1, 196, 8), (1, 8, 14, 14), (197, 8)])
def test_tokens_to_map_rejects_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"Expected tokens \(N, 197, C\)"):
        tokens_to_map(14, 14)(torch.zeros(shape))


@pytest.mark.parametrize("arguments", [(0, 4), (4, 0), (4, 4, -1)])
def test_tokens_to_map_rejects_impossible_grids(arguments: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least"):
        tokens_to_map(*arguments)


def test_channels_last_to_first_moves_the_last_axis() -> None:
    tensor = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert torch.equal(channels_last_to_first(tensor), tensor.permute(0, 3, 1, 2))


# --- Own networks -------------------------------------------------------------------------------


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1)


def head(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2))


class Steps(nn.Module):
    """Modules by name, and a function that says how they are called."""

    def __init__(self, call: Callable[[Any, Tensor], Any], **modules: nn.Module) -> None:
        super().__init__()
        self.call = call
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, image: Tensor) -> Any:
        return self.call(self, image)


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ArithmeticError("broken on purpose")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), st.booleans(), st.booleans())
def test_plain_networks_give_the_inputs_of_their_pooling_layers(
    blocks: list[int], inplace: bool, nested: bool
) -> None:
    layers: list[nn.Module] = []
    expected = []
    for index, convolutions in enumerate(blocks):
        block = [m for _ in range(convolutions) for m in (conv(3, 3), nn.ReLU(inplace))]
        last = f"{index}.{len(block) - 1}" if nested else str(len(layers) + len(block) - 1)
        expected.append(last)
        block.append(nn.MaxPool2d(2))
        layers += [nn.Sequential(*block)] if nested else block
    model = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(2))
    model.eval()(torch.rand(1, 3, 24, 24))
    assert names(model, 3, 24, 24) == expected


def test_what_a_hook_captures_behind_an_in_place_relu_is_what_flows_on() -> None:
    model = nn.Sequential(conv(3, 4), nn.ReLU(inplace=True), nn.MaxPool2d(2), head(4)).eval()
    (layer,) = select_layers(model, torch.rand(1, 3, 8, 8))
    seen: dict[str, Tensor] = {}
    layer.module.register_forward_hook(lambda _, __, output: seen.update(out=output.clone()))
    model[2].register_forward_hook(lambda _, inputs, __: seen.update(pooled=inputs[0].clone()))
    model(torch.rand(1, 3, 8, 8))
    assert torch.equal(seen["out"], seen["pooled"])


@pytest.mark.parametrize("inplace", [False, True])
def test_functional_relu_and_pooling_leave_the_convolutions(inplace: bool) -> None:
    def call(net: Any, image: Tensor) -> Tensor:
        image = F.max_pool2d(F.relu(net.first(image), inplace), 2)
        image = F.max_pool2d(F.relu(net.second(image), inplace), 2)
        return image.flatten(1)

    model = Steps(call, first=conv(1, 4), second=conv(4, 6)).eval()
    assert rows(select_layers(model, torch.rand(2, 1, 12, 16))) == [
        ("first", 4, (12, 16)),
        ("second", 6, (6, 8)),
    ]


def test_block_that_pools_by_a_function_is_not_mistaken_for_the_map_before() -> None:
    def block(inputs: int, outputs: int) -> nn.Module:
        return Steps(lambda net, x: F.avg_pool2d(net.act(net.conv(x)), 2),
                     conv=conv(inputs, outputs), act=nn.ReLU())  # fmt: skip

    model = nn.Sequential(block(3, 4), block(4, 6), head(6)).eval()
    assert names(model, 3, 16, 16) == ["0.act", "1.act"]


def test_module_used_twice_counts_by_its_last_call() -> None:
    def call(net: Any, image: Tensor) -> Tensor:
        image = net.pool(net.relu(net.first(image)))
        return net.head(net.pool(net.relu(net.second(image))))

    model = Steps(
        call,
        first=conv(3, 4),
        second=conv(4, 6),
        relu=nn.ReLU(),
        pool=nn.MaxPool2d(2),
        head=head(6),
    ).eval()
    assert rows(select_layers(model, torch.rand(1, 3, 8, 8))) == [
        ("first", 4, 8),  # its ReLU is known to a hook by the second call
        ("relu", 6, 4),
    ]


def test_convolution_shared_between_resolutions_is_chosen_once() -> None:
    def call(net: Any, image: Tensor) -> Tensor:
        return net.head(net.shared(F.max_pool2d(net.shared(net.stem(image)), 2)))

    model = Steps(call, stem=conv(3, 4), shared=conv(4, 4), head=head(4)).eval()
    assert rows(select_layers(model, torch.rand(1, 3, 8, 8))) == [("stem", 4, 8), ("shared", 4, 4)]


def test_lists_of_modules_called_in_a_loop() -> None:
    def call(net: Any, image: Tensor) -> Tensor:
        for module in net.stages:
            image = F.max_pool2d(module(image), 2)
        return net.head(image)

    stages = nn.ModuleList([nn.Sequential(conv(a, b), nn.ReLU()) for a, b in [(3, 4), (4, 6)]])
    model = Steps(call, stages=stages, head=head(6)).eval()
    assert names(model, 3, 16, 16) == ["stages.0", "stages.1"]


def test_maps_inside_tuples_of_one_element_count_and_those_of_more_do_not() -> None:
    one = Steps(lambda net, x: (net.conv(x),), conv=conv(3, 4))
    two = Steps(lambda net, x: (net.conv(x), None, x), conv=conv(4, 6))
    model = Steps(
        lambda net, x: net.head(net.two(F.max_pool2d(net.one(x)[0], 2))[0]),
        one=one,
        two=two,
        head=head(6),
    ).eval()
    assert names(model, 3, 8, 8) == ["one", "two.conv"]


def test_residual_stages_are_named_by_their_outermost_module() -> None:
    class Residual(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.branch = nn.Sequential(
                conv(inputs, outputs, stride), nn.ReLU(), conv(outputs, outputs)
            )
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride)
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.branch(x) + self.shortcut(x))

    def stage(inputs: int, outputs: int, stride: int) -> nn.Module:
        return nn.Sequential(Residual(inputs, outputs, stride), Residual(outputs, outputs, 1))

    model = nn.Sequential(
        conv(3, 4), stage(4, 4, 1), stage(4, 6, 2), stage(6, 8, 2), head(8)
    ).eval()
    layers = select_layers(model, torch.rand(1, 3, 16, 16))
    assert rows(layers) == [("1", 4, 16), ("2", 6, 8), ("3", 8, 4)]


def test_sum_that_no_module_emits_is_represented_by_its_branch() -> None:
    def call(net: Any, image: Tensor) -> Tensor:
        image = net.stem(image)
        image = image + net.branch(image)
        return net.head(F.max_pool2d(image, 2))

    branch = nn.Sequential(conv(4, 4), nn.ReLU())
    model = Steps(call, stem=conv(3, 4), branch=branch, head=head(4)).eval()
    assert rows(select_layers(model, torch.rand(1, 3, 8, 8))) == [("branch", 4, 8)]
    model.branch = nn.AvgPool2d(3, 1, 1)  # without parameters it is the stem's map again
    assert names(model, 3, 8, 8) == ["stem"]


def test_expansion_before_the_stride_belongs_to_the_down_sampling_block() -> None:
    def inverted(inputs: int, outputs: int, stride: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(inputs, 12, 1), nn.ReLU6(), conv(12, 12, stride), nn.Conv2d(12, outputs, 1)
        )

    model = nn.Sequential(
        conv(3, 4, 2), inverted(4, 5, 1), inverted(5, 6, 2), inverted(6, 7, 2), head(7)
    ).eval()
    layers = select_layers(model, torch.rand(1, 3, 32, 32))
    assert rows(layers) == [("1", 5, 16), ("2", 6, 8), ("3", 7, 4)]


def test_block_without_a_map_before_it_gives_the_map_before_its_stride() -> None:
    block = nn.Sequential(conv(4, 6), nn.ReLU(), conv(6, 8, 2))
    model = nn.Sequential(conv(3, 4), nn.MaxPool2d(2), block, head(8)).eval()
    assert names(model, 3, 16, 16) == ["0", "2.1", "2"]


def stage(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A plain stage: three convolutions, the last of them strided."""
    return nn.Sequential(
        conv(inputs, inputs), nn.ReLU(), conv(inputs, inputs), nn.ReLU(),
        conv(inputs, outputs, stride), nn.ReLU(),
    )  # fmt: skip


def test_plain_stages_that_end_in_a_stride_give_the_input_of_the_stride() -> None:
    model = nn.Sequential(stage(3, 4, 2), stage(4, 6, 2), stage(6, 8), head(8)).eval()
    assert names(model, 3, 16, 16) == ["0.3", "1.3", "2"]


def test_stem_before_a_plain_body_is_not_the_bodys_last_map() -> None:
    model = nn.Sequential(conv(3, 4), stage(4, 6, 2), stage(6, 8), head(8)).eval()
    assert names(model, 3, 16, 16) == ["1.3", "2"]


class SplitConv(nn.Module):
    """A strided convolution in two parts, of different kernels, as in MixNet."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        half = channels // 2
        self.parts = nn.ModuleList(
            [nn.Conv2d(half, half, k, stride, k // 2, groups=half) for k in (3, 5)]
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(y) for part, y in zip(self.parts, x.chunk(2, 1), strict=True)], 1)


def bottleneck(inputs: int, outputs: int, stride: int, kind: str = "plain") -> nn.Sequential:
    """An inverted bottleneck; the split kind has its strided layer in parts, the double kind
    starts with a depth-wise layer of its own.
    """
    depthwise = nn.Conv2d(12, 12, 3, stride, 1, groups=12)
    first = nn.Conv2d(inputs, inputs, 3, 1, 1, groups=inputs)
    return nn.Sequential(
        *([first, nn.BatchNorm2d(inputs)] if kind == "double" else []),
        nn.Conv2d(inputs, 12, 1), nn.BatchNorm2d(12), nn.ReLU6(),
        SplitConv(12, stride) if kind == "split" else depthwise, nn.BatchNorm2d(12), nn.ReLU6(),
        nn.Conv2d(12, outputs, 1), nn.BatchNorm2d(outputs),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["plain", "split", "double"])
def test_of_inverted_bottlenecks_in_one_body_only_the_strided_one_is_skipped(kind: str) -> None:
    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        return bottleneck(inputs, outputs, stride, kind)

    body = nn.Sequential(block(4, 4, 1), block(4, 4, 1), block(4, 6, 2), block(6, 6, 1))
    model = nn.Sequential(conv(3, 4), body, block(6, 8, 2), head(8)).eval()
    assert names(model, 3, 16, 16) == ["1.1", "1", "2"]


def test_separable_convolutions_before_a_strided_one_keep_their_map() -> None:
    def separable(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs)
        return [depthwise, nn.ReLU(), nn.Conv2d(inputs, outputs, 1), nn.ReLU()]

    body = nn.Sequential(*separable(4, 6, 1), *separable(6, 8, 2))
    assert names(nn.Sequential(conv(3, 4), body, head(8)).eval(), 3, 16, 16) == ["1.3", "1"]


def test_pre_activated_block_is_skipped_for_the_stage_before_it() -> None:
    class PreActivated(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.act = nn.ReLU()
            self.shortcut = nn.Sequential(nn.AvgPool2d(stride), nn.Conv2d(inputs, outputs, 1))
            self.first = nn.Conv2d(inputs, inputs, 1)
            self.second = conv(inputs, outputs, stride)

        def forward(self, x: Tensor) -> Tensor:
            x = self.act(x) * 0.9  # a sum or scaled map that no module emits
            return self.second(self.first(x)) + self.shortcut(x)

    first = nn.Sequential(PreActivated(4, 4, 1), PreActivated(4, 4, 1))
    second = nn.Sequential(PreActivated(4, 6, 2), PreActivated(6, 6, 1))
    model = nn.Sequential(conv(3, 4), first, second, PreActivated(6, 8, 2), head(8)).eval()
    assert names(model, 3, 16, 16) == ["1", "2", "3"]


def test_block_that_pools_by_a_function_between_convolutions_is_taken_apart() -> None:
    block = Steps(
        lambda net, x: net.second(F.max_pool2d(net.first(x), 2)),
        first=conv(4, 6),
        second=conv(6, 8),
    )
    model = nn.Sequential(conv(3, 4), block, head(8)).eval()
    assert rows(select_layers(model, torch.rand(1, 3, 16, 16))) == [("1.first", 6, 16), ("1", 8, 8)]


def test_constants_made_on_the_way_are_not_taken_for_values_whose_memory_they_reuse() -> None:
    def first(net: Any, x: Tensor) -> Tensor:
        x = net.conv(x)
        sums = [x.sum() for _ in range(50)]  # freed before the constants are made
        del sums
        return net.last(net.act(x) + x)

    def call(net: Any, image: Tensor) -> Tensor:
        x = net.second(F.max_pool2d(net.first(image), 2))
        constants = [torch.tensor(1.0) for _ in range(50)]
        return net.head(net.third(x + sum(constants)))

    stage = Steps(first, conv=conv(3, 4), act=nn.ReLU(), last=nn.Conv2d(4, 4, 1))
    model = Steps(call, first=stage, second=conv(4, 6), third=conv(6, 8), head=head(8)).eval()
    assert names(model, 3, 8, 8) == ["first", "third"]


def test_view_of_every_second_position_is_a_map_of_its_own() -> None:
    every_second = Steps(lambda net, x: x[:, :, ::2, ::2])
    block = nn.Sequential(conv(3, 4), nn.ReLU(), every_second)
    model = nn.Sequential(block, conv(4, 6), head(6)).eval()
    assert rows(select_layers(model, torch.rand(1, 3, 8, 8))) == [("0.1", 4, 8), ("1", 6, 4)]


def test_maps_before_up_sampling_and_enlarged_maps_are_not_chosen() -> None:
    model = nn.Sequential(
        conv(3, 4), nn.MaxPool2d(2), conv(4, 5), nn.Upsample(scale_factor=2),
        nn.MaxPool2d(2), conv(5, 6), head(6),
    ).eval()  # fmt: skip
    assert rows(select_layers(model, torch.rand(1, 3, 16, 16))) == [("0", 4, 16), ("5", 6, 8)]


def test_unpadded_convolutions_and_padding_are_no_down_sampling() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.Tanh(), nn.ZeroPad2d(1), nn.AvgPool2d(2),
        nn.Conv2d(6, 8, 5), nn.Tanh(), nn.Conv2d(8, 8, 3), nn.Tanh(), head(8),
    ).eval()  # fmt: skip
    assert rows(select_layers(model, torch.rand(1, 1, 28, 28))) == [("1", 6, 24), ("7", 8, 7)]


def test_gates_are_not_chosen() -> None:
    def gates_in_the_caller(net: Any, image: Tensor) -> Tensor:
        x = net.conv(image)
        x = x * net.channel_gate(x)
        return net.head(x * net.space_gate(x))

    def gate_in_a_module(net: Any, image: Tensor) -> Tensor:
        return net.head(net.pooled_gate(net.conv(image)))

    pooled_gate = Steps(
        lambda net, x: x * F.interpolate(net.conv(F.avg_pool2d(x, 4)), x.shape[2:]), conv=conv(4, 4)
    )
    model = Steps(
        gates_in_the_caller,
        conv=conv(3, 4),
        channel_gate=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Sigmoid()),
        space_gate=nn.Sequential(nn.Conv2d(4, 1, 1), nn.Sigmoid()),
        pooled_gate=pooled_gate,
        head=head(4),
    ).eval()
    assert names(model, 3, 16, 16) == ["conv"]
    model.call = gate_in_a_module
    assert names(model, 3, 16, 16) == ["pooled_gate"]


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Sequential(conv(3, 4), nn.ReLU()), conv(4, 6)])
        self.bottom = nn.Sequential(conv(6, 8), nn.ReLU())
        self.up = nn.ModuleList([conv(14, 6), conv(10, 4)])
        self.scores = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down[0](x)
        second = self.down[1](F.max_pool2d(first, 2))
        x = self.bottom(F.max_pool2d(second, 2))
        x = self.up[0](torch.cat([F.interpolate(x, scale_factor=2.0), second], 1))
        x = self.up[1](torch.cat([F.interpolate(x, scale_factor=2.0), first], 1))
        return self.scores(x)


def test_u_net_gives_the_inputs_of_its_pooling_and_its_bottom() -> None:
    assert names(UNet().eval(), 3, 16, 16) == ["down.0", "down.1", "bottom"]
    wrapped = nn.Sequential(nn.Identity(), UNet()).eval()
    assert names(wrapped, 3, 16, 16) == ["1.down.0", "1.down.1", "1.bottom"]


def test_scores_of_a_segmentation_network_are_not_chosen() -> None:
    def call(net: Any, image: Tensor) -> dict[str, Tensor]:
        scores = net.scores(net.second(F.max_pool2d(net.first(image), 2)))
        return {"out": F.interpolate(scores, image.shape[2:], mode="bilinear")}

    model = Steps(call, first=conv(3, 4), second=conv(4, 6), scores=nn.Conv2d(6, 2, 1)).eval()
    assert names(model, 3, 16, 16) == ["first", "second"]


class Detector(nn.Module):
    """A pyramid of three levels, the third without a way down, with a head on each."""

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower, self.boxes, self.scores = conv(4, 4), conv(4, 4), conv(4, 2)

        def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
            towers = [self.tower(m) for m in maps]
            boxes = torch.cat([self.boxes(m).flatten(2) for m in towers], 2)
            return boxes, torch.cat([self.scores(m).flatten(2) for m in towers], 2)

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([conv(3, 4), conv(4, 6, 2)])
        self.lateral = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(6, 4, 1)])
        self.extra = conv(6, 4, 2)
        self.head = self.Head()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.stages[0](image)
        coarse = self.stages[1](fine)
        top = self.lateral[1](coarse)
        down = self.lateral[0](fine) + F.interpolate(top, fine.shape[2:])
        boxes, scores = self.head([down, top, self.extra(coarse)])
        best = scores.softmax(1)[:, 1].argmax(1)
        return boxes.gather(2, best[:, None, None].expand(-1, 4, 1)), scores


def test_heads_of_a_detector_are_not_chosen_nor_levels_that_not_every_score_depends_on() -> None:
    model = Detector().eval()
    assert names(model, 3, 16, 16) == ["stages.0", "stages.1"]
    wrapped = Steps(lambda net, x: net.model(x)[1].amax(2), model=model).eval()
    assert names(wrapped, 3, 16, 16) == ["model.stages.0", "model.stages.1"]


DETECTORS = {
    "ssdlite320_mobilenet_v3_large": [f"backbone.features.0.{i}" for i in (1, 3, 6)]
    + ["backbone.features.0"],
    "fasterrcnn_mobilenet_v3_large_320_fpn": [f"backbone.body.{i}" for i in (1, 3, 6, 12)]
    + ["backbone.fpn.inner_blocks.1"],
}


def detector(name: str) -> nn.Module:
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None).eval()
    if hasattr(model, "roi_heads"):
        model.roi_heads.score_thresh = 0.0  # an untrained network is sure of no box
    return model


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*maps are all zero")  # of an untrained network they may be
@pytest.mark.parametrize("name", DETECTORS)
def test_torchvision_detectors_give_feature_maps_that_the_methods_can_explain(name: str) -> None:
    model, image = detector(name), torch.rand(1, 3, 96, 96)
    assert names(model, 3, 96, 96) == DETECTORS[name]
    wrapped = callable_targets(model, lambda output: output["scores"].sum() + output["boxes"].sum())
    cam = IntegratedGradCAM(wrapped)
    maps = cam.attribute(image, target=0, n_steps=2, relu_attributions=False)
    assert maps.count_nonzero() > 0
    hybrid = AdaptiveHybridCAM(wrapped)
    assert hybrid.attribute(image, target=0, return_layer_maps=True)[0].shape == image.shape


def test_scores_are_recognised_inside_a_module_with_a_temperature() -> None:
    network = Steps(
        lambda net, x: net.scores(net.conv(x)) * net.temperature,
        conv=conv(3, 4),
        scores=nn.Conv2d(4, 2, 1),
    )
    network.temperature = nn.Parameter(torch.ones(()))
    assert names(nn.Sequential(network).eval(), 3, 8, 8) == ["0.conv"]


def test_module_whose_error_the_model_catches_is_passed_over() -> None:
    def call(net: Any, image: Tensor) -> Tensor:
        x = net.conv(image)
        with contextlib.suppress(ArithmeticError):
            x = net.broken(x)
        return net.relu(x)

    broken = nn.Sequential(conv(4, 4), Failing())
    block = Steps(call, conv=conv(3, 4), broken=broken, relu=nn.ReLU())
    assert names(nn.Sequential(block, head(4)).eval(), 3, 8, 8) == ["0"]


def test_sparse_tensors_on_the_way_are_no_obstacle() -> None:
    mixing = torch.eye(16).to_sparse()
    model = nn.Sequential(
        conv(1, 4),
        Steps(lambda net, x: net.head(x) + torch.sparse.mm(mixing, mixing).shape[0], head=head(4)),
    ).eval()
    assert names(model, 1, 8, 8) == ["0"]


def test_embedding_without_a_head_keeps_its_last_map() -> None:
    model = nn.Sequential(
        conv(3, 4), nn.MaxPool2d(2), conv(4, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    assert names(model.eval(), 3, 16, 16) == ["0", "2"]
    wrapped = nn.Sequential(nn.Identity(), model).eval()
    assert names(wrapped, 3, 16, 16) == ["1.0", "1.2"]


def test_one_dimensional_network() -> None:
    model = nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(4, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        nn.Linear(8, 3),
    ).eval()  # fmt: skip
    assert rows(select_layers(model, torch.rand(2, 2, 40))) == [("1", 4, 40), ("4", 8, 10)]


def test_channels_last_in_one_dimension_are_followed_through_transposes() -> None:
    def call(net: Any, signal: Tensor) -> Tensor:
        x = net.first(signal)
        x = net.linear(F.max_pool1d(x, 2).transpose(1, 2))
        x = net.second(F.max_pool1d(x.transpose(1, 2), 2))
        return x.mean(2)

    model = Steps(
        call,
        first=nn.Conv1d(2, 4, 3, padding=1),
        linear=nn.Linear(4, 5),
        second=nn.Conv1d(5, 6, 3, padding=1),
    ).eval()
    layers = select_layers(model, torch.rand(2, 2, 20))
    assert rows(layers) == [("first", 4, 20), ("linear", 5, 10), ("second", 6, 5)]
    assert [layer.channels_last for layer in layers] == [False, True, False]


@pytest.mark.parametrize("channels_last", [False, True])
def test_input_of_a_chosen_layer_is_read_along_its_own_axes(channels_last: bool) -> None:
    def to_last(net: Any, x: Tensor) -> Tensor:
        return net.linear(x.permute(0, 2, 3, 1))

    def to_first(net: Any, x: Tensor) -> Tensor:
        return net.linear(x).permute(0, 3, 1, 2)

    if channels_last:
        first = Steps(to_last, linear=nn.Linear(3, 4))
        last = Steps(to_first, linear=nn.Linear(4, 5))
    else:
        first, last = conv(3, 4), Steps(to_last, linear=nn.Linear(4, 5))
    pooled = (2, 3) if channels_last else (1, 2)
    model = Steps(lambda net, x: net.last(net.first(x)).mean(pooled), first=first, last=last)
    image = torch.rand(2, 3, 6, 5)
    (chosen,) = select_layers(model.eval(), image)
    assert (chosen.name, chosen.input_channels_last) == ("last", channels_last)
    reshape = channels_last_to_first if channels_last else None
    how = {"target": 1, "n_steps": 3, "relu_attributions": False}
    expected = IntegratedGradCAM(model, first, reshape_transform=reshape).attribute(image, **how)
    given = IntegratedGradCAM(model).attribute(image, attribute_to_layer_input=True, **how)
    torch.testing.assert_close(given, expected)
    assert given.shape == (2, 1, 6, 5)


def test_three_dimensional_network() -> None:
    model = torchvision.models.video.r3d_18().eval()
    assert rows(select_layers(model, torch.rand(1, 3, 8, 56, 48))) == [
        ("layer1", 64, (8, 28, 24)),
        ("layer2", 128, (4, 14, 12)),
        ("layer3", 256, (2, 7, 6)),
        ("layer4", 512, (1, 4, 3)),
    ]


def test_down_sampling_of_one_dimension_only_begins_a_block() -> None:
    model = nn.Sequential(conv(1, 4), nn.MaxPool2d((1, 2)), conv(4, 6), head(6)).eval()
    assert rows(select_layers(model, torch.rand(1, 1, 8, 8))) == [("0", 4, 8), ("2", 6, (8, 4))]


# --- Inputs and wrappers ------------------------------------------------------------------------


def small() -> nn.Sequential:
    return nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(inplace=True), head(4)).eval()


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(torch.compile, id="compiled", marks=pytest.mark.slow),
        pytest.param(nn.DataParallel, id="parallel"),
        pytest.param(
            lambda model: torch.compile(nn.DataParallel(model)),
            id="compiled parallel",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda model: nn.DataParallel(torch.compile(model)),
            id="parallel compiled",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_wrappers_are_taken_off(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = small()
    wrapped = wrap(model)
    (layer,) = select_layers(wrapped, torch.rand(1, 3, 8, 8))
    assert unwrap(wrapped) is model
    assert layer.name == "2"
    assert layer.module is model[2]


def test_further_arguments_are_cut_with_the_inputs() -> None:
    seen = []

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small()

        def forward(self, image: Tensor, scale: Tensor, table: Tensor, flag: bool) -> Tensor:
            seen.append((len(image), len(scale), len(table), flag))
            return self.net(image * scale[:, None, None, None] + table.sum())

    extra = (torch.rand(3), torch.rand(5), True)
    (layer,) = select_layers(Scaled().eval(), torch.rand(3, 3, 8, 8), extra)
    assert layer.name == "net.2"
    assert seen == [(0, 0, 5, True)]


def test_image_is_found_among_several_inputs() -> None:
    class WithAge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small()
            self.join = nn.Linear(3, 2)

        def forward(self, age: Tensor, image: Tensor) -> Tensor:
            return self.join(torch.cat([age, self.net(image)], 1))

    layers = select_layers(WithAge().eval(), (torch.rand(2, 1), torch.rand(2, 3, 8, 8)))
    assert [layer.name for layer in layers] == ["net.2"]


def test_twin_network_is_followed_from_its_last_image() -> None:
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small()

        def forward(self, first: Tensor, second: Tensor) -> Tensor:
            return (self.net(first) * self.net(second)).sum(1, keepdim=True)

    layers = select_layers(Twins().eval(), (torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)))
    assert [layer.name for layer in layers] == ["net.2"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_and_memory_formats(dtype: torch.dtype) -> None:
    model = small().to(dtype).to(memory_format=torch.channels_last)
    image = torch.rand(1, 3, 8, 8, dtype=dtype).to(memory_format=torch.channels_last)
    (layer,) = select_layers(model, image)
    assert (layer.name, layer.channels_last) == ("2", False)


def test_weight_norm_counts_as_parameters() -> None:
    first = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3, bias=False))
    model = nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()).eval()
    assert names(model, 3, 8, 8) == ["1"]


def test_works_inside_inference_mode_on_inference_tensors() -> None:
    model = small()
    tokens = Transformer(lambda tokens: tokens.mean(1)).eval()
    with torch.inference_mode():
        assert names(model, 3, 8, 8) == ["2"]
        assert names(tokens, 3, 8, 8, reshape_transform=tokens_to_map(2, 2, 0)) == ["norm"]


# --- Rows and state -----------------------------------------------------------------------------


class Counting(nn.Module):
    """Counts the rows it sees; `flatten` reshapes as models that take no empty batch do."""

    def __init__(self, flatten: bool) -> None:
        super().__init__()
        self.conv = conv(3, 4)
        self.flatten = flatten
        self.rows: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(len(x))
        self.grad = torch.is_grad_enabled()
        x = self.conv(x)
        return x.view(len(x), -1) if self.flatten else x.mean((2, 3))


@pytest.mark.parametrize(
    ("flatten", "training", "spent"),
    [(False, False, [0]), (True, False, [0, 1]), (False, True, [5]), (True, True, [5])],
)
def test_no_row_is_spent_where_the_model_takes_an_empty_batch(
    flatten: bool, training: bool, spent: list[int]
) -> None:
    model = Counting(flatten).train(training)
    assert [layer.name for layer in select_layers(model, torch.rand(5, 3, 8, 8))] == ["conv"]
    assert model.rows == spent
    assert model.grad is False


def test_empty_inputs_are_enough_in_evaluation_mode() -> None:
    (layer,) = select_layers(small(), torch.rand(0, 3, 8, 8))
    assert layer.size == (8, 8)


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Checks that nothing that can be seen of the model or of torch's state changes."""

    def state() -> dict[str, Any]:
        modules = dict(model.named_modules())
        return {
            "training": [module.training for module in modules.values()],
            "requires_grad": [p.requires_grad for p in model.parameters()],
            "grad": [p.grad is None for p in model.parameters()],
            "buffers": [id(buffer) for buffer in model.buffers()],
            "hooks": [
                (len(module._forward_hooks), len(module._forward_pre_hooks))
                for module in modules.values()
            ],
            "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
            "anomaly": torch.is_anomaly_enabled(),
        }

    before, values, random = state(), [b.clone() for b in model.buffers()], torch.get_rng_state()
    yield
    assert state() == before
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), values, strict=True))
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_changed_even_by_a_model_that_fails(
    training: bool, grad: bool, fails: bool
) -> None:
    model = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.Dropout(), nn.ReLU(), head(4))
    model.register_buffer("calls", torch.zeros(()))
    model.register_forward_pre_hook(lambda module, _: setattr(module, "calls", module.calls + 1))
    model[0].requires_grad_(False)
    model.train(training)[1].train(not training)
    model.append(Failing() if fails else nn.Identity())
    image = torch.rand(4, 3, 8, 8, requires_grad=True)
    with unchanged(model), torch.set_grad_enabled(grad):
        if fails:
            with pytest.raises(ArithmeticError, match="on purpose"):
                select_layers(model, image)
        else:
            assert [layer.name for layer in select_layers(model, image)] == ["3"]
    assert image.grad is None


def test_nothing_is_changed_with_a_reshape_transform() -> None:
    model = Transformer(lambda tokens: tokens.mean(1)).train()
    image = torch.rand(2, 3, 8, 8)
    with unchanged(model), torch.autograd.set_detect_anomaly(True):
        (layer,) = select_layers(model, image, reshape_transform=tokens_to_map(2, 2, 0))
    assert layer.name == "norm"


def test_statistics_that_a_backward_pass_waits_for_are_not_touched() -> None:
    model = small()
    loss = model(torch.rand(2, 3, 8, 8)).sum()
    select_layers(model, torch.rand(2, 3, 8, 8))
    loss.backward()
    assert model[0].weight.grad is not None


def test_model_that_writes_to_its_input_leaves_the_example_alone() -> None:
    model = Steps(lambda net, x: net.net(x.sub_(1)), net=small()).eval()
    image = torch.ones(1, 3, 8, 8)
    select_layers(model, image)
    select_layers(model.train(), image.expand(2, -1, -1, -1))
    assert torch.equal(image, torch.ones(1, 3, 8, 8))


def test_nothing_is_kept_alive_after_the_call() -> None:
    maps = []
    model = Transformer(lambda tokens: tokens.mean(1)).eval()
    model.norm.register_forward_hook(lambda _, __, output: maps.append(weakref.ref(output)))
    gc.collect()
    gc.disable()
    try:
        select_layers(model, torch.rand(1, 3, 8, 8), reshape_transform=tokens_to_map(2, 2, 0))
        assert [reference() for reference in maps] == [None]
    finally:
        gc.enable()


def test_calls_from_other_threads_are_not_recorded() -> None:
    class Disturbed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = conv(3, 3), conv(3, 3), head(3)

        def forward(self, x: Tensor) -> Tensor:
            x = F.max_pool2d(self.first(x), 2)
            other = threading.Thread(
                target=lambda: self.first(self.second(torch.rand(1, 3, 64, 64)))
            )
            other.start()
            other.join()
            return self.head(self.second(x))

    assert rows(select_layers(Disturbed().eval(), torch.rand(1, 3, 8, 8))) == [
        ("first", 3, 8),
        ("second", 3, 4),
    ]


@pytest.mark.slow
def test_four_threads_on_one_model_get_the_same_layers() -> None:
    model = torchvision_model("mobilenet_v3_small")
    images = [torch.rand(1, 3, side, side) for side in (32, 64, 96, 128)] * 5
    expected = [rows(select_layers(model, image)) for image in images]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda image: rows(select_layers(model, image)), images)) == expected
    assert not any(module._forward_hooks for module in model.modules())


# --- Errors -------------------------------------------------------------------------------------


def test_functions_are_rejected() -> None:
    model = small()
    with pytest.raises(TypeError, match=r"not in function.*layers=\[\.\.\.\]"):
        select_layers(lambda x: model(x), torch.rand(1, 3, 8, 8))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_scripted_models_are_rejected() -> None:
    with pytest.raises(TypeError, match="scripted or traced model"):
        select_layers(torch.jit.script(small()), torch.rand(1, 3, 8, 8))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_scripted_parts_of_a_model_are_passed_over() -> None:
    part = torch.jit.script(nn.Sequential(conv(4, 4), nn.MaxPool2d(2)))
    model = nn.Sequential(conv(3, 4), nn.MaxPool2d(2), part, conv(4, 6), head(6)).eval()
    assert names(model, 3, 16, 16) == ["0", "3"]


def test_inputs_that_are_no_tensors_are_rejected() -> None:
    with pytest.raises(TypeError, match="tensor or a tuple of tensors"):
        select_layers(small(), [torch.rand(1, 3, 8, 8)])  # type: ignore[arg-type]


def test_reshape_transform_must_be_callable() -> None:
    with pytest.raises(TypeError, match="reshape_transform"):
        select_layers(small(), torch.rand(1, 3, 8, 8), reshape_transform="tokens")  # type: ignore[arg-type]


def test_inputs_without_space_are_rejected_with_their_shapes() -> None:
    with pytest.raises(ValueError, match=r"got \(2, 8\)\. Name the layers"):
        select_layers(nn.Linear(8, 2).eval(), torch.rand(2, 8))


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(192, 2)),
        nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, 2)),
        nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten()),
        Steps(lambda net, x: torch.zeros(len(x), 2) + 0 * net.conv(x).numel(), conv=conv(3, 4)),
    ],
    ids=["perceptron", "pooling only", "one position", "output from elsewhere"],
)
def test_model_without_maps_is_an_error_that_names_the_remedies(model: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"layers=\[\.\.\.\].*reshape_transform="):
        select_layers(model.eval(), torch.rand(1, 3, 8, 8))


def test_empty_batch_in_training_mode_is_rejected() -> None:
    model = small()
    model[1].train()
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        select_layers(model, torch.rand(0, 3, 8, 8))


def test_errors_of_the_model_itself_come_through() -> None:
    with pytest.raises(RuntimeError, match="channels"):
        select_layers(small(), torch.rand(1, 5, 8, 8))
