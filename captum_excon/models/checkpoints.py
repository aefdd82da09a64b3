"""Classifiers from the checkpoints of our own training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from captum_excon.errors import UserError
from captum_excon.models.classifier import Classifier
from captum_excon.models.encoders import build_encoder
from captum_excon.models.model import Model
from captum_excon.models.networks import untrained_name
from captum_excon.models.preprocessing import as_pixels, standard_view
from captum_excon.models.weights import read_plain

SUFFIX = ".ckpt"
_SETTINGS = "hyper_parameters"  # Lightning's name


def is_checkpoint(path: str | os.PathLike[str], *, encoder: str | None = None) -> bool:
    """Whether a model's name is that of a checkpoint file.

    Args:
        path: The name or file.
        encoder: If given, whether it is a checkpoint of our training that names this encoder.
    """
    if Path(path).suffix != SUFFIX:
        return False
    if encoder is None:
        return True
    found = read_plain(Path(path))
    settings = found.get(_SETTINGS) if isinstance(found, dict) else None
    return isinstance(settings, dict) and settings.get("encoder") == encoder


def model_from_checkpoint(path: Path, *, encoder: str | None = None) -> Model:
    """Rebuilds the classifier of a checkpoint of ``captum-excon train``.

    Only an encoder of a library is built by the name in the checkpoint. ``package.module:function``
    is code, which a file should not choose.

    Args:
        path: ``best.ckpt`` or ``last.ckpt`` of a run.
        encoder: The encoder, if it is the user's own function.

    Returns:
        The classifier, the preprocessing of its training, its class names, and the layer that
        training explained.

    Raises:
        UserError: The file is not such a checkpoint, or its encoder is code that was not named.
    """
    found = read_plain(path)
    settings = found.get(_SETTINGS) if isinstance(found, dict) else None
    if not isinstance(settings, dict) or not {"mean", "std", "num_classes"} <= settings.keys():
        raise UserError(
            f"{path} is not a checkpoint of captum-excon train; name the network, and pass this "
            "file as --weights"
        )
    network = _network(path, settings, found["state_dict"], encoder)
    # Earlier versions wrote no class names, and the size among the settings of the run.
    run = found.get("callbacks", {}).get("RunFolder", {}).get("config", {})
    image_size = found.get("image_size") or run.get("image_size")
    layer = settings.get("layer")
    return Model(
        str(path),
        network,
        as_pixels
        if image_size is None
        else lambda image: as_pixels(standard_view(image, image_size)),
        tuple(settings["mean"]),
        tuple(settings["std"]),
        found.get("class_names"),
        layer=None if layer is None else f"encoder.{layer}",
    )


def _network(
    path: Path, settings: dict[str, Any], state: dict[str, Any], encoder: str | None
) -> Classifier:
    name = encoder or settings.get("encoder")
    if not isinstance(name, str):
        raise UserError(
            f"{path} was trained with a network given as a module, which only Python can rebuild: "
            "captum_excon.training.load_module(path, encoder=...)"
        )
    if encoder is None and name == untrained_name(name) and not name.endswith("@random"):
        raise UserError(
            f"{path} was trained with your function {name}, which a file may not choose to run; "
            f"name it yourself: --model {name} --weights {path}"
        )
    arguments = {**(settings.get("encoder_args") or {}), "pretrained": False, "weights": None}
    built = build_encoder(untrained_name(name), **arguments)
    weight = state["network.head.weight"]
    head = nn.Linear(weight.shape[1], weight.shape[0])
    network = Classifier(built, head, settings["num_classes"])
    own = {k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")}
    network.load_state_dict(own)
    return network
