"""The page: one HTML file that asks nothing of any other."""

from __future__ import annotations

import base64
import hashlib
import math
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from benchmarks.explanations.analysis import names
from benchmarks.explanations.analysis.run import Run
from benchmarks.explanations.analysis.summaries import Analysis
from benchmarks.explanations.report import charts
from benchmarks.explanations.report.gallery import Gallery
from benchmarks.explanations.report.layout import Table, rows_of

HERE = Path(__file__).parent


def title(run: Run) -> str:
    """What the report is about."""
    data = " ".join(filter(None, (run.subject["dataset"], run.subject["split"])))
    return f"Explanations of {run.subject['model']} on {data}"


def render(run: Run, found: Analysis, tables: list[Table], gallery: Gallery | None) -> str:
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
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text: str = environment.get_template("template.html.jinja").render(
        title=title(run),
        run=run,
        scores=len(run.scores),
        images=run.scores["image"].nunique(),
        failed=int(run.scores["status"].str.startswith("error").sum()),
        broken=int((run.explained["status"].str.startswith("error")).sum()),
        degenerate=int(run.scores["status"].str.startswith("nan").sum()),
        missing=float(found.summary["missing"].mean()),
        tables={table.key: table for table in tables},
        quality=[table for table in tables if table.key in _quality_keys(found)],
        rows_of=rows_of,
        curves=charts.curve_panels(run.scores, run.controls),
        scatters=charts.quality_against_time(found),
        agreement=_agreement(found),
        verdicts=_verdicts(found),
        gallery=gallery,
        style=Markup((HERE / "style.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_digest=digest,
    )
    return text


def _quality_keys(found: Analysis) -> set[str]:
    titles = {names.family(metric).title for metric in found.metrics()}
    return {f"table-{'-'.join(t.lower().split())}" for t in titles}


def _agreement(found: Analysis) -> list[tuple[str, list[tuple[str, str, int]]]]:
    """Rows of the heat map: for each cell the column, the text and the strength in percent."""
    if found.agreement is None:
        return []
    return [
        (
            names.heading(str(metric)),
            [(names.heading(str(other)), *_strength(float(value))) for other, value in row.items()],
        )
        for metric, row in found.agreement.iterrows()
    ]


def _strength(value: float) -> tuple[str, int]:
    return (f"{value:.2f}", round(100 * value)) if math.isfinite(value) else ("–", 0)


def _verdicts(found: Analysis) -> list[dict[str, object]]:
    """For each metric who is best, who cannot be told from it, and which controls it misses."""
    verdicts: list[dict[str, object]] = []
    for metric in found.metrics():
        of_metric = found.summary[found.summary["metric"] == metric]
        direction = str(of_metric["direction"].iloc[0])
        of_metric = of_metric.sort_values("mean", ascending=direction == "lower", kind="stable")
        by_mark = {mark: list(group["explainer"]) for mark, group in of_metric.groupby("mark")}
        methods = of_metric[~of_metric["control"] & of_metric["mean"].notna()]
        verdicts.append(
            {
                "metric": names.heading(metric),
                "direction": direction,
                "methods": len(methods),
                "only": methods["explainer"].iloc[0] if len(methods) == 1 else None,
                "best": by_mark.get("best", []),
                "tied": by_mark.get("tied", []),
                "unbeaten": by_mark.get("unbeaten", []),
            }
        )
    return verdicts
