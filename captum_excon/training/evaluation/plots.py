"""Plots of evaluations: attacks, shifts and reliability, with a colour for each arm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from captum_excon._files import written_whole
from captum_excon.training.evaluation.robustness import ATTACKS

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""Evaluations of each arm, one for each seed."""

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "figure.dpi": 150,
}

# Most colour-blind readers can tell these apart; the markers serve everybody.
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777")
MARKERS = "osD^vPX"


@matplotlib.rc_context(STYLE)
def plot_attacks(results: Results) -> Figure:
    """Draws the accuracy under FGSM and PGD over the attack's radius, 0 for clean images.

    Of several seeds of an arm, the mean is a line and ± one standard deviation a band.
    """
    figure, panels = _figure(1, len(ATTACKS), (6.8, 3.3))
    for axes, attack in zip(panels, ATTACKS, strict=True):
        for i, runs in enumerate(results.values()):
            values = [[r["attacks"]["clean"], *r["attacks"][attack]] for r in runs]
            epsilons = [0, *runs[0]["attacks"]["epsilons"]]
            _line(axes, epsilons, values, i)
            axes.set_xticks(epsilons)
        axes.set(title=attack.upper(), xlabel="radius (gray levels of 1/255, L∞)")
    panels[0].set_ylabel("top-1 accuracy")
    _finish(figure, panels, results)
    return figure


@matplotlib.rc_context(STYLE)
def plot_shifts(results: Results, group: str = "shifts") -> Figure:
    """Draws accuracy and calibration error over the severity of each shift, 0 for clean images.

    ``group`` is "shifts" or "corruptions". Each kind has a column; the means of more than six share
    one.
    """
    first = next(iter(results.values()))[0]
    kinds = list(first[group]) if len(first[group]) <= 6 else ["mean"]
    metrics = {"top1": "top-1 accuracy", "ece15": "ECE (15 bins)"}
    size = (max(1.9 * len(kinds), 3.4), 4.2)
    figure, panels = _figure(len(metrics), len(kinds), size)
    rows = panels.reshape(2, -1)
    for panel, (metric, label) in zip(rows, metrics.items(), strict=True):
        for axes, kind in zip(panel, kinds, strict=True):
            for i, runs in enumerate(results.values()):
                values = [[r["clean"][metric], *_severities(r[group], kind, metric)] for r in runs]
                _line(axes, range(6), values, i)
            axes.set_xticks(range(6))
        panel[0].set_ylabel(label)
    for top, bottom, kind in zip(*rows, kinds, strict=True):
        top.set_title(f"mean of {group}" if kind == "mean" else kind.replace("-", " "))
        bottom.set_xlabel("severity")
    _finish(figure, panels, results)
    return figure


def _severities(ladder: Mapping[str, Any], kind: str, metric: str) -> Any:
    kinds = ladder.values() if kind == "mean" else [ladder[kind]]
    return np.mean([[found[metric] for found in severities] for severities in kinds], axis=0)


@matplotlib.rc_context(STYLE)
def plot_reliability(results: Results) -> Figure:
    """Draws accuracy over confidence, clean, and below how often each confidence occurs.

    The bins of several seeds are merged; on the dashed line a model is calibrated.
    """
    figure, panels = _figure(2, 1, (4.2, 4.6), height_ratios=(3, 1))
    top, bottom = panels
    top.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1)
    for i, runs in enumerate(results.values()):
        counts, confidence, accuracy = _merged([r["reliability"] for r in runs])
        some, edges = counts > 0, np.linspace(0, 1, len(counts) + 1)
        top.plot(confidence[some], accuracy[some], **_style(i))
        bottom.stairs(counts / counts.sum(), edges, color=_style(i)["color"], linewidth=1.3)
    top.set(ylabel="accuracy", xlim=(0, 1))
    bottom.set(ylabel="images", xlabel="confidence")
    bottom.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _finish(figure, panels, results)
    top.set_ylim(0, 1)
    return figure


def _merged(bins: Sequence[Mapping[str, Any]]) -> tuple[npt.NDArray[Any], ...]:
    """Merges counts, mean confidences and accuracies of the bins of several runs."""
    counts = np.array([b["count"] for b in bins], dtype=float)

    def mean(name: str) -> npt.NDArray[Any]:
        values = np.array([[v or 0.0 for v in b[name]] for b in bins])
        means: npt.NDArray[Any] = (values * counts).sum(0) / np.maximum(counts.sum(0), 1)
        return means

    return counts.sum(0), mean("confidence"), mean("accuracy")


def save_all(results: Results, folder: Path) -> None:
    """Draws ``attacks``, ``shifts``, ``reliability`` and, if measured, ``corruptions`` as PNG.

    Each file is written whole or not at all; UserError if it cannot be.
    """
    figures = {
        "attacks": plot_attacks(results),
        "shifts": plot_shifts(results),
        "reliability": plot_reliability(results),
    }
    if all("corruptions" in run for runs in results.values() for run in runs):
        figures["corruptions"] = plot_shifts(results, "corruptions")
    for name, figure in figures.items():
        with written_whole(folder / f"{name}.png") as temporary, matplotlib.rc_context(STYLE):
            # Without the version of the library, equal figures are equal files.
            figure.savefig(temporary, format="png", metadata={"Software": None})


def _figure(
    rows: int, columns: int, size: tuple[float, float], **grid: Any
) -> tuple[Figure, npt.NDArray[Any]]:
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey="row", squeeze=False, **grid)
    return figure, panels.ravel()


def _style(arm: int) -> dict[str, Any]:
    look = {"color": COLOURS[arm % len(COLOURS)], "marker": MARKERS[arm % len(MARKERS)]}
    # Unclipped, since markers at 0 and 100 % would be cut in half.
    return {**look, "linewidth": 1.3, "markersize": 3.5, "clip_on": False}


def _line(axes: Axes, x: Sequence[float], values: Sequence[Sequence[float]], arm: int) -> None:
    mean, style = np.mean(values, axis=0), _style(arm)
    axes.plot(x, mean, **style)
    if len(values) > 1:
        spread = np.std(values, axis=0, ddof=1)
        low, high = mean - spread, mean + spread
        axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _finish(figure: Figure, panels: npt.NDArray[Any], results: Results) -> None:
    for axes in panels:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_ylim(bottom=0)
    if len(results) > 1:
        lines = [Line2D([], [], label=label, **_style(i)) for i, label in enumerate(results)]
        # An entry needs about 1.3 inches; rows are of equal length.
        rows = math.ceil(len(results) / (figure.get_figwidth() // 1.3))
        columns = math.ceil(len(results) / rows)
        figure.legend(handles=lines, loc="outside lower center", ncols=columns)
