"""The figures for other programs and for papers: CSV, JSON, Markdown and LaTeX."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from tabulate import tabulate

from benchmarks.explanations.analysis.run import Run
from benchmarks.explanations.analysis.summaries import BEST, Analysis
from benchmarks.explanations.report.layout import Row, Table, rows_of, text_of

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
    rows = []
    for part, members in rows_of(table):
        if table.controls:
            rows.append([f"*{part}*"])
        rows += [_texts(row, _md, "**{}**") for row in members]
    # tabulate fills short rows, and would align a column of numbers by their points.
    text: str = tabulate(rows, list(map(_md, _heads(table))), "github", disable_numparse=True)
    return text


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
    return head + "\n".join(_latex_table(table) for table in tables)


def _latex_table(table: Table) -> str:
    rows: list[list[str]] = []
    for part, members in rows_of(table):
        if table.controls:
            rows.append([rf"\emph{{{part}}}", *[""] * len(table.columns)])
        rows += [_texts(row, _tex, r"\textbf{{{}}}") for row in members]
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
    return [table.head, *(c.heading + _ARROWS.get(c.direction or "", "") for c in table.columns)]


def _texts(row: Row, escape: Callable[[str], str], bold: str) -> list[str]:
    """The cells of a row, the best of a column in bold."""
    texts = [escape(row.name)]
    for cell in row.cells:
        text = escape(text_of(cell))
        texts.append(bold.format(text) if cell.mark == BEST else text)
    return texts


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
