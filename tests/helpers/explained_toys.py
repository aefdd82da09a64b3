"""Classifiers that training would disturb, and ones whose predictions are known."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.toys import seeded, state


class Unsteady(nn.Module):
    """Batch norm and dropout: in training mode a pass leaves traces and depends on its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8))
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(8, 4)
        seeded(self, 3)
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.body(self.stem(x)).relu().mean((2, 3))))


class Brightest(nn.Module):
    """Scores are the sums of the channels, so that the prediction is the brightest channel."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum((2, 3))


def first_channel(images: Tensor, _targets: Tensor) -> Tensor:
    """An explainer whose map is the image's first channel."""
    return images[:, :1]


def training_state(module: nn.Module) -> dict[str, Any]:
    return state(module) | {"gradient tensors": [p.grad for p in module.parameters()]}


@contextmanager
def left_as_it_was(module: nn.Module) -> Iterator[None]:
    before = training_state(module)
    yield
    after = training_state(module)
    assert all(
        x is y
        for x, y in zip(before.pop("gradient tensors"), after.pop("gradient tensors"), strict=True)
    )
    assert before == after


class NoSynchronisation(TorchDispatchMode):
    """Fails on the operations for which the host waits for the device."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.WAITING or (name == "index" and any(_is_mask(i) for i in args[1])):
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
