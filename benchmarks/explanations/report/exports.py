"""The figures for other programs and for papers: CSV, JSON, Markdown and LaTeX."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from benchmarks.explanations.analysis.run import Run
from benchmarks.explanations.analysis.summaries import BEST, Analysis
from benchmarks.explanations.report.layout import Cell, Row, Table, rows_of, text_of

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
    named = {
        "summary": found.summary,
        "pairs": found.pairs,
        "costs": found.costs,
        "seeds": found.seeds,
        "failures": found.failures,
        "classes": found.classes,
    }
    if found.agreement is not None:
        named["agreement"] = found.agreement.rename_axis("metric").reset_index()
    return named


def as_json(run: Run, found: Analysis) -> str:
    """Everything in one JSON object; what does not exist is null."""
    whole: dict[str, Any] = {
        "subject": run.subject,
        "items": run.items,
        "versions": run.versions,
        **{name: frame.to_dict("records") for name, frame in frames(found).items()},
    }
    return json.dumps(_plain(whole), indent=1, allow_nan=False) + "\n"


def as_markdown(title: str, tables: Sequence[Table]) -> str:
    """The tables for a README or an issue."""
    parts = [f"# {_md(title)}", SIGNS]
    for table in tables:
        parts += [f"## {table.title}", _md(table.caption), _markdown_table(table)]
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    heads = [table.head, *(c.heading + _ARROWS.get(c.direction or "", "") for c in table.columns)]
    lines = [_md_row(heads), "|" + " --- |" * len(heads)]
    for part, rows in rows_of(table):
        if table.controls:
            lines.append(_md_row([f"*{part}*", *[""] * len(table.columns)], escape=False))
        lines += [_md_row([_md(r.name), *map(_md_cell, r.cells)], escape=False) for r in rows]
    return "\n".join(lines)


def _md_cell(cell: Cell) -> str:
    text = _md(text_of(cell))
    return f"**{text}**" if cell.mark == BEST else text


def _md_row(cells: Sequence[str], escape: bool = True) -> str:
    return "| " + " | ".join(map(_md, cells) if escape else cells) + " |"


def _md(text: str) -> str:
    flat = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    for sign in "\\|*_`[]":
        flat = flat.replace(sign, "\\" + sign)
    return flat


_TEX = {
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


def as_latex(tables: Sequence[Table]) -> str:
    """Tables for a paper; they need the package booktabs."""
    head = f"% {SIGNS}\n% Needs \\usepackage{{booktabs}}.\n"
    return head + "\n".join(_latex_table(table) for table in tables)


def _latex_table(table: Table) -> str:
    heads = [table.head, *(c.heading + _ARROWS.get(c.direction or "", "") for c in table.columns)]
    lines = [
        r"\begin{table}",
        rf"\caption{{{_tex(f'{table.title}. {table.caption}')}}}",
        rf"\label{{tab:{table.key.removeprefix('table-')}}}",
        r"\centering",
        rf"\begin{{tabular}}{{l{'l' * len(table.columns)}}}",
        r"\toprule",
        " & ".join(map(_tex, heads)) + r" \\",
    ]
    for part, rows in rows_of(table):
        lines.append(r"\midrule")
        if table.controls:
            lines.append(rf"\multicolumn{{{len(heads)}}}{{l}}{{\emph{{{part}}}}} \\")
        lines += [_latex_row(row) for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _latex_row(row: Row) -> str:
    cells = [_tex(row.name)]
    for cell in row.cells:
        text = _tex(text_of(cell))
        cells.append(rf"\textbf{{{text}}}" if cell.mark == BEST else text)
    return " & ".join(cells) + r" \\"


def _tex(text: str) -> str:
    return "".join(_TEX.get(sign, sign) for sign in " ".join(text.split()))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "item"):  # a NumPy scalar
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
