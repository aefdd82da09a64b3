"""Which curves and plots the page shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from markupsafe import Markup

from benchmarks.explanations.analysis import names
from benchmarks.explanations.analysis.summaries import Analysis
from benchmarks.explanations.report import svg


@dataclass(frozen=True)
class Panel:
    """One explainer's curve."""

    name: str
    control: bool
    picture: Markup


@dataclass(frozen=True)
class Curves:
    """The curves of one metric, an explainer each."""

    key: str
    title: str
    images: int
    shared: Markup
    panels: list[Panel]


@dataclass(frozen=True)
class Scatter:
    """Quality against time for one metric."""

    title: str
    direction: str
    picture: Markup


def curve_panels(scores: pd.DataFrame, controls: frozenset[str]) -> list[Curves]:
    """The curves of every metric that has some, methods before controls."""
    with_curve = scores[scores["curve"].notna() & (scores["status"] == "ok")]
    metrics = sorted(with_curve["metric"].unique(), key=names.order)
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
        errors[str(name)] = 1.96 * by_image.sem().to_numpy()
    bands = [
        means[name] + sign * np.nan_to_num(errors[name]) for name in means for sign in (-1, 0, 1)
    ]
    frame = svg.panel_frame(bands, xs)
    ordered = sorted(means, key=lambda name: (name in controls, name))
    return Curves(
        key,
        names.heading(metric),
        scores["image"].nunique(),
        svg.background(frame, xs, list(means.values()), key),
        [
            Panel(
                name,
                name in controls,
                svg.panel(frame, xs, means[name], errors[name], means.get(names.RANDOM), key),
            )
            for name in ordered
        ],
    )


def _fractions(metric: str, scores: pd.DataFrame) -> svg.Values:
    """The shares of pixels that the records name, or equal steps from nothing to all."""
    lengths = set(scores["curve"].map(len))
    if len(lengths) != 1:
        raise ValueError(f"the curves of {metric} differ in length: {sorted(lengths)}")
    named = scores["fractions"].dropna()
    if named.empty:
        return np.linspace(0, 1, lengths.pop())
    xs = np.asarray(named.iloc[0], dtype=float)
    if len(xs) not in lengths:
        raise ValueError(f"the curves of {metric} have other lengths than their fractions")
    return xs


def quality_against_time(found: Analysis) -> list[Scatter]:
    """One plot for the first metric of each family, with the controls as levels."""
    timed = found.costs[found.costs["seconds"] > 0].set_index("explainer")["seconds"]
    first: dict[str, str] = {}
    for metric in found.metrics():
        first.setdefault(names.family(metric).title, metric)
    plots = []
    for metric in first.values():
        summary = found.summary[(found.summary["metric"] == metric) & found.summary["mean"].notna()]
        points = [
            svg.Point(str(r.explainer), float(timed[r.explainer]), r.mean, r.low, r.high)
            for r in summary.itertuples()
            if not r.control and r.explainer in timed.index
        ]
        levels = [svg.Line(str(r.explainer), r.mean) for r in summary.itertuples() if r.control]
        if points:
            direction = str(summary["direction"].iloc[0])
            title = f"{names.heading(metric)}, {direction} is better"
            plots.append(
                Scatter(names.heading(metric), direction, svg.scatter(points, levels, title))
            )
    return plots
