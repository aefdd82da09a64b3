"""Which charts the page shows, and how they are drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from benchmarks.explanations.analysis import names
from benchmarks.explanations.analysis.summaries import Analysis
from benchmarks.explanations.report._svg import (
    ACCENT,
    ACCENT_2,
    INK,
    QUIET,
    RULE,
    as_markup,
    drawing,
    group_as_markup,
    new_axes,
    printable,
)

Values: TypeAlias = NDArray[np.float64]
WIDTH, HEIGHT = 640, 330
# Pixels left, right, above and below of the axes of quality against time, and a line of text.
_LEFT, _MARGIN, _TOP, _BOTTOM = 50, 132, 24, 40
_LINE = 13


class Panel(NamedTuple):
    """One explainer's curve."""

    name: str
    control: bool
    picture: Markup


class Curves(NamedTuple):
    """The curves of one metric, one panel per explainer, before the ``shared`` faint ones."""

    title: str
    images: int
    shared: Markup
    panels: list[Panel]


class Scatter(NamedTuple):
    """Quality against time for one metric."""

    title: str
    picture: Markup


class Point(NamedTuple):
    """A method in the plot of quality against time, with the interval of its quality."""

    name: str
    seconds: float
    mean: float
    low: float
    high: float


def curve_panels(scores: pd.DataFrame, controls: frozenset[str]) -> list[Curves]:
    """Draws the curves of every metric that has some, methods before controls."""
    with_curve = scores[scores["curve"].notna() & (scores["status"] == "ok")]
    metrics = sorted(with_curve["metric"].unique(), key=names.order)
    with drawing(9):
        return [
            _curves(f"curves-{i}", m, with_curve[with_curve["metric"] == m], controls)
            for i, m in enumerate(metrics)
        ]


def _curves(key: str, metric: str, scores: pd.DataFrame, controls: frozenset[str]) -> Curves:
    xs = _fractions(metric, scores)
    means, errors = {}, {}
    for name, group in scores.groupby("explainer"):
        curves = pd.DataFrame(group["curve"].tolist(), index=group["image"], dtype=float)
        by_image = curves.groupby(level=0).mean()
        means[str(name)] = by_image.mean().to_numpy()
        errors[str(name)] = np.nan_to_num(1.96 * by_image.sem().to_numpy())
    bands = np.stack([means[name] + sign * errors[name] for name in means for sign in (-1, 1)])
    axes = _panel_axes(xs, bands)
    for mean in means.values():
        axes.plot(xs, mean, color=QUIET, alpha=0.3, lw=1, gid=key, clip_on=False)
    shared = group_as_markup(axes, key)
    ordered = sorted(means, key=lambda name: (name in controls, name))
    panels = []
    for number, name in enumerate(ordered):
        axes = _panel_axes(xs, bands)
        ink = INK if name in controls else ACCENT
        mean, error = means[name], errors[name]
        if error.any():
            axes.fill_between(xs, mean - error, mean + error, color=ink, alpha=0.25, lw=0)
        if names.RANDOM in means:
            axes.plot(xs, means[names.RANDOM], "--", color=ACCENT_2, lw=1, clip_on=False)
        axes.plot(xs, mean, color=ink, lw=2, clip_on=False)
        label = f"{names.heading(metric)} curve of {name}"
        drawn = as_markup(axes, f"{key}-{number}", label, behind=key)
        panels.append(Panel(name, name in controls, drawn))
    return Curves(names.heading(metric), scores["image"].nunique(), shared, panels)


def _panel_axes(xs: Values, ys: Values) -> Axes:
    """The axes of a small panel, which all panels of one metric share, with room for all ``ys``."""
    axes = new_axes((200, 118), (30, 6, 194, 100))
    low, high = float(np.nanmin(ys)), float(np.nanmax(ys))
    pad = 0.05 * (high - low) or 0.5
    axes.set(xlim=_apart(xs.min(), xs.max()), ylim=(low - pad, high + pad))
    axes.xaxis.set_major_locator(FixedLocator([xs.min(), xs.max()]))
    axes.xaxis.set_major_formatter(lambda x, _: f"{100 * x:.0f} %")
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_formatter(_short)
    left, right = axes.get_xticklabels()
    left.set_horizontalalignment("left")
    right.set_horizontalalignment("right")
    axes.grid(axis="y", color=RULE)
    return axes


def _short(value: float, _: float) -> str:
    return f"{round(value, 10):g}"


def _fractions(metric: str, scores: pd.DataFrame) -> Values:
    """The shares of pixels that the records name, or equal steps from nothing to all."""
    lengths = set(scores["curve"].map(len))
    if len(lengths) != 1:
        raise ValueError(f"the curves of {metric} differ in length: {sorted(lengths)}")
    named = scores["fractions"].dropna()
    if named.empty:
        return np.linspace(0, 1, lengths.pop())
    xs = np.asarray(named.iloc[0], dtype=float)
    if len(xs) not in lengths:
        raise ValueError(f"the curves of {metric} are not as long as their fractions")
    return xs


def quality_against_time(found: Analysis) -> list[Scatter]:
    """Draws one plot for the first metric of each family, with the controls as levels."""
    timed = found.costs[found.costs["seconds"] > 0].set_index("explainer")["seconds"]
    first: dict[str, str] = {}
    for metric in found.metrics():
        first.setdefault(names.family(metric).title, metric)
    plots = []
    for number, metric in enumerate(first.values()):
        summary = found.summary[(found.summary["metric"] == metric) & found.summary["mean"].notna()]
        points = [
            Point(str(r.explainer), float(timed[r.explainer]), r.mean, r.low, r.high)
            for r in summary.itertuples()
            if not r.control and r.explainer in timed.index
        ]
        levels = {str(r.explainer): r.mean for r in summary.itertuples() if r.control}
        if points:
            heading, direction = names.heading(metric), summary["direction"].iloc[0]
            title = f"{heading}, {direction} is better"
            plots.append(Scatter(heading, scatter(points, levels, title, f"time-{number}")))
    return plots


def scatter(points: Sequence[Point], levels: Mapping[str, float], title: str, key: str) -> Markup:
    """Draws quality against seconds, which are on a logarithmic scale.

    Args:
        points: Methods.
        levels: The means of controls, which cost no time: lines with their names at the side.
        title: What the quality is.
        key: Unlike that of any other figure of the page.
    """
    points = sorted(points, key=lambda p: (p.seconds, -p.mean))
    titles = {
        f"{key}-{number}": printable(f"{p.name}: {p.mean:.3g} in {p.seconds:.3g} s")
        for number, p in enumerate(points)
    }
    shown = f"{title.partition(',')[0]} against seconds per image"
    with drawing(12):
        axes = _time_axes(points, levels, title)
        to_pixels = axes.transData.transform
        heights = [float(to_pixels((points[0].seconds, mean))[1]) for mean in levels.values()]
        for control, height, place in zip(levels, heights, _spread(heights), strict=True):
            right = WIDTH - _MARGIN
            xs, ys = [_LEFT, right, right + 8], [height, height, place]
            axes.plot(xs, ys, "--", color=QUIET, alpha=0.6, lw=1, clip_on=False, transform=None)
            name = axes.text(right + 11, place, printable(control), va="center", transform=None)
            name.set(fontstyle="italic", fontsize=11)
        places = [tuple(map(float, to_pixels((p.seconds, p.mean)))) for p in points]
        taken = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in places]
        for number, (point, (x, y)) in enumerate(zip(points, places, strict=True)):
            label = _free(taken, x, y, 7 * len(point.name))
            taken.append(label)
            _draw(axes, point, (x, y), label, f"{key}-{number}")
        return as_markup(axes, key, shown, "plot wide", titles)


def _time_axes(points: Sequence[Point], levels: Mapping[str, float], title: str) -> Axes:
    axes = new_axes((WIDTH, HEIGHT), (_LEFT, _TOP, WIDTH - _MARGIN, HEIGHT - _BOTTOM))
    heights = [height for p in points for height in p[2:] if math.isfinite(height)]
    heights += levels.values()
    pad = 0.06 * (max(heights) - min(heights)) or 0.5
    first, last = (math.log10(end([p.seconds for p in points])) for end in (min, max))
    axes.set_xscale("log")
    axes.set(
        xlim=(10 ** (first - 0.15), 10 ** (max(last, first + 0.5) + 0.15)),
        ylim=(min(heights) - pad, max(heights) + pad),
        xlabel="seconds per image (median)",
    )
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if last - first < 2 else (1,)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(_short)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(_short)
    axes.set_title(
        printable(title), fontsize=12, x=(4 - _LEFT) / (WIDTH - _MARGIN - _LEFT), ha="left"
    )
    axes.grid(color=RULE)
    return axes


def _draw(axes: Axes, point: Point, place: tuple[float, float], label: Bbox, gid: str) -> None:
    """Draws a method with its interval, its name, and a line from there if it stands apart."""
    x, y = place
    if math.isfinite(point.low) and math.isfinite(point.high):
        ends = [point.low, point.high]
        axes.plot([point.seconds] * 2, ends, color=ACCENT, alpha=0.6, clip_on=False)
    middle = (label.y0 + label.y1) / 2
    if abs(middle - y) > _LINE / 2:
        edge = label.x0 if label.x0 > x else label.x1
        axes.plot([x, edge], [y, middle], color=QUIET, lw=0.75, clip_on=False, transform=None)
    axes.plot([point.seconds], [point.mean], "o", color=ACCENT, ms=8, mew=0, clip_on=False, gid=gid)
    name = printable(point.name)
    axes.text(label.x0, middle, name, color=INK, va="center", transform=None)


def _free(taken: Sequence[Bbox], x: float, y: float, width: float) -> Bbox:
    """The place for a label nearest to its point where it covers no point and no other label."""
    sides = [s for s in (x + 7, x - 7 - width) if s > 0 and s + width < WIDTH - _MARGIN]
    half = _LINE / 2
    inside = [
        Bbox.from_extents(side, y + offset - half, side + width, y + offset + half)
        for offset in sorted(range(-240, 241, 3), key=abs)
        for side in sides or [x + 7]
        if y + offset - half >= _BOTTOM and y + offset + half <= HEIGHT - _TOP
    ]
    return next((box for box in inside if not box.count_overlaps(taken)), inside[0])


def _spread(places: list[float]) -> list[float]:
    """Moves heights at least a line apart, in the same order."""
    spread = list(places)
    order = sorted(range(len(places)), key=lambda i: places[i])
    for before, after in pairwise(order):
        spread[after] = max(spread[after], spread[before] + _LINE)
    # Those that left the picture at the top move down again, and the others make room.
    limit = HEIGHT - _LINE / 2
    for i in reversed(order):
        spread[i] = min(spread[i], limit)
        limit = spread[i] - _LINE
    return spread


def _apart(low: float, high: float) -> tuple[float, float]:
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(high) + 0.5)
