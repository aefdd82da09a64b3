"""The network of a benchmark, and what tells its weights from others."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from benchmarks.explanations.configs.settings import Config, ModelConfig
from benchmarks.explanations.data.readers.synthetic import CLASSES, SyntheticNet
from benchmarks.explanations.stages.folding import fold_batch_norm
from captum_excon.errors import UserError
from captum_excon.models import Model, load_model, pick_device


def open_model(config: Config) -> Model:
    """Builds the network, in evaluation mode, on the configured device.

    Raises:
        UserError: The name, the weights or an option is wrong, or a package is missing.
    """
    wanted = config.model
    if wanted.name == "synthetic":
        if wanted != ModelConfig(name="synthetic"):
            raise UserError("the synthetic model is made by hand: it has no options but its name")
        device = pick_device(config.device)
        module = SyntheticNet().to(device)
        zeros, ones = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        return Model("synthetic", module, _as_it_is, zeros, ones, CLASSES, device=device)
    model = load_model(
        wanted.name,
        device=config.device,
        weights=Path(wanted.weights) if wanted.weights else None,
        labels=Path(wanted.labels) if wanted.labels else None,
        size=(wanted.size[0], wanted.size[1]) if wanted.size else None,
        mean=tuple(wanted.mean) if wanted.mean else None,
        std=tuple(wanted.std) if wanted.std else None,
    )
    uneven = torch.linspace(-1, 1, model.blank().numel(), device=model.device)
    if wanted.fold_batch_norm and not fold_batch_norm(model.module, uneven.view_as(model.blank())):
        raise UserError(
            f"model.fold_batch_norm: {wanted.name} has no batch normalisation behind a "
            "convolution; leave it out"
        )
    if wanted.channels_last:
        model.module.to(memory_format=torch.channels_last)
    return model


def _as_it_is(image: Image.Image) -> Tensor:
    pixels: Tensor = functional.to_dtype(functional.pil_to_tensor(image), torch.float32, scale=True)
    return pixels
