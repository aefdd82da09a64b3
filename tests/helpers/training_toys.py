"""A tiny data set, encoder and trainer for the Lightning modules."""

import pathlib
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from captum_excon.training.data.views import ViewBatch
from captum_excon.training.modules.factory import build_module

CLASSES = 3
SIZE = 12

# Advice on loaders and logging intervals, which two batches do not need, Lightning's own use of a
# name that torch has deprecated, and that the toys' maps are coarse.
QUIET = [
    pytest.mark.filterwarnings(line)
    for line in (
        "ignore:.*does not have many workers",
        "ignore:The number of training batches",
        "ignore:.*LeafSpec.*:FutureWarning",
        "ignore:the maps of .* have [1-4]x[1-4] values",
    )
]
EXPLAINED = ("excon", "exconb", "edda", "random-occlusion")


class TinyEncoder(nn.Module):
    """A convolution with batch norm, a second one, and dropout: all that training can disturb."""

    feature_dim = 6

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(5, 6, 3, padding=1, stride=2), nn.ReLU(inplace=True))
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.body(F.max_pool2d(self.stem(images), 2))
        return self.dropout(maps.flatten(2).mean(2))


class Views(Dataset[ViewBatch]):
    """Images whose brightest channel is their class, with a bright square, by index."""

    def __init__(self, count: int = 16) -> None:
        generator = torch.Generator().manual_seed(3)
        self.labels = torch.arange(count) % CLASSES
        self.images = 0.3 * torch.rand(count, 3, SIZE, SIZE, generator=generator)
        for index, label in enumerate(self.labels.tolist()):
            self.images[index, label, 2:8, 3:9] += 0.6

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> ViewBatch:
        image = self.images[index]
        return ViewBatch(
            image, self.labels[index], torch.tensor(index), image.flip(2), image.flip(1)
        )


def loader(count: int = 16, batch_size: int = 8) -> DataLoader[ViewBatch]:
    return DataLoader(Views(count), batch_size, generator=torch.Generator())


def trainer(folder: pathlib.Path, epochs: int = 2, **options: Any) -> L.Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": epochs,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    }
    return L.Trainer(**(settings | options))


def module(method: str = "excon", encoder: Any = None, **options: Any) -> Any:
    """The arm of a tiny comparison; the same weights each time."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"layer": "body", "lr": 0.1, "keep_ratio": 0.25}
    settings |= {"warmup_epochs": 0, "gradient_clip": None}
    return build_module(
        method, TinyEncoder() if encoder is None else encoder, CLASSES, **(settings | options)
    )


def fit(model: Any, folder: pathlib.Path, epochs: int = 2, **options: Any) -> L.Trainer:
    made = trainer(folder, epochs, **options)
    made.fit(model, loader(), loader(8))
    return made


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


class Counted:
    """Grad-CAM that counts its calls; pass it as the explainer."""

    def __init__(self, layer: str = "body") -> None:
        self.layer, self.calls, self.models = layer, 0, []  # type: ignore[var-annotated]
        self.cache_key = layer

    def __call__(self, model: Any) -> Any:
        cam = LayerGradCam(model, model.encoder.get_submodule(self.layer))

        def explain(images: Tensor, targets: Tensor) -> Tensor:
            self.calls += 1
            self.models.append(model)
            maps: Tensor = cam.attribute(images, target=targets)
            return maps

        return explain
