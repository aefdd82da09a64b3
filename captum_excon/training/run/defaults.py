"""Defaults that depend on the data and the encoder."""

from __future__ import annotations

import re
import statistics

from lightning.pytorch.utilities import rank_zero_only

from captum_excon.models.networks import split_name
from captum_excon.training.data.datasets import open_dataset
from captum_excon.training.run.config import TrainConfig

# What most pretrained networks expect, and photographs are trained at.
LARGEST = 224
# Up to this size a ResNet's usual stem leaves too little of an image.
SMALL = 64

# Enough to see what size images have.
_IMAGES = 20

# Torchvision's and timm's networks of the class ResNet.
_RESNET = re.compile(r"(torchvision|timm):(wide_)?(resnet|resnext)\d")


def completed(config: TrainConfig) -> TrainConfig:
    """Fills in the size of the images and the stem of the encoder, where they are left open.

    Raises:
        DataError: The data cannot be opened.
    """
    name, untrained = split_name(config.encoder)
    pretrained = (config.pretrained or name == "demo" or "@" in name) and not untrained
    size = config.image_size or (LARGEST if pretrained else _size(config))
    stem = config.cifar_stem
    if stem == "auto":
        stem = size <= SMALL and not pretrained and _RESNET.match(name) is not None
    return config.model_copy(update={"image_size": size, "cifar_stem": stem})


def _size(config: TrainConfig) -> int:
    """The median of the images' smaller sides, at most `LARGEST`."""
    images = open_dataset(
        config.data,
        "train",
        root=config.root,
        download=config.download and getattr(rank_zero_only, "rank", 0) == 0,
        val_fraction=config.val_fraction,
    )
    step = max(1, len(images) // _IMAGES)
    sides = [min(images[index][0].size) for index in range(0, len(images), step)]
    return min(LARGEST, int(statistics.median(sides)))
