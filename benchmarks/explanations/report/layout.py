"""From figures to tables of text, the same for the page, Markdown and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmarks.explanations.analysis import names
from benchmarks.explanations.analysis.names import NONE, number
from benchmarks.explanations.analysis.run import Run
from benchmarks.explanations.analysis.summaries import TIED, UNBEATEN, Analysis

INTERVAL = "95 % bootstrap interval of that mean over images"


@dataclass(frozen=True)
class Cell:
    """One figure.

    Attributes:
        text: As printed.
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

    def __str__(self) -> str:
        """The figure without markup: its interval, and a sign for what the page marks."""
        interval = f" [{self.interval}]" if self.interval else ""
        return f"{self.text}{interval}" + {TIED: " ≈", UNBEATEN: " !"}.get(self.mark, "")


@dataclass(frozen=True)
class Column:
    """A column: its heading, which direction is better, its definition, and its values' format."""

    heading: str
    direction: str | None = None
    definition: str | None = None
    text: bool = False
    form: str = ""


@dataclass(frozen=True)
class Row:
    """An explainer and its cells."""

    name: str
    cells: list[Cell]


@dataclass(frozen=True)
class Table:
    """A table: its parts, methods before controls, are those that are not empty."""

    key: str
    title: str
    caption: str
    columns: list[Column]
    parts: dict[str, list[Row]]
    sorted_by: int | None = None


def tables(run: Run, found: Analysis) -> dict[str, list[Table]]:
    """Makes all tables by kind: ``quality``, one for each family of metrics, and those beside."""
    return {
        "quality": _quality_tables(run, found),
        "classes": [] if found.classes.empty else [_class_table(found)],
        "costs": [] if found.costs.empty else [_cost_table(found)],
        "seeds": [] if found.seeds.empty else [_seed_table(found)],
        "failures": [] if found.failures.empty else [_failure_table(found)],
    }


def _table(
    found: Analysis, key: str, title: str, caption: str, columns: list[Column], rows: Sequence[Row],
    sorted_by: int | None = None,
) -> Table:  # fmt: skip
    parts = {
        "Methods": [row for row in rows if row.name not in found.controls],
        "Controls": [row for row in rows if row.name in found.controls],
    }
    parts = {name: some for name, some in parts.items() if some}
    return Table(f"table-{key}", title, caption, columns, parts, sorted_by)


def _rows(frame: pd.DataFrame, columns: Mapping[str, Column]) -> list[Row]:
    """A row for each of a frame's, with the cells of some of its columns."""
    return [
        Row(row["explainer"], [_cell(row[name], column.form) for name, column in columns.items()])
        for row in frame.to_dict("records")
    ]


def _cell(value: Any, form: str = "") -> Cell:
    if value is None or value == "" or value != value:
        return Cell(NONE)
    if isinstance(value, str):
        return Cell(value, value)
    return Cell(format(value, form) if form else number(value), value)


def _share(value: float) -> Cell:
    """A rate in percent; one that is not zero is never shown as zero."""
    text = f"{100 * value:.1f} %" if value == 0 or value >= 0.0005 else "< 0.1 %"
    return Cell(text, value)


def _quality_tables(run: Run, found: Analysis) -> list[Table]:
    families: dict[str, list[str]] = {}
    for metric in found.metrics():
        families.setdefault(names.family(metric).title, []).append(metric)
    return [_quality(run, found, title, metrics) for title, metrics in families.items()]


def _quality(run: Run, found: Analysis, title: str, metrics: list[str]) -> Table:
    """Means, intervals and marks of a family's metrics, and the rates beside them."""
    summary = found.summary[found.summary["metric"].isin(metrics)]
    cells = {m: _cells(summary[summary["metric"] == m]) for m in metrics}
    directions = summary.groupby("metric")["direction"].first()
    rates = summary.groupby("explainer")[["degenerate", "errors", "missing"]].mean()
    shown = ["degenerate", "errors", *(["missing"] if rates["missing"].any() else [])]
    sign = -1 if directions[metrics[0]] == "higher" else 1
    first = summary[summary["metric"] == metrics[0]].set_index("explainer")["mean"]
    ranking = (sign * first).reindex(rates.index).sort_values(kind="stable").index
    rows = [
        Row(
            str(name),
            [
                *(cells[m].get(name, Cell(NONE)) for m in metrics),
                *(_share(rates.loc[name, rate]) for rate in shown),
            ],
        )
        for name in ranking
    ]
    columns = [
        *(Column(names.heading(m), str(directions[m]), names.definition(m)) for m in metrics),
        *(Column(rate, "lower") for rate in shown),
    ]
    key = "-".join(title.lower().split())
    caption = _quality_caption(run, summary, "missing" in shown)
    return _table(found, key, title, caption, columns, rows, 0)


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


def _class_table(found: Analysis) -> Table:
    """The pointing game as it is published: the mean of the classes' accuracies."""
    games = sorted(found.classes["metric"].unique(), key=names.order)
    frame = found.classes.pivot(index="explainer", columns="metric", values="mean")
    frame["classes"] = found.classes.groupby("explainer")["classes"].max()
    frame = frame.sort_values(games[0], ascending=False, kind="stable").reset_index()
    columns = {game: Column(names.heading(game), "higher") for game in games}
    columns["classes"] = Column("classes, n", form="d")
    return _table(
        found,
        "classes",
        "Pointing game by class",
        "Accuracy of each class, then the mean over n classes, as published figures are "
        "computed; no interval, since classes are few and of unequal size. An image without a "
        "value (a degenerate map) is left out here; its rate is in the table above.",
        list(columns.values()),
        _rows(frame, columns),
        0,
    )


def _cost_table(found: Analysis) -> Table:
    columns = {
        "layers": Column("layers", text=True),
        "seconds": Column("seconds, median", "lower"),
        "slowest": Column("slowest", "lower"),
        "forward_rows": Column("forward rows", "lower", form=".1f"),
        "backward_rows": Column("backward rows", "lower", form=".1f"),
        "peak_mib": Column("peak MiB", "lower", form=".0f"),
        "maps": Column("maps, n", "higher", form="d"),
        "errors": Column("errors", "lower", form="d"),
    }
    return _table(
        found,
        "costs",
        "What a map costs",
        "Seconds of one image: the median and the slowest of n maps; rows through the "
        "model, forward and backward: the mean; peak memory: the largest. Measured while "
        "explaining on the machine of the run, one image at a time, without an interval.",
        list(columns.values()),
        _rows(found.costs.sort_values(["seconds", "explainer"]), columns),
        1,
    )


def _seed_table(found: Analysis) -> Table:
    """The influence of the explainer's own randomness, apart from the images."""
    metrics = sorted(found.seeds["metric"].unique(), key=names.order)
    rows = []
    for name, group in found.seeds.groupby("explainer"):
        spread = {
            row.metric: Cell(f"{number(row.mean)} ± {number(row.sd)}", row.sd)
            for row in group.itertuples()
        }
        cells = [spread.get(metric, Cell(NONE)) for metric in metrics]
        rows.append(Row(str(name), [*cells, _cell(group["seeds"].max(), "d")]))
    return _table(
        found,
        "seeds",
        "Spread over seeds",
        "Mean over n seeds of the mean over images, ± the standard deviation between "
        "seeds (no interval): what another draw of an explainer's randomness changes. Sorted by "
        "the deviation.",
        [*(Column(names.heading(m), "lower") for m in metrics), Column("seeds, n")],
        rows,
    )


def _failure_table(found: Analysis) -> Table:
    columns = {
        "metric": Column("metric", text=True),
        "status": Column("outcome", text=True),
        "message": Column("first message", text=True),
        "records": Column("records, n", "lower", form="d"),
    }
    frame = found.failures.assign(metric=found.failures["metric"].map(names.heading))
    return _table(
        found,
        "failures",
        "What has no value, and why",
        "n records of each outcome other than a value (no interval). They count in the "
        "rates of the tables above, and in no mean.",
        list(columns.values()),
        _rows(frame, columns),
    )
