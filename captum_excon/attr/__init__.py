"""Attribution methods, one a file; a new public module here is found without further changes."""

import importlib
import pkgutil

from captum.attr import Attribution

from captum_excon.attr._core.fusion import fuse_layers
from captum_excon.attr.adaptive_hybrid_cam import AdaptiveHybridCAM
from captum_excon.attr.fused_grad_cam import FusedGradCAM
from captum_excon.attr.fused_group_cam import FusedGroupCAM
from captum_excon.attr.integrated_grad_cam import IntegratedGradCAM
from captum_excon.attr.multi_layer_sise import MultiLayerSISE
from captum_excon.attr.rise import RISE
from captum_excon.attr.score_cam import ScoreCAM

# The methods' names in their papers.
SISE = MultiLayerSISE
AdaSISE = AdaptiveHybridCAM

__all__ = [
    "RISE",
    "SISE",
    "AdaSISE",
    "AdaptiveHybridCAM",
    "FusedGradCAM",
    "FusedGroupCAM",
    "IntegratedGradCAM",
    "MultiLayerSISE",
    "ScoreCAM",
    "attribution_methods",
    "fuse_layers",
]


def attribution_methods() -> dict[str, type[Attribution]]:
    """Returns the attribution class of each public module, by the module's name with hyphens.

    Example:
        >>> sorted(attribution_methods())[:2]
        ['adaptive-hybrid-cam', 'fused-grad-cam']
    """
    methods = {}
    for info in pkgutil.iter_modules(__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{__name__}.{info.name}")
        for value in vars(module).values():
            if (
                isinstance(value, type)
                and issubclass(value, Attribution)
                and value.__module__ == module.__name__
            ):
                methods[info.name.replace("_", "-")] = value
    return methods
