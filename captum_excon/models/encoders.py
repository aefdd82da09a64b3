"""Encoders: networks without their classifiers, which give one feature vector per image."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from torch import nn

from captum_excon.errors import UserError
from captum_excon.models.networks import build_network, split_name
from captum_excon.models.weights import load_weights


def build_encoder(
    name: str | nn.Module,
    *,
    cifar_stem: bool = False,
    feature_dim: int | None = None,
    pretrained: bool = False,
    weights: str | os.PathLike[str] | None = None,
    **model_args: Any,
) -> nn.Module:
    """Builds a network f: (N, C, H, W) -> (N, D) with D as its attribute ``feature_dim``.

    Args:
        name: As in `captum_excon.models.load_model`: ``demo``, ``torchvision:NAME[@WEIGHTS]``,
            ``timm:NAME`` or ``package.module:function``. Its last linear layer becomes the
            identity; a function's network that has an attribute ``feature_dim`` stays as it is. Or
            a module, which stays as it is.
        cifar_stem: For small images, as in the official code: the first convolution becomes 3x3
            with stride 1, and there is no max-pooling. A stem of several convolutions (timm's
            "deep" ones) keeps them, all with stride 1. Torchvision's and timm's ResNets have it.
        feature_dim: D of a module that has no such attribute.
        pretrained: With the library's default weights, which may be downloaded. ``demo`` and
            ``torchvision:NAME@WEIGHTS`` always have theirs, and ``NAME@random`` has none. A first
            convolution that ``cifar_stem`` replaces starts from random weights all the same.
        weights: A file to start from, as in `load_model`; its classifier is ignored.
        **model_args: Arguments of ``torchvision.models.get_model``, ``timm.create_model`` or the
            function.

    Returns:
        The library's own module, so that its layers keep their names ("layer4.1.conv2").

    Raises:
        TypeError: ``name`` is neither a string nor a module.
        UserError: The model is unknown, has no linear head or no such stem, D is unknown or not
            that of the model, the weights do not fit, or options are given for a module.
        MissingPackageError: timm or the demo's package is not installed.

    Example:
        >>> import torch
        >>> encoder = build_encoder("torchvision:resnet18", cifar_stem=True)
        >>> encoder.feature_dim, encoder(torch.zeros(2, 3, 32, 32)).shape
        (512, torch.Size([2, 512]))
    """
    if isinstance(name, nn.Module):
        if cifar_stem or pretrained or weights or model_args:
            raise UserError(
                "cifar_stem, pretrained, weights and model arguments are for models built by name; "
                "set up the module before it is passed"
            )
        return _with_feature_dim(name, feature_dim)
    if not isinstance(name, str):
        raise TypeError(f"an encoder is a name or a module, but found {type(name).__name__}")
    base, untrained = split_name(name)
    wanted = (pretrained or base == "demo" or "@" in base) and not untrained and weights is None
    model = build_network(base, wanted, **model_args).module
    if getattr(model, "aux_logits", False):
        raise UserError(f"{name!r} has several outputs in training; pass aux_logits=False")
    if not hasattr(model, "feature_dim"):
        _remove_head(model, name, feature_dim)
    if weights is not None:
        load_weights(model, Path(weights), name, headless=True)
    if cifar_stem:
        _use_cifar_stem(model, name)
    return _with_feature_dim(model, feature_dim)


def _with_feature_dim(model: nn.Module, feature_dim: int | None) -> nn.Module:
    own = getattr(model, "feature_dim", None)
    if own is None and feature_dim is None:
        raise UserError(
            f"the size of the features of {type(model).__name__} is not known; pass feature_dim, "
            "or give the module such an attribute"
        )
    if own is not None and feature_dim not in (None, own):
        raise UserError(f"feature_dim is {feature_dim}, but the model's features have size {own}")
    cast(Any, model).feature_dim = feature_dim if own is None else own
    return model


def _remove_head(model: nn.Module, name: str, feature_dim: int | None) -> None:
    if name.startswith("timm:"):
        cast(Any, model).reset_classifier(0)
        # Some models widen their features after pooling.
        size = getattr(model, "head_hidden_size", None) or model.num_features
        cast(Any, model).feature_dim = size
        return
    linear = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.Linear)]
    if linear:
        path, head = linear[-1]
        model.set_submodule(path, nn.Identity())
        cast(Any, model).feature_dim = head.in_features
    elif feature_dim is None:
        raise UserError(
            f"{name!r} has no linear layer at its end; pass a module and its feature_dim"
        )


def _use_cifar_stem(model: nn.Module, name: str) -> None:
    stem = getattr(model, "conv1", None)
    if not hasattr(model, "maxpool") or not isinstance(stem, nn.Conv2d | nn.Sequential):
        raise UserError(
            f"{name!r} has no stem of a convolution and a max-pooling as ResNets have; leave "
            "cifar_stem off, or pass a module with the stem that is wanted"
        )
    owner = cast(Any, model)
    owner.maxpool = nn.Identity()
    if isinstance(stem, nn.Sequential):
        for layer in stem.modules():
            if isinstance(layer, nn.Conv2d):
                layer.stride = (1, 1)
        return
    owner.conv1 = nn.Conv2d(
        stem.in_channels, stem.out_channels, 3, padding=1, bias=stem.bias is not None
    )
    nn.init.kaiming_normal_(owner.conv1.weight, mode="fan_out", nonlinearity="relu")
