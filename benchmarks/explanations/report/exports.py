"""The figures for other programs and for papers: CSV, JSON, Markdown and LaTeX."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

import pandas as pd
from tabulate import tabulate

from benchmarks.explanations.analysis.run import Run
from benchmarks.explanations.analysis.summaries import BEST, Analysis
from benchmarks.explanations.report.layout import Row, Table

SIGNS = (
    "Bold: significantly better than every other method. ≈: the best mean over the images that all "
    "methods have a value for, or a method that is not shown to be worse than the best; which is "
    "chosen from the same images, so that of many equal methods some lose their ≈ by chance. !: a "
    "control that the best method does not significantly beat. ↑ higher is better, ↓ lower is "
    "better."
)
_ARROWS = {"higher": " ↑", "lower": " ↓"}


def frames(found: Analysis) -> dict[str, pd.DataFrame]:
    """The frames that are written as CSV and in the JSON file, by name."""
    named = {name: v for name, v in vars(found).items() if isinstance(v, pd.DataFrame)}
    if found.agreement is not None:
        named["agreement"] = found.agreement.rename_axis("metric").reset_index()
    return named


def as_json(run: Run, found: Analysis) -> str:
    """Everything in one JSON object; what does not exist is null."""
    whole = {"subject": run.subject, "items": run.items, "versions": run.versions}
    for name, frame in frames(found).items():
        whole[name] = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return json.dumps(whole, indent=1, allow_nan=False) + "\n"


def as_markdown(title: str, tables: Sequence[Table]) -> str:
    """The tables for a README or an issue."""
    parts = [f"# {_md(title)}", SIGNS]
    for table in tables:
        rows = _texts(table, _md, "**{}**", "*{}*")
        # tabulate would align a column of numbers by their points.
        grid = tabulate(rows, list(map(_md, _heads(table))), "github", disable_numparse=True)
        parts += [f"## {table.title}", _md(table.caption), grid]
    return "\n\n".join(parts) + "\n"


def _md(text: str) -> str:
    flat = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"[\\|*_`\[\]]", r"\\\g<0>", flat)


_TEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "–": "--",
        "≈": r"$\approx$",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "±": r"$\pm$",
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    }
)


def as_latex(tables: Sequence[Table]) -> str:
    """Tables for a paper; they need the package booktabs."""
    head = f"% {SIGNS}\n% Needs \\usepackage{{booktabs}}.\n"
    return head + "\n".join(map(_latex_table, tables))


def _latex_table(table: Table) -> str:
    rows = _texts(table, _tex, r"\textbf{{{}}}", r"\emph{{{}}}")
    frame = pd.DataFrame(rows, columns=list(map(_tex, _heads(table))))
    text: str = frame.style.hide(axis="index").to_latex(
        hrules=True,
        position_float="centering",
        caption=_tex(f"{table.title}. {table.caption}"),
        label=f"tab:{table.key.removeprefix('table-')}",
    )
    return text


def _tex(text: str) -> str:
    return " ".join(text.split()).translate(_TEX)


def _heads(table: Table) -> list[str]:
    return ["explainer", *(c.heading + _ARROWS.get(c.direction or "", "") for c in table.columns)]


def _texts(table: Table, escape: Callable[[str], str], bold: str, italic: str) -> list[list[str]]:
    """The rows' cells, the best of a column in bold, below the name of their part."""

    def cells(row: Row) -> list[str]:
        texts = [(escape(str(cell)), cell.mark == BEST) for cell in row.cells]
        return [escape(row.name), *(bold.format(text) if best else text for text, best in texts)]

    rows = []
    for part, members in table.parts.items():
        if "Controls" in table.parts:
            rows.append([italic.format(part), *[""] * len(table.columns)])
        rows += [cells(row) for row in members]
    return rows
