"""All arms of a comparison by one word, and modules back from their checkpoints."""

from __future__ import annotations

import inspect
import os
from typing import Any

import lightning as L
import torch
from torch import nn

from captum_excon._messages import close_names
from captum_excon.models.networks import untrained_name
from captum_excon.training.modules.base import ExplainedModule
from captum_excon.training.modules.edda import EDDAModule
from captum_excon.training.modules.excon import ExConModule

__all__ = ["METHODS", "EDDAModule", "ExConModule", "build_module", "load_module"]

METHODS = ("ce", "supcon", "excon", "exconb", "edda", "random-occlusion")

_CLASSES: dict[str, type[EDDAModule] | type[ExConModule]] = {
    "ce": EDDAModule,
    "supcon": ExConModule,
    "excon": ExConModule,
    "exconb": ExConModule,
    "edda": EDDAModule,
    "random-occlusion": EDDAModule,
}


def build_module(
    method: str, encoder: str | nn.Module, num_classes: int, **options: Any
) -> ExplainedModule:
    """Builds the module of a method from settings that may serve all methods.

    Options of the other class only (``temperature`` for EDDA, ``drop_target`` for ExCon) are left
    out, so that a comparison changes the one word ``method``.

    Args:
        method: One of `METHODS`.
        encoder: As in `ExConModule` and `EDDAModule`.
        num_classes: Number of classes.
        **options: Options of `ExConModule`, `EDDAModule` and `ExplainedModule`.

    Raises:
        ValueError: There is no such method, or an option is out of range.
        TypeError: None of the classes has such an option.

    Example:
        >>> encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> encoder.feature_dim = 4
        >>> settings = dict(encoder=encoder, num_classes=2, temperature=0.2, keep_weight=0.5)
        >>> [type(build_module(method, **settings)).__name__ for method in ("excon", "edda")]
        ['ExConModule', 'EDDAModule']
    """
    cls = _class_of(method)
    known = _options(ExConModule) | _options(EDDAModule)
    for name in options:
        if name not in known:
            raise TypeError(f"no method has an option {name!r}{close_names(name, known)}")
    own: dict[str, Any] = {n: value for n, value in options.items() if n in _options(cls)}
    own["method"] = method
    return cls(encoder, num_classes, **own)


def load_module(checkpoint: str | os.PathLike[str], **overrides: Any) -> ExplainedModule:
    """Rebuilds a module with its weights from a checkpoint of Lightning, on the CPU, in eval mode.

    The file is read with ``weights_only=True``: no code in it is run. An encoder that was named
    ``package.module:function`` is imported and called, so load checkpoints of others with
    `captum_excon.load_model`, which refuses that.

    Args:
        checkpoint: The file.
        **overrides: Options to change; those that are no plain values and so are in no checkpoint
            (an ``encoder``, ``classifier`` or ``teacher`` given as module, an ``explainer`` or a
            ``fill`` given as function) must be given again.

    Raises:
        ValueError: The checkpoint is of another module.
    """
    loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
    settings = loaded.get(L.LightningModule.CHECKPOINT_HYPER_PARAMS_KEY, {})
    if settings.get("method") not in METHODS:
        raise ValueError(
            f"{checkpoint} is no checkpoint of ExConModule or EDDAModule: it names the method "
            f"{settings.get('method')!r}, where one of {', '.join(METHODS)} is expected"
        )
    settings = {**settings, **overrides}
    if isinstance(settings.get("encoder"), str):
        # The weights are here: nothing is downloaded.
        settings["encoder"] = untrained_name(settings["encoder"])
        given = settings["encoder_args"] or {}
        settings["encoder_args"] = {**given, "pretrained": False, "weights": None}
    module = _class_of(settings["method"])(**settings)
    module.load_state_dict(loaded["state_dict"])
    return module.eval()


def _class_of(method: str) -> type[EDDAModule] | type[ExConModule]:
    if method not in METHODS:
        raise ValueError(
            f"there is no method {method!r}{close_names(str(method), METHODS)}; "
            f"methods are {', '.join(METHODS)}"
        )
    return _CLASSES[method]


def _options(cls: type[ExplainedModule]) -> set[str]:
    names = {*inspect.signature(cls).parameters, *inspect.signature(ExplainedModule).parameters}
    return names - {"self", "method", "network", "given", "options"}
