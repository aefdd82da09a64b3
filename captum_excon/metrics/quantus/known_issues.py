"""Which metrics of other libraries are right, and which are not, with a self-test for each."""

from __future__ import annotations

import functools
from typing import NamedTuple

from captum_excon.metrics.quantus import _self_tests

TRUSTED = {
    "quantus.RelevanceMassAccuracy": "equals ebpg on non-negative maps",
    "quantus.RelevanceRankAccuracy": "equals bbox where no pixels tie",
    "quantus.FaithfulnessCorrelation": "1 for input times gradient of a linear model; its subsets "
    "come from NumPy's global generator, so seed that",
    "quantus.FaithfulnessEstimate": "1 for input times gradient of a linear model",
    "quantus.Sparseness": "the Gini index of the absolute map",
    "quantus.Complexity": "the entropy of the map's absolute shares",
    "quantus.MPRT": "rank correlations as the layers' weights are randomised; give it an "
    "explain_func that makes the attribution from a model",
    "quantus.Focus": "the share of positive relevance on the mosaic's tiles of the class",
    "quantus.PixelFlipping": "deletion's curve only, channel by channel; not its areas",
    "captum.metrics.infidelity": "Yeh et al.; with normalize=True",
    "captum.metrics.sensitivity_max": "Yeh et al.",
}
"""Metrics to call as they are, and what they are right for."""


class Refusal(NamedTuple):
    """Why something of Quantus is not used."""

    reason: str  # what it does wrong
    instead: str  # what to use
    works: _self_tests.Check  # the self-test: whether the installed version does it right


REFUSED = {
    "quantus.ROAD": Refusal(
        "fails on RGB images, and counts the first batch only",
        "captum_excon.metrics.road (captum_excon.metrics.quantus.ROADMoRF, ROADLeRF)",
        _self_tests.road_works,
    ),
    "quantus.IROF": Refusal(
        "fails on RGB images", "captum_excon.metrics.abpc", _self_tests.irof_works
    ),
    "quantus.calculate_auc": Refusal(
        "calls np.trapz, which NumPy 2.4 no longer has: no area of PixelFlipping, "
        "RegionPerturbation, Selectivity or IROF can be had",
        "captum_excon.metrics.deletion, insertion and abpc",
        _self_tests.auc_works,
    ),
    "quantus.Monotonicity": Refusal(
        "reveals the baseline instead of the image, so that it is always True",
        "quantus.FaithfulnessEstimate or captum_excon.metrics.insertion",
        _self_tests.monotonicity_works,
    ),
    "quantus.PointingGame": Refusal(
        "counts constant maps and empty masks as hits",
        "captum_excon.metrics.pointing_game",
        _self_tests.pointing_game_works,
    ),
    "quantus.AttributionLocalisation": Refusal(
        "divides by a size taken from the batch when weighted, so that its value depends on the "
        "batch size",
        "captum_excon.metrics.ebpg",
        _self_tests.attribution_localisation_works,
    ),
    "quantus.SensitivityN": Refusal(
        "uses the first batch only",
        "quantus.FaithfulnessCorrelation",
        _self_tests.sensitivity_n_works,
    ),
    "quantus.Infidelity": Refusal(
        "repeats the same perturbation n_perturb_samples times",
        "captum.metrics.infidelity with normalize=True",
        _self_tests.infidelity_works,
    ),
    "quantus.NonSensitivity": Refusal(
        "counts a feature that equals the baseline, such as the image's darkest value, as one that "
        "the model ignores, and fails where features_in_step exceeds 1",
        "quantus.FaithfulnessEstimate or captum_excon.metrics.deletion",
        _self_tests.non_sensitivity_works,
    ),
    "quantus.Continuity": Refusal(
        "ignores perturb_func and perturb_baseline, and shifts images narrower than 14 pixels out "
        "of sight at every step",
        "captum.metrics.sensitivity_max",
        _self_tests.continuity_works,
    ),
    "quantus.evaluate": Refusal(
        "explains with plain gradients for every method given as a dictionary, and loses finished "
        "results when a metric fails",
        "the metric objects themselves, with captum_excon.metrics.as_explain_func",
        _self_tests.evaluate_works,
    ),
    "quantus.explain": Refusal(
        "runs IntegratedGradients with 10 steps whatever n_steps says",
        "captum_excon.metrics.as_explain_func",
        _self_tests.explain_works,
    ),
}
"""Parts of Quantus 0.6.0 that give wrong numbers or none."""


@functools.cache
def refusal(name: str) -> Refusal | None:
    """Returns why something is refused, or None: it is trusted, or the installed version works.

    The self-test of a refused name runs once per process, in about a second or less.

    Args:
        name: A name of `TRUSTED` or `REFUSED`, such as ``"quantus.ROAD"``.

    Raises:
        ValueError: The name is in neither list.
        ImportError: A refused name's self-test needs Quantus, which is missing.
    """
    if name in TRUSTED:
        return None
    if name not in REFUSED:
        raise ValueError(
            f"{name!r} has not been examined; known are {', '.join([*TRUSTED, *REFUSED])}"
        )
    refused = REFUSED[name]
    return None if refused.works() else refused
