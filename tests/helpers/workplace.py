"""A folder to work in, with a module of small networks and a photograph."""

import sys
from pathlib import Path

import pytest
from PIL import Image

NETS = """
import torch
from torch import nn

def small(channels=3):
    return nn.Sequential(
        nn.Conv2d(channels, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(5, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    )

def failing():
    raise RuntimeError("two\\nlines")

def number():
    return 3

def dense():
    return nn.Conv2d(3, 4, 3)

def single():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1))

def nan():
    return nn.Sequential(small(), nn.Threshold(float("inf"), float("nan")))

class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.unused = nn.Conv2d(3, 6, 4, stride=4), nn.Conv2d(3, 3, 1)
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x):
        patches = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([patches.mean(1, keepdim=True), patches], 1)
        return self.head(self.second(self.first(tokens).relu()).mean(1))
"""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a module of small networks in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path


def photograph(width: int = 90, height: int = 60) -> Image.Image:
    ramp = Image.linear_gradient("L").resize((width, height))
    return Image.merge("RGB", [ramp, ramp.rotate(180), ramp.point(lambda v: v // 2)])
