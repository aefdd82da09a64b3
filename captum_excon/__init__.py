"""Integrated Grad-CAM, SISE and Ada-SISE as Captum attributions.

The names below are imported when they are first used, so that the command line answers
``--help`` without loading torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from captum_excon._version import __version__

if TYPE_CHECKING:
    from captum_excon._files import load_image
    from captum_excon.attr import *  # noqa: F403
    from captum_excon.layers import SelectedLayer, select_layers, tokens_to_map
    from captum_excon.models import load_model
    from captum_excon.targets import callable_targets

__all__ = [  # noqa: F405 - found by __getattr__
    "RISE",
    "SISE",
    "AdaSISE",
    "AdaptiveHybridCAM",
    "FusedGradCAM",
    "FusedGroupCAM",
    "IntegratedGradCAM",
    "MultiLayerSISE",
    "ScoreCAM",
    "SelectedLayer",
    "__version__",
    "callable_targets",
    "fuse_layers",
    "load_image",
    "load_model",
    "select_layers",
    "tokens_to_map",
]

_MODULES = {
    "SelectedLayer": "layers",
    "select_layers": "layers",
    "tokens_to_map": "layers",
    "callable_targets": "targets",
    "load_image": "_files",
    "load_model": "models",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'attr')}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
