"""Metrics of explanations: one value per image, NaN where it is undefined.

All raise TypeError for images, maps or masks that are not tensors of the right kind, and ValueError
for shapes that do not fit, options out of range, and models that return NaN or infinite scores.
"""

from captum_excon.metrics._maps import nan_reasons
from captum_excon.metrics.drop import (
    DropIncrease,
    average_drop_increase,
    drop_increase,
    drop_increase_sweep,
)
from captum_excon.metrics.localization import bbox, ebpg, miou
from captum_excon.metrics.perturbation_areas import abpc, deletion, insertion, road
from captum_excon.metrics.perturbation_curve import Curve, perturbation_curve
from captum_excon.metrics.pointing import ClassMean, class_mean, difficult, pointing_game
from captum_excon.metrics.quantus.explain_func import as_explain_func
from captum_excon.metrics.quantus.known_issues import REFUSED, TRUSTED, Refusal, refusal
from captum_excon.metrics.scorer import Scorer

__all__ = [
    "REFUSED",
    "TRUSTED",
    "ClassMean",
    "Curve",
    "DropIncrease",
    "Refusal",
    "Scorer",
    "abpc",
    "as_explain_func",
    "average_drop_increase",
    "bbox",
    "class_mean",
    "deletion",
    "difficult",
    "drop_increase",
    "drop_increase_sweep",
    "ebpg",
    "insertion",
    "miou",
    "nan_reasons",
    "perturbation_curve",
    "pointing_game",
    "refusal",
    "road",
]
