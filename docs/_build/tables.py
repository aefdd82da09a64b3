"""Writes the tables of docs/metrics.md that come from the code: python docs/_build/tables.py."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from captum_excon.metrics import REFUSED, TRUSTED

PAGE = Path(__file__).parents[1] / "metrics.md"


def tables() -> dict[str, str]:
    """Returns the Markdown of the tables by name."""
    refused = [(f"`{name}`", entry.reason, entry.instead) for name, entry in REFUSED.items()]
    trusted = [(f"`{name}`", reason) for name, reason in TRUSTED.items()]
    return {
        "refused": table(("name", "what it does", "use instead"), refused),
        "trusted": table(("name", "what it is right for"), trusted),
    }


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table in Markdown, without padding, so that one row changes one line."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def filled_in(text: str) -> str:
    """Returns a page with the tables between their marks."""
    for name, rows in tables().items():
        mark = rf"(<!-- {name}: .*? -->\n).*?(<!-- end -->)"
        text = re.sub(mark, lambda m, t=rows: f"{m[1]}\n{t}\n\n{m[2]}", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    PAGE.write_text(filled_in(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
