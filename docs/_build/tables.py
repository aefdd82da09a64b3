"""Writes the parts of docs/ that come from elsewhere in the repository.

Run ``python docs/_build/tables.py``; a test tells when that is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from captum_excon.metrics import REFUSED, TRUSTED

DOCS = Path(__file__).parents[1]
PAGES = (DOCS / "metrics.md", DOCS / "papers.md")


def parts() -> dict[str, str]:
    """Returns the Markdown of each part by its name."""
    refused = [(f"`{name}`", entry.reason, entry.instead) for name, entry in REFUSED.items()]
    trusted = [(f"`{name}`", reason) for name, reason in TRUSTED.items()]
    citation = yaml.safe_load((DOCS.parent / "CITATION.cff").read_text(encoding="utf-8"))
    return {
        "refused": table(("name", "what it does", "use instead"), refused),
        "trusted": table(("name", "what it is right for"), trusted),
        "papers": "\n\n".join(map(paper, citation["references"])),
    }


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table in Markdown, without padding, so that one row changes one line."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def paper(reference: dict[str, Any]) -> str:
    """Returns a reference of CITATION.cff as a sentence and a BibTeX entry."""
    authors = [f"{a['family-names']}, {a['given-names']}" for a in reference["authors"]]
    pages = f"{reference['start']}--{reference['end']}" if "start" in reference else None
    fields = {
        "title": f"{{{reference['title']}}}",
        "author": " and ".join(authors),
        "journal": reference.get("journal"),
        "booktitle": reference.get("collection-title"),
        "volume": reference.get("volume"),
        "number": reference.get("issue"),
        "pages": pages,
        "year": reference["year"],
        "doi": reference.get("doi"),
        "url": reference["url"],
    }
    kind = "article" if "journal" in reference else "inproceedings"
    name = reference["title"].split(":")[0].split()[0].lower().replace("-", "")
    key = f"{reference['authors'][0]['family-names'].lower()}{reference['year']}{name}"
    lines = [f"  {field} = {{{value}}}," for field, value in fields.items() if value]
    entry = "\n".join([f"@{kind}{{{key},", *lines, "}"])
    return f"{reference['notes']} [{reference['title']}]({reference['url']}).\n\n```bibtex\n{entry}\n```"


def filled_in(text: str) -> str:
    """Returns a page with the parts between their marks."""
    for name, part in parts().items():
        mark = rf"(<!-- {name}: .*? -->\n).*?(<!-- end -->)"
        text = re.sub(mark, lambda m, p=part: f"{m[1]}\n{p}\n\n{m[2]}", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled_in(page.read_text(encoding="utf-8")), encoding="utf-8")
