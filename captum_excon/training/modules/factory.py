"""Training modules by the name of their method, and from their checkpoints."""

from __future__ import annotations

import os
from typing import Any

import lightning as L
import torch
from torch import nn

from captum_excon._messages import close_names
from captum_excon.models.networks import untrained_name
from captum_excon.training.methods import METHODS, find_method
from captum_excon.training.modules.base import ExplainedModule

__all__ = ["METHODS", "build_module", "load_module"]


# Of the modules' constructors.
_ARGUMENTS = ("classifier", "encoder_args", "mean", "std", "teacher")


def build_module(
    method: str, encoder: str | nn.Module, num_classes: int, **options: Any
) -> ExplainedModule:
    """Builds the module of a method from settings that may serve all methods.

    Settings of other methods only (``temperature`` for EDDA, ``drop_target`` for ExCon) are left
    out, so that a comparison changes the one word ``method``.

    Args:
        method: One of `METHODS`.
        encoder: As in `ExConModule` and `EDDAModule`.
        num_classes: Number of classes.
        **options: Settings of any method, and arguments of its module.

    Raises:
        ValueError: There is no such method, or a setting is out of range.
        TypeError: No method has such a setting.

    Example:
        >>> encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> encoder.feature_dim = 4
        >>> settings = dict(encoder=encoder, num_classes=2, temperature=0.2, keep_weight=0.5)
        >>> [type(build_module(method, **settings)).__name__ for method in ("excon", "edda")]
        ['ExConModule', 'EDDAModule']
    """
    found = find_method(method)
    known = {*_ARGUMENTS, *(name for m in METHODS.values() for name in m.settings.model_fields)}
    for name in options:
        if name not in known:
            raise TypeError(f"no method has an option {name!r}{close_names(name, known)}")
    own = {*_ARGUMENTS, *found.settings.model_fields}
    chosen = {name: value for name, value in options.items() if name in own}
    module: ExplainedModule = found.module_class()(encoder, num_classes, method=method, **chosen)
    return module


def load_module(checkpoint: str | os.PathLike[str], **overrides: Any) -> ExplainedModule:
    """Rebuilds a module with its weights from a checkpoint of Lightning, on the CPU, in eval mode.

    The file is read with ``weights_only=True``: no code in it is run. An encoder that was named
    ``package.module:function`` is imported and called, so load checkpoints of others with
    `captum_excon.load_model`, which refuses that.

    Args:
        checkpoint: The file.
        **overrides: Settings to change. What is not a plain value is in no checkpoint and must be
            given again: an ``encoder``, ``classifier`` or ``teacher`` given as a module, an
            ``explainer`` or ``fill`` given as a function.

    Raises:
        ValueError: The checkpoint is of another module.
    """
    loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
    settings = loaded.get(L.LightningModule.CHECKPOINT_HYPER_PARAMS_KEY, {})
    if settings.get("method") not in METHODS:
        raise ValueError(
            f"{checkpoint} is not a checkpoint of a training module: it names the method "
            f"{settings.get('method')!r}, but {', '.join(METHODS)} are known"
        )
    settings = {**settings, **overrides}
    if isinstance(settings.get("encoder"), str):
        # The weights are here: nothing is downloaded.
        settings["encoder"] = untrained_name(settings["encoder"])
        given = settings["encoder_args"] or {}
        settings["encoder_args"] = {**given, "pretrained": False, "weights": None}
    module: ExplainedModule = find_method(settings["method"]).module_class()(**settings)
    module.load_state_dict(loaded["state_dict"])
    return module.eval()
