"""Integrated Grad-CAM, SISE and Ada-SISE as Captum attributions."""

from captum_excon._version import __version__
from captum_excon.attr import RISE, AdaptiveHybridCAM, IntegratedGradCAM, MultiLayerSISE, ScoreCAM
from captum_excon.layers import SelectedLayer, select_layers, tokens_to_map
from captum_excon.targets import callable_targets

__all__ = [
    "RISE",
    "AdaptiveHybridCAM",
    "IntegratedGradCAM",
    "MultiLayerSISE",
    "ScoreCAM",
    "SelectedLayer",
    "__version__",
    "callable_targets",
    "select_layers",
    "tokens_to_map",
]
