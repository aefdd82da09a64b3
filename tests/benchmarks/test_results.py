"""What is committed under benchmarks/results."""

import csv
import re
from pathlib import Path

import pytest

from benchmarks.explanations.analysis.names import number
from benchmarks.explanations.configs.settings import load_config

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
RUNS = sorted((RESULTS / "explanations").iterdir())


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: folder.name)
def test_the_tables_hold_the_figures(folder):
    tables = (folder / "tables.md").read_text()
    rows = {}
    with (folder / "figures.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            rows.setdefault((row["table"], row["explainer"]), []).append(row)
    found = 0
    for section in tables.split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        key = "-".join(title.lower().split())
        for line in text.splitlines():
            name, *cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] or [""]
            for row, cell in zip(rows.get((key, name), []), cells, strict=False):
                if row["low"]:
                    mean = number(float(row["value"]))
                    assert f"{mean} \\[{row['low']} to {row['high']}\\]" in cell
                    found += 1
    assert found == sum(bool(row["low"]) for of_name in rows.values() for row in of_name) > 20


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: folder.name)
def test_the_configuration_of_a_committed_run_reads(folder):
    assert load_config(folder / "config.yaml").explainers


def test_committed_results_are_small_and_hold_no_page():
    files = [path for path in RESULTS.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".md", ".csv", ".jsonl", ".json", ".yaml"}
    assert sum(path.stat().st_size for path in files) < 600_000
