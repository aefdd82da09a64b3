"""Names of metrics and explainers, the tables they belong to, and how numbers are printed."""

from __future__ import annotations

import math
from typing import NamedTuple

TRUTH = "ground-truth"
OTHER_IMAGE = "other-image"
RANDOM = "random"
NONE = "–"


class Family(NamedTuple):
    """Metrics of one table: its title, and each metric's heading and short definition."""

    title: str
    metrics: dict[str, tuple[str, str]]


FAMILIES = (
    Family(
        "Localization",
        {
            "ebpg": (
                "EBPG",
                "share of the map's positive mass in the region, its constant part too",
            ),
            "bbox": ("Bbox", "share of the n strongest pixels inside the region of n pixels"),
            "miou": ("mIoU", "overlap of the strongest pixels with the region, IoU"),
            "pointing-game": ("Pointing game", "whether the strongest pixel is near the region"),
        },
    ),
    Family(
        "Drop and Increase",
        {
            "drop": ("Drop", "share of the probability lost when only the top pixels are kept"),
            "increase": ("Increase", "how often the probability grows when only they are kept"),
            "average-drop": ("Average Drop", "the same loss under the soft map as mask"),
            "average-increase": ("Average Increase", "the same growth under the soft map as mask"),
        },
    ),
    Family(
        "Removing and adding pixels",
        {
            "insertion": ("Insertion", "area under the score as the strongest pixels appear"),
            "deletion": ("Deletion", "area under the score as the strongest pixels go"),
            "road-morf": ("ROAD, most relevant first", "score after noisy linear imputation"),
            "road-lerf": ("ROAD, least relevant first", "score after noisy linear imputation"),
            "abpc": ("ABPC", "area between the least- and the most-relevant-first curves"),
        },
    ),
    Family("Other metrics", {}),
)


def family(metric: str) -> Family:
    """The table that a metric belongs to."""
    return _known(metric)[0]


def heading(metric: str) -> str:
    """The name of a metric at the head of a column.

    Example:
        >>> heading("deletion:blur"), heading("quantus:Sparseness"), heading("mine")
        ('Deletion, blur', 'Sparseness (Quantus)', 'mine')
    """
    found, name = _known(metric)
    if name is not None:
        variant = metric[len(name) :].strip(":@-[]( )")
        return found.metrics[name][0] + (f", {variant}" if variant else "")
    library, colon, rest = metric.partition(":")
    return f"{rest} (Quantus)" if colon and library == "quantus" else metric


def definition(metric: str) -> str | None:
    """A metric in a few words, where they are known."""
    found, name = _known(metric)
    return None if name is None else found.metrics[name][1]


def order(metric: str) -> tuple[int, int, str]:
    """Sorts metrics as the families list them."""
    found, name = _known(metric)
    return FAMILIES.index(found), list(found.metrics).index(name) if name else 0, metric


def _known(metric: str) -> tuple[Family, str | None]:
    for candidate in FAMILIES:
        for name in sorted(candidate.metrics, key=len, reverse=True):
            if metric.startswith(name) and not metric[len(name) :][:1].isalnum():
                return candidate, name
    return FAMILIES[-1], None


def number(value: float) -> str:
    """Formats with three decimals, or with four digits where that says more.

    Example:
        >>> number(0.12345), number(-12.3456), number(0.0), number(1.5e-5), number(float("nan"))
        ('0.123', '-12.35', '0.000', '1.5e-05', '–')
    """
    if not math.isfinite(value):
        return NONE
    return f"{value:.4g}" if value and not 1e-3 <= abs(value) < 10 else f"{value:.3f}"
