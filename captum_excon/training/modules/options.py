"""What the options of the training modules stand for, and which go together."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal

from torch import nn

from captum_excon._messages import close_names
from captum_excon.layers import unwrap
from captum_excon.models.classifier import Classifier
from captum_excon.models.encoders import build_encoder
from captum_excon.transforms._undisturbed import Explainer, Mode

ExplainerFactory = Callable[[nn.Module], Explainer]
Refresh = Literal["step", "teacher"] | int


def encoder_of(encoder: str | nn.Module, arguments: dict[str, Any] | None) -> nn.Module:
    """Builds a named encoder, or checks one that is given, perhaps compiled."""
    inner = unwrap(encoder) if isinstance(encoder, nn.Module) else encoder
    return build_encoder(inner, **(arguments or {}))


def check_options(
    refresh: Refresh,
    teacher: nn.Module | None,
    explain_mode: Mode,
    cache: str | None,
    start_epoch: int,
    warmup_epochs: int,
    gradient_clip: float | None,
) -> None:
    """Raises ValueError for options that are out of range or do not go together."""
    if refresh not in ("step", "teacher") and (
        isinstance(refresh, (str, bool)) or not isinstance(refresh, int) or refresh < 1
    ):
        raise ValueError(
            f'refresh must be "step", "teacher" or a number of epochs, but found {refresh!r}'
        )
    if teacher is not None and refresh != "teacher":
        raise ValueError('a teacher explains with refresh="teacher" only')
    if explain_mode not in ("eval", "train"):
        raise ValueError(f'explain_mode must be "eval" or "train", but found {explain_mode!r}')
    if cache is not None and (refresh == "step" or explain_mode == "train"):
        raise ValueError(
            "a cache holds maps of fixed weights that depend on one image each: set refresh to "
            '"teacher" or a number of epochs, and explain_mode to "eval", but found '
            f"{refresh!r} and {explain_mode!r}"
        )
    for name, value in (("start_epoch", start_epoch), ("warmup_epochs", warmup_epochs)):
        if value < 0:
            raise ValueError(f"{name} must not be negative, but found {value}")
    if gradient_clip is not None and gradient_clip <= 0:
        raise ValueError(f"gradient_clip must be positive or None, but found {gradient_clip}")


def not_plain(given: Any, explainer: Any, fill: Any) -> list[str]:
    """Arguments that would keep a checkpoint from loading with ``weights_only=True``."""
    names = ["network", "given", "teacher", "classifier"]
    names += ["encoder"] if isinstance(given, nn.Module) else []
    names += [] if isinstance(explainer, str) else ["explainer"]
    return names + (["fill"] if callable(fill) else [])


def first_teacher(
    network: Classifier, teacher: nn.Module | None, refresh: Refresh
) -> Classifier | None:
    """The frozen network that explains, if it is not the one that is trained."""
    if teacher is not None:
        copied = Classifier(unwrap(teacher), nn.Identity(), network.num_classes)
    elif refresh != "step":
        copied = copy.deepcopy(network)
    else:
        return None
    return copied.requires_grad_(False)


def submodule(module: nn.Module, name: str) -> nn.Module:
    """The layer of that name; ValueError with the nearest names if there is none."""
    known: dict[str, nn.Module] = dict(module.named_modules())
    if name not in known:
        raise ValueError(
            f"the encoder has no layer {name!r}{close_names(name, known)}; names are those of its "
            "named_modules()"
        )
    return known[name]
