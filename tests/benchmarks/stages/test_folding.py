"""Batch normalisation folded into convolutions."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import densenet121, mobilenet_v3_small, resnet18

from benchmarks.explanations.configs.settings import Config
from benchmarks.explanations.stages.folding import fold_batch_norm
from benchmarks.explanations.stages.model import open_model
from captum_excon import select_layers
from captum_excon.errors import UserError


def _lively(model: nn.Module) -> nn.Module:
    """Statistics that a fold would show in, were it wrong."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            for values in (module.running_mean, module.running_var, module.weight, module.bias):
                values.data.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


@pytest.mark.parametrize(
    ("build", "left"),
    # DenseNet normalises before its convolutions: one normalisation a layer has none before it.
    [(resnet18, 0), (mobilenet_v3_small, 0), (densenet121, 62)],
)
def test_the_network_stays_the_same(build, left):
    torch.manual_seed(0)
    model = _lively(build(weights=None))
    folded = copy.deepcopy(model)
    norms = [name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    images = torch.rand(2, 3, 64, 64)
    names = fold_batch_norm(folded, images[:1])
    assert len(names) == len(norms) - left
    assert sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules()) == left
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), model(images), rtol=1e-3, atol=1e-4)
    before, after = (select_layers(m, images) for m in (model, folded))
    assert [layer.name for layer in after] == [layer.name for layer in before]


class _Odd(nn.Module):
    """Normalisations that cannot be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.read_twice, self.norm_a = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.called_twice, self.norm_b = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.shared = nn.BatchNorm2d(4)
        self.convolution, self.batch = (
            nn.Conv2d(4, 4, 1),
            nn.BatchNorm2d(4, track_running_stats=False),
        )
        self.hooked, self.norm_c = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.hooked.register_forward_hook(lambda *_: None)
        self.scaled, self.norm_d = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.scaled = nn.utils.parametrizations.weight_norm(self.scaled)

    def forward(self, x: Tensor) -> Tensor:
        x = self.read_twice(x)
        x = x + self.norm_a(x)
        x = self.norm_b(self.called_twice(self.called_twice(x)))
        x = self.shared(self.shared(x))
        x = self.batch(self.convolution(x))
        x = self.norm_c(self.hooked(x))
        return self.norm_d(self.scaled(x)).mean((2, 3))


def test_only_what_is_alone_in_reading_a_convolution_is_folded():
    model = _lively(_Odd())
    image = torch.rand(1, 3, 8, 8)
    expected = model(image)
    assert fold_batch_norm(model, image) == []
    torch.testing.assert_close(model(image), expected, atol=0, rtol=0)


class _Deaf(nn.Conv2d):
    """Takes no notice of its bias."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight)


def test_a_fold_that_changes_the_output_is_refused():
    model = _lively(nn.Sequential(_Deaf(3, 4, 3, bias=False), nn.BatchNorm2d(4)))
    with pytest.raises(UserError, match="cannot be folded"):
        fold_batch_norm(model, torch.rand(1, 3, 8, 8))


def _open(name, **options):
    settings = {"data": {"kind": "synthetic"}, "model": {"name": name, **options}}
    return open_model(
        Config.from_mapping({**settings, "explainers": ["random"], "metrics": ["ebpg"]})
    )


@pytest.mark.slow
def test_the_options_of_the_model():
    name = "torchvision:mobilenet_v3_small@random"
    plain = _open(name)
    torch.manual_seed(0)
    fast = _open(name, fold_batch_norm=True, channels_last=True)
    assert any(isinstance(m, nn.BatchNorm2d) for m in plain.module.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fast.module.modules())
    weight = fast.module.features[0][0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(UserError, match="no batch normalisation behind a convolution"):
        _open("torchvision:vgg11@random", fold_batch_norm=True)
    with pytest.raises(UserError, match="no options but its name"):
        _open("synthetic", channels_last=True)
