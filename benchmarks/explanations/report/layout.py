"""From figures to tables of text, the same for the page, Markdown and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import pandas as pd

from benchmarks.explanations.analysis import names
from benchmarks.explanations.analysis.run import Run
from benchmarks.explanations.analysis.summaries import BEST, TIED, UNBEATEN, Analysis

NONE = "–"
INTERVAL = "95 % bootstrap interval of that mean over images"


@dataclass(frozen=True)
class Cell:
    """One figure.

    Attributes:
        text: As it is read.
        value: What the table is sorted by; None sorts last.
        interval: ``(low, high)`` as text, or nothing.
        mark: ``best``, ``tied``, ``unbeaten`` or nothing.
        bar: Where low, mean and high lie between the column's smallest and largest, or None.
    """

    text: str
    value: float | str | None = None
    interval: str = ""
    mark: str = ""
    bar: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Column:
    """A column of figures: its heading, which direction is better, and its definition."""

    heading: str
    direction: str | None = None
    definition: str | None = None
    text: bool = False


@dataclass(frozen=True)
class Row:
    """An explainer and its cells."""

    name: str
    cells: list[Cell]


@dataclass(frozen=True)
class Table:
    """A table: methods first, controls apart from them."""

    key: str
    title: str
    caption: str
    columns: list[Column]
    methods: list[Row]
    controls: list[Row] = field(default_factory=list)
    head: str = "explainer"
    sorted_by: int | None = None


def number(value: float) -> str:
    """Three decimals, or four digits where that says more.

    Example:
        >>> number(0.12345), number(-12.3456), number(0.0), number(1.5e-5), number(float("nan"))
        ('0.123', '-12.35', '0.000', '1.5e-05', '–')
    """
    if not math.isfinite(value):
        return NONE
    if value and not 1e-3 <= abs(value) < 10:
        return f"{value:.4g}"
    return f"{value:.3f}"


def share(value: float) -> Cell:
    """A rate in percent; one that is not zero is never shown as zero."""
    text = f"{100 * value:.1f} %" if value == 0 or value >= 0.0005 else "< 0.1 %"
    return Cell(text, value)


def quality_tables(run: Run, found: Analysis) -> list[Table]:
    """One table a family of metrics: means, intervals, marks, and the rates beside them."""
    families: dict[str, list[str]] = {}
    for metric in found.metrics():
        families.setdefault(names.family(metric).title, []).append(metric)
    return [_quality(run, found, title, metrics) for title, metrics in families.items()]


def _quality(run: Run, found: Analysis, title: str, metrics: list[str]) -> Table:
    summary = found.summary[found.summary["metric"].isin(metrics)]
    cells = {m: _cells(summary[summary["metric"] == m]) for m in metrics}
    directions = summary.groupby("metric")["direction"].first()
    rates = summary.groupby("explainer")[["degenerate", "errors", "missing"]].mean()
    shown = ["degenerate", "errors", *(["missing"] if rates["missing"].any() else [])]
    first = summary[summary["metric"] == metrics[0]].set_index("explainer")["mean"]
    sign = -1 if directions[metrics[0]] == "higher" else 1
    ranking = sorted(rates.index, key=lambda n: _last(sign * first.get(n, math.nan), n))
    rows = [
        Row(
            str(name),
            [
                *(cells[m].get(name, Cell(NONE)) for m in metrics),
                *(share(rates.loc[name, rate]) for rate in shown),
            ],
        )
        for name in ranking
    ]
    return Table(
        key=f"table-{_slug(title)}",
        title=title,
        caption=_quality_caption(run, summary, "missing" in shown),
        columns=[
            *(Column(names.heading(m), str(directions[m]), names.definition(m)) for m in metrics),
            *(Column(rate, "lower") for rate in shown),
        ],
        methods=[row for row in rows if row.name not in found.controls],
        controls=[row for row in rows if row.name in found.controls],
        sorted_by=0,
    )


def _quality_caption(run: Run, summary: pd.DataFrame, missing: bool) -> str:
    low, high = int(summary["images"].min()), int(summary["images"].max())
    count = f"n = {high}" if low == high else f"n = {low} to {high}"
    return (
        f"Mean over images, {INTERVAL}; {count} images with a value, of {run.items} planned "
        "items. degenerate: share of this table's values that do not exist because a map or a "
        "mask is degenerate; errors: share that do not exist because the explainer or the metric "
        "failed" + ("; missing: share not scored yet." if missing else ".")
    )


def _cells(summary: pd.DataFrame) -> dict[str, Cell]:
    low = summary[["low", "mean"]].min(axis=None)
    span = summary[["high", "mean"]].max(axis=None) - low
    cells = {}
    for row in summary.itertuples():
        ends = (row.low, row.mean, row.high)
        known = all(map(math.isfinite, ends))
        cells[str(row.explainer)] = Cell(
            number(row.mean),
            row.mean if math.isfinite(row.mean) else None,
            f"{number(row.low)} to {number(row.high)}" if known else "",
            str(row.mark),
            tuple((end - low) / span for end in ends) if known and span > 0 else None,
        )
    return cells


def class_table(found: Analysis) -> Table | None:
    """The pointing game as it is published: the mean of the classes' accuracies."""
    if found.classes.empty:
        return None
    games = sorted(found.classes["metric"].unique(), key=names.order)
    rows = []
    for name, group in found.classes.groupby("explainer"):
        by_game = group.set_index("metric")
        cells = [_plain(by_game["mean"].get(game)) for game in games]
        rows.append(Row(str(name), [*cells, Cell(str(by_game["classes"].max()))]))
    rows.sort(key=lambda row: _last(-float(row.cells[0].value or 0), row.name))
    return Table(
        key="table-classes",
        title="Pointing game by class",
        caption="Accuracy of each class, then the mean over n classes, as published figures are "
        "computed; no interval, since classes are few and of unequal size. An image without a "
        "value (a degenerate map) is left out here; its rate is in the table above.",
        columns=[*(Column(names.heading(g), "higher") for g in games), Column("classes, n")],
        methods=[row for row in rows if row.name not in found.controls],
        controls=[row for row in rows if row.name in found.controls],
        sorted_by=0,
    )


def cost_table(found: Analysis) -> Table | None:
    """What a map costs."""
    if found.costs.empty:
        return None
    rows = {
        bool(control): [
            Row(
                str(row.explainer),
                [
                    Cell(row.layers or NONE, row.layers or None),
                    _plain(row.seconds),
                    _plain(row.slowest),
                    _plain(row.forward_rows, ".1f"),
                    _plain(row.backward_rows, ".1f"),
                    _plain(row.peak_mib, ".0f"),
                    Cell(str(row.maps), row.maps),
                    Cell(str(row.errors), row.errors),
                ],
            )
            for row in group.sort_values(["seconds", "explainer"]).itertuples()
        ]
        for control, group in found.costs.groupby("control")
    }
    return Table(
        key="table-costs",
        title="What a map costs",
        caption="Seconds of one image: the median and the slowest of n maps; rows through the "
        "model, forward and backward: the mean; peak memory: the largest. Measured while "
        "explaining on the machine of the run, one image at a time, without an interval.",
        columns=[
            Column("layers", text=True),
            Column("seconds, median", "lower"),
            Column("slowest", "lower"),
            Column("forward rows", "lower"),
            Column("backward rows", "lower"),
            Column("peak MiB", "lower"),
            Column("maps, n", "higher"),
            Column("errors", "lower"),
        ],
        methods=rows.get(False, []),
        controls=rows.get(True, []),
        sorted_by=1,
    )


def seed_table(found: Analysis) -> Table | None:
    """How much the explainer's own randomness matters, apart from the images."""
    if found.seeds.empty:
        return None
    metrics = sorted(found.seeds["metric"].unique(), key=names.order)
    rows = []
    for name, group in found.seeds.groupby("explainer"):
        by_metric = group.set_index("metric")
        cells = [
            Cell(
                f"{number(by_metric['mean'][m])} ± {number(by_metric['sd'][m])}",
                float(by_metric["sd"][m]),
            )
            if m in by_metric.index
            else Cell(NONE)
            for m in metrics
        ]
        rows.append(Row(str(name), [*cells, Cell(str(group["seeds"].max()))]))
    return Table(
        key="table-seeds",
        title="Spread over seeds",
        caption="Mean over n seeds of the mean over images, ± the standard deviation between "
        "seeds (no interval): what another draw of an explainer's randomness changes. Sorted by "
        "the deviation.",
        columns=[
            *(Column(names.heading(m), "lower") for m in metrics),
            Column("seeds, n"),
        ],
        methods=[row for row in rows if row.name not in found.controls],
        controls=[row for row in rows if row.name in found.controls],
    )


def failure_table(found: Analysis) -> Table | None:
    """Every outcome that is not a value, with its reason."""
    if found.failures.empty:
        return None
    rows = [
        Row(
            str(row.explainer),
            [
                Cell(names.heading(row.metric), row.metric),
                Cell(row.status, row.status),
                Cell(row.message or NONE, row.message),
                Cell(str(row.records), row.records),
            ],
        )
        for row in found.failures.itertuples()
    ]
    return Table(
        key="table-failures",
        title="What has no value, and why",
        caption="n records of each outcome other than a value (no interval). They count in the "
        "rates of the tables above, and in no mean.",
        columns=[
            Column("metric", text=True),
            Column("outcome", text=True),
            Column("first message", text=True),
            Column("records, n", "lower"),
        ],
        methods=[row for row in rows if row.name not in found.controls],
        controls=[row for row in rows if row.name in found.controls],
    )


def text_of(cell: Cell) -> str:
    """A cell without markup: figure, interval, and a sign for what the page shows as a mark."""
    interval = f" [{cell.interval}]" if cell.interval else ""
    sign = {TIED: " ≈", UNBEATEN: " !", BEST: ""}.get(cell.mark, "")
    return f"{cell.text}{interval}{sign}"


def rows_of(table: Table) -> Iterable[tuple[str, list[Row]]]:
    """The table's parts that are not empty: their heading, and their rows."""
    parts = (("Methods", table.methods), ("Controls", table.controls))
    return [(title, rows) for title, rows in parts if rows]


def _plain(value: float | None, form: str | None = None) -> Cell:
    if value is None or not math.isfinite(value):
        return Cell(NONE)
    return Cell(format(value, form) if form else number(value), float(value))


def _last(value: float, name: str) -> tuple[bool, float, str]:
    unknown = not math.isfinite(value)
    return unknown, 0.0 if unknown else value, name


def _slug(title: str) -> str:
    return "-".join(title.lower().split())
