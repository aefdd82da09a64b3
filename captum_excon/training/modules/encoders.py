"""Encoders that give one feature vector an image, and the head of contrastive training."""

from __future__ import annotations

import importlib
from typing import Any, cast

import torch
import torch.nn.functional as F
import torchvision.models
from torch import Tensor, nn

from captum_excon._messages import close_names


def build_encoder(
    name: str | nn.Module,
    *,
    cifar_stem: bool = False,
    feature_dim: int | None = None,
    pretrained: bool = False,
    **model_args: Any,
) -> nn.Module:
    """Builds a network f: (N, C, H, W) -> (N, D) with D as its attribute ``feature_dim``.

    Args:
        name: "torchvision:NAME" for a classifier of torchvision, whose last linear layer becomes
            the identity; "timm:NAME" for a model of timm without its classifier; or a module.
        cifar_stem: For small images, as the official code has it: the first convolution becomes
            3x3 with stride 1, and there is no max-pooling. A stem of several convolutions (timm's
            "deep" ones) keeps them, all with stride 1. Torchvision's and timm's ResNets have it.
        feature_dim: D of a module that has no such attribute.
        pretrained: With the library's default weights, which it fetches from the web. A first
            convolution that ``cifar_stem`` replaces starts from random weights all the same.
        **model_args: Go to ``torchvision.models.get_model`` or ``timm.create_model``.

    Returns:
        The library's own module, so that its layers keep their names ("layer4.1.conv2").

    Raises:
        ImportError: timm is not installed.
        TypeError: ``name`` is neither a string nor a module.
        ValueError: The model is not known, has no linear head or no such stem, D is not known or
            not what the model has, or options are given for a module.

    Example:
        >>> encoder = build_encoder("torchvision:resnet18", cifar_stem=True)
        >>> encoder.feature_dim, encoder(torch.zeros(2, 3, 32, 32)).shape
        (512, torch.Size([2, 512]))
    """
    if isinstance(name, nn.Module):
        if cifar_stem or pretrained or model_args:
            raise ValueError(
                "cifar_stem, pretrained and model arguments are for models built by name; set up "
                "the module before it is passed"
            )
        return _with_feature_dim(name, feature_dim)
    if not isinstance(name, str):
        raise TypeError(f"an encoder is a name or a module, but found {type(name).__name__}")
    library, _, model_name = name.partition(":")
    if library == "torchvision" and model_name:
        model = _from_torchvision(model_name, pretrained, model_args)
    elif library == "timm" and model_name:
        model = _from_timm(model_name, pretrained, model_args)
    else:
        raise ValueError(
            f"an encoder is named 'torchvision:NAME' or 'timm:NAME', but found {name!r}"
        )
    if cifar_stem:
        _use_cifar_stem(model, name)
    return _with_feature_dim(model, feature_dim)


class ProjectionHead(nn.Module):
    """Projects features onto the unit sphere where views are compared.

        z = W2 relu(W1 h + b1) + b2,    output z / ||z||

    The official code has 2048-2048-128. The division is done in float32 at least.

    Args:
        in_dim: Size of the features.
        hidden_dim: Of the hidden layer, ``in_dim`` by default.
        out_dim: Of the output.

    Shape:
        (N, in_dim) -> (N, out_dim), each row of length 1.

    Example:
        >>> projected = ProjectionHead(8, out_dim=3)(torch.ones(2, 8))
        >>> projected.shape, bool(torch.allclose(projected.norm(dim=1), torch.ones(2)))
        (torch.Size([2, 3]), True)
    """

    def __init__(self, in_dim: int, hidden_dim: int | None = None, out_dim: int = 128) -> None:
        super().__init__()
        hidden_dim = in_dim if hidden_dim is None else hidden_dim
        self.hidden = nn.Linear(in_dim, hidden_dim)
        self.output = nn.Linear(hidden_dim, out_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Projects features, (N, in_dim) -> (N, out_dim)."""
        projected = self.output(F.relu(self.hidden(features)))
        return F.normalize(projected.to(torch.promote_types(projected.dtype, torch.float32)), dim=1)


def _with_feature_dim(model: nn.Module, feature_dim: int | None) -> nn.Module:
    own = getattr(model, "feature_dim", None)
    if own is None and feature_dim is None:
        raise ValueError(
            f"the size of the features of {type(model).__name__} is not known; pass feature_dim, "
            "or give the module such an attribute"
        )
    if own is not None and feature_dim not in (None, own):
        raise ValueError(f"feature_dim is {feature_dim}, but the model's features have size {own}")
    if own is None:
        cast(Any, model).feature_dim = feature_dim
    return model


def _from_torchvision(name: str, pretrained: bool, model_args: dict[str, Any]) -> nn.Module:
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ValueError(f"torchvision has no classifier {name!r}{close_names(name, known)}")
    weights = "DEFAULT" if pretrained else None
    model = cast(nn.Module, torchvision.models.get_model(name, weights=weights, **model_args))
    if getattr(model, "aux_logits", False):
        raise ValueError(f"{name!r} has several outputs in training; pass aux_logits=False")
    linear = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.Linear)]
    if not linear:
        raise ValueError(
            f"{name!r} has no linear layer at its end; pass a module and its feature_dim"
        )
    path, head = linear[-1]
    model.set_submodule(path, nn.Identity())
    cast(Any, model).feature_dim = head.in_features
    return model


def _from_timm(name: str, pretrained: bool, model_args: dict[str, Any]) -> nn.Module:
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError as error:
        raise ImportError(f"'timm:{name}' needs timm: pip install timm") from error
    if not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}{close_names(name, timm.list_models())}")
    model = timm.create_model(name, pretrained=pretrained, num_classes=0, **model_args)
    # Some models widen their features after pooling.
    model.feature_dim = getattr(model, "head_hidden_size", None) or model.num_features
    return cast(nn.Module, model)


def _use_cifar_stem(model: nn.Module, name: str) -> None:
    stem = getattr(model, "conv1", None)
    if not hasattr(model, "maxpool") or not isinstance(stem, nn.Conv2d | nn.Sequential):
        raise ValueError(
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
