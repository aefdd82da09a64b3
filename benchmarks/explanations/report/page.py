"""The page: one HTML file that asks nothing of any other."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from benchmarks.explanations.analysis import names
from benchmarks.explanations.analysis.run import Run
from benchmarks.explanations.analysis.summaries import Analysis
from benchmarks.explanations.report import charts
from benchmarks.explanations.report.gallery import Gallery
from benchmarks.explanations.report.layout import Table

HERE = Path(__file__).parent


def title(run: Run) -> str:
    """What the report is about."""
    data = " ".join(filter(None, (run.subject["dataset"], run.subject["split"])))
    return f"Explanations of {run.subject['model']} on {data}"


def render(
    run: Run, found: Analysis, tables: Mapping[str, list[Table]], gallery: Gallery | None
) -> str:
    """Returns the page.

    Whatever comes from records is escaped. Beyond that a content policy forbids the browser all
    scripts but the page's own and every access to a network.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (HERE / "sort.js").read_text(encoding="utf-8")
    text: str = environment.get_template("template.html.jinja").render(
        title=title(run),
        run=run,
        scores=len(run.scores),
        images=run.scores["image"].nunique(),
        failed=int(run.scores["status"].str.startswith("error").sum()),
        broken=int(run.explained["status"].str.startswith("error").sum()),
        missing=float(found.summary["missing"].mean()),
        tables=tables,
        curves=charts.curve_panels(run.scores, run.controls),
        scatters=charts.quality_against_time(found),
        agreement=_agreement(found),
        verdicts=[_verdict(found, metric) for metric in found.metrics()],
        gallery=gallery,
        style=Markup((HERE / "style.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return text


def _agreement(found: Analysis) -> list[tuple[str, list[tuple[str, str, int]]]]:
    """Rows of the heat map: for each cell the column, the text and the strength in percent."""

    def strength(value: float) -> tuple[str, int]:
        return (f"{value:.2f}", round(100 * value)) if math.isfinite(value) else (names.NONE, 0)

    rows = [] if found.agreement is None else found.agreement.iterrows()
    return [
        (names.heading(metric), [(names.heading(m), *strength(v)) for m, v in row.items()])
        for metric, row in rows
    ]


def _verdict(found: Analysis, metric: str) -> dict[str, object]:
    """Who is best at a metric, who cannot be told from it, and which controls it misses."""
    summary = found.summary[found.summary["metric"] == metric]
    direction = str(summary["direction"].iloc[0])
    summary = summary.sort_values("mean", ascending=direction == "lower", kind="stable")
    methods = summary[~summary["control"] & summary["mean"].notna()]["explainer"]
    return {
        "metric": names.heading(metric),
        "direction": direction,
        "methods": len(methods),
        "only": methods.iloc[0] if len(methods) == 1 else None,
        **{
            mark: list(summary.loc[summary["mark"] == mark, "explainer"])
            for mark in ("best", "tied", "unbeaten")
        },
    }
