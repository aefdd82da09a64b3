"""Plots as inline SVG: text stays text, and the page's style sheet gives the colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """A method in the plot of quality against time."""

    name: str
    seconds: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """A level that needs no time: a control's."""

    name: str
    level: float


class _Frame:
    """Places data in a box of pixels; y grows upwards."""

    def __init__(
        self,
        box: tuple[float, float, float, float],
        x: tuple[float, float],
        y: tuple[float, float],
    ) -> None:
        self.left, self.top, self.right, self.bottom = box
        self._x, self._y = x, y

    def x(self, value: float) -> float:
        low, high = self._x
        return self.left + (self.right - self.left) * (value - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self._y
        return self.bottom - (self.bottom - self.top) * (value - low) / (high - low)

    def path(self, xs: Values, ys: Values) -> str:
        known = np.isfinite(ys)
        pairs = zip(xs[known], ys[known], strict=True)
        return "M" + "L".join(f"{self.x(a):.1f} {self.y(b):.1f}" for a, b in pairs)


def panel_frame(ys: Sequence[Values], xs: Values) -> _Frame:
    """The box of a small panel, which all panels of one metric share, with room for all ``ys``."""
    low = min(float(np.nanmin(y)) for y in ys)
    high = max(float(np.nanmax(y)) for y in ys)
    pad = 0.05 * (high - low) or 0.5
    return _Frame((30, 6, 194, 100), _apart(xs.min(), xs.max()), (low - pad, high + pad))


def background(frame: _Frame, xs: Values, curves: Sequence[Values], key: str) -> Markup:
    """All curves of a metric, faint: drawn once, and referred to by every panel."""
    paths = Markup("").join(Markup('<path d="{}"/>').format(frame.path(xs, ys)) for ys in curves)
    return Markup('<g id="{}" class="faint">{}</g>').format(key, paths)


def panel(
    frame: _Frame, xs: Values, mean: Values, error: Values, reference: Values | None, key: str
) -> Markup:
    """One explainer's curve with its band, before all others and a reference.

    Args:
        frame: From `panel_frame`.
        xs: Shares of pixels, (S,).
        mean: The curve, (S,).
        error: Half the width of the band, (S,).
        reference: Another curve, dashed.
        key: Of the `background`.
    """
    known = np.isfinite(mean) & np.isfinite(error)
    band = Markup("")
    if known.any():
        around = np.concatenate([xs[known], xs[known][::-1]])
        ends = np.concatenate([(mean + error)[known], (mean - error)[known][::-1]])
        band = Markup('<path class="band" d="{}Z"/>').format(frame.path(around, ends))
    dashed = Markup("")
    if reference is not None:
        dashed = Markup('<path class="reference" d="{}"/>').format(frame.path(xs, reference))
    return Markup('{}<use href="#{}"/>{}{}<path class="line" d="{}"/>').format(
        _axes(frame, ends=(xs.min(), xs.max())), key, band, dashed, frame.path(xs, mean)
    )


def _axes(frame: _Frame, ends: tuple[float, float]) -> Markup:
    low, high = frame._y
    ticks = [t for t in MaxNLocator(3).tick_values(low, high) if low <= t <= high]
    lines = [
        Markup('<path class="grid" d="M{} {:.1f}H{}"/><text x="{}" y="{:.1f}">{:g}</text>').format(
            frame.left, frame.y(t), frame.right, frame.left - 4, frame.y(t) + 3, round(t, 10)
        )
        for t in ticks
    ]
    lines += [
        Markup('<text class="{}" x="{:.1f}" y="{}">{:.0f} %</text>').format(
            side, frame.x(x), frame.bottom + 13, 100 * x
        )
        for side, x in zip(("start", "end"), ends, strict=True)
    ]
    return Markup("").join(lines)


WIDTH, HEIGHT = 640, 330


def scatter(points: Sequence[Point], levels: Sequence[Line], y_title: str) -> Markup:
    """Quality against seconds, which are on a logarithmic scale.

    Args:
        points: Methods, with the interval of their quality.
        levels: Controls, as lines at the side.
        y_title: What the quality is.
    """
    heights = [p.mean for p in points] + [line.level for line in levels]
    heights += [end for p in points for end in (p.low, p.high) if math.isfinite(end)]
    pad = 0.06 * (max(heights) - min(heights)) or 0.5
    logs = [math.log10(p.seconds) for p in points]
    frame = _Frame(
        (50, 24, WIDTH - 132, HEIGHT - 40),
        (min(logs) - 0.15, max(max(logs), min(logs) + 0.5) + 0.15),
        (min(heights) - pad, max(heights) + pad),
    )
    parts = [_time_axis(frame), _quality_axis(frame, y_title)]
    for line, place in zip(levels, _spread([frame.y(v.level) for v in levels]), strict=True):
        parts.append(
            Markup(
                '<path class="reference" d="M{} {:.1f}H{}L{} {:.1f}"/>'
                '<text class="start quiet" x="{}" y="{:.1f}">{}</text>'
            ).format(
                frame.left, frame.y(line.level), frame.right, frame.right + 8, place,
                frame.right + 11, place + 4, line.name,
            )
        )  # fmt: skip
    parts += _labelled(frame, points)
    return Markup("").join(parts)


def _labelled(frame: _Frame, points: Sequence[Point]) -> list[Markup]:
    places = [(frame.x(math.log10(p.seconds)), frame.y(p.mean)) for p in points]
    taken = [_Box(x - 5, x + 5, y - 5, y + 5) for x, y in places]
    parts = []
    for p, (x, y) in sorted(zip(points, places, strict=True), key=lambda pair: pair[1]):
        whisker = Markup("")
        if math.isfinite(p.low) and math.isfinite(p.high):
            whisker = Markup('<path class="whisker" d="M{:.1f} {:.1f}V{:.1f}"/>').format(
                x, frame.y(p.low), frame.y(p.high)
            )
        label = _free(taken, frame, x, y, 7 * len(p.name))
        taken.append(label)
        middle = (label.top + label.bottom) / 2
        leader = Markup("")
        if abs(middle - y) > 6:
            edge = label.left if label.left > x else label.right
            leader = Markup('<path class="leader" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>').format(
                x, y, edge, middle
            )
        parts.append(
            Markup(
                '<g class="point"><title>{p.name}: {p.mean:.3g} in {p.seconds:.3g} s</title>{}{}'
                '<circle cx="{:.1f}" cy="{:.1f}" r="4"/>'
                '<text class="start" x="{:.1f}" y="{:.1f}">{p.name}</text></g>'
            ).format(whisker, leader, x, y, label.left, middle + 4, p=p)
        )
    return parts


class _Box(NamedTuple):
    left: float
    right: float
    top: float
    bottom: float

    def meets(self, other: _Box) -> bool:
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


def _free(taken: Sequence[_Box], frame: _Frame, x: float, y: float, width: float) -> _Box:
    """The place for a label nearest to its point where it covers no point and no other label."""
    sides = [left for left in (x + 7, x - 7 - width) if left > 0 and left + width < frame.right]
    sides = sides or [x + 7]
    offsets = sorted(range(-240, 241, 3), key=abs)
    options = [_Box(s, s + width, y + o - 6.5, y + o + 6.5) for o in offsets for s in sides]
    inside = [box for box in options if frame.top <= box.top and box.bottom <= frame.bottom]
    return next((box for box in inside if not any(map(box.meets, taken))), inside[0])


def _spread(places: list[float]) -> list[float]:
    """Heights at least a line apart, in the same order."""
    spread = list(places)
    order = sorted(range(len(places)), key=lambda i: places[i])
    for before, after in pairwise(order):
        spread[after] = max(spread[after], spread[before] + 13)
    # Those that left the picture at the bottom move up again, and the others make room.
    limit = HEIGHT - 6.0
    for i in reversed(order):
        spread[i] = min(spread[i], limit)
        limit = spread[i] - 13
    return spread


def _time_axis(frame: _Frame) -> Markup:
    low, high = frame._x
    decades = range(math.floor(low), math.ceil(high) + 1)
    ticks = [m * 10.0**d for d in decades for m in (1, 2, 5)]
    inside = [t for t in ticks if low <= math.log10(t) <= high]
    if len(inside) > 7:
        inside = [t for t in inside if f"{t:e}".startswith("1")]
    parts = [
        Markup(
            '<path class="grid" d="M{x:.1f} {}V{}"/>'
            '<text class="middle" x="{x:.1f}" y="{}">{:g}</text>'
        ).format(frame.top, frame.bottom, frame.bottom + 15, t, x=frame.x(math.log10(t)))
        for t in inside
    ]
    title = Markup('<text class="middle" x="{}" y="{}">seconds per image (median)</text>').format(
        (frame.left + frame.right) / 2, HEIGHT - 6
    )
    return Markup("").join([*parts, title])


def _quality_axis(frame: _Frame, title: str) -> Markup:
    low, high = frame._y
    ticks = [t for t in MaxNLocator(6).tick_values(low, high) if low <= t <= high]
    lines = Markup("").join(
        Markup('<path class="grid" d="M{} {:.1f}H{}"/><text x="{}" y="{:.1f}">{:g}</text>').format(
            frame.left, frame.y(t), frame.right, frame.left - 5, frame.y(t) + 4, round(t, 10)
        )
        for t in ticks
    )
    return lines + Markup('<text class="start" x="4" y="13">{}</text>').format(title)


def _apart(low: float, high: float) -> tuple[float, float]:
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(high) + 0.5)
