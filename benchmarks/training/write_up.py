"""Writes what a comparison of training methods found: raw figures, Markdown and plots.

::

    python -m benchmarks.training.write_up comparison/comparison.jsonl --out again

makes the tables and plots again from the raw figures: ``comparison.jsonl`` has a line for what is
the same for all runs, and then one for each run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.training.report import Run, as_markdown, compared
from benchmarks.training.runs import Job
from captum_excon._files import check_writable, written_whole
from captum_excon._messages import one_line
from captum_excon._provenance import provenance
from captum_excon.errors import UserError
from captum_excon.training.evaluation import plots

RAW = "comparison.jsonl"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit status is 2 if it cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training.write_up")
    parser.add_argument("raw", type=Path, help=f"raw figures, such as comparison/{RAW}")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables and plots")
    options = parser.parse_args(arguments)
    try:
        facts, runs = read_raw(options.raw)
        check_writable(options.out)
        draw(options.out, facts, runs)
    except UserError as error:
        print(f"write_up: error: {error}", file=sys.stderr)
        return 2
    return 0


def write(out: Path, jobs: Sequence[Job], failures: Mapping[str, str]) -> None:
    """Writes the raw figures, Markdown and plots of the finished runs.

    Raises:
        UserError: None is finished, or ``out`` cannot be written to.
    """
    runs, places = [], set()
    for job in jobs:
        trained, evaluated = job.trained(), job.evaluated()
        if trained is not None and evaluated is not None:
            places.add(_listed(trained["hardware"]))
            method, seed = job.config.method, job.config.seed
            runs.append(Run(method, seed, _measured(trained), _measured(evaluated)))
    if not runs:
        raise UserError(f"no run is finished; the first failure: {next(iter(failures.items()))}")
    facts = {
        **provenance(torch.device("cpu")),
        "trained with": sorted(places),
        "failures": dict(failures),
    }
    lines = [json.dumps(line, allow_nan=False) for line in (facts, *map(asdict, runs))]
    with written_whole(out / RAW) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw(out, facts, runs)


def read_raw(path: Path) -> tuple[dict[str, Any], list[Run]]:
    """Reads what `write` wrote: what is the same for all runs, and the runs.

    Raises:
        UserError: The file cannot be read, or holds something else.
    """
    try:
        facts, *lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        return facts, [Run(**line) for line in lines]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be read as raw figures ({one_line(error)})") from error


def draw(out: Path, facts: Mapping[str, Any], runs: Sequence[Run]) -> None:
    """Writes ``comparison.md`` and the plots."""
    with written_whole(out / "comparison.md") as temporary:
        page = as_markdown(compared(runs), _setup(facts, runs))
        temporary.write_text(page, encoding="utf-8")
    arms: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        arms.setdefault(run.method, []).append(run.evaluation["checkpoints"]["best"])
    plots.save_all(arms, out)


def _measured(found: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in found.items() if k not in ("command", "versions", "hardware")}


def _setup(facts: Mapping[str, Any], runs: Sequence[Run]) -> str:
    config = runs[0].training["config"]
    classes = config["classes"]
    classes = len(classes) if isinstance(classes, list) else classes or "all"
    seeds = sorted({run.seed for run in runs})
    lines = [
        f"- Command: `{facts['command']}`",
        f"- Machine and versions: {_listed({**facts['hardware'], **facts['versions']})}",
        *(f"- Trained with: {text}" for text in facts["trained with"]),
        f"- Data: {classes} classes; {config['encoder']}, {config['epochs']} epochs, "
        f"explainer {config['explainer']}, seeds {', '.join(map(str, seeds))}",
        *(f"- **Missing:** {name}: {why}" for name, why in facts["failures"].items()),
    ]
    return "\n".join(lines)


def _listed(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in facts.items())


if __name__ == "__main__":
    sys.exit(main())
