"""Writes a comparison of training methods: JSON, Markdown and plots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.training.report import Run, as_markdown, compared
from benchmarks.training.runs import Job
from captum_excon._files import written_whole
from captum_excon._provenance import provenance
from captum_excon.errors import UserError
from captum_excon.training.evaluation import plots


def write(out: Path, jobs: Sequence[Job], failures: Mapping[str, str]) -> None:
    """Writes JSON, Markdown and plots of the finished runs.

    Raises:
        UserError: None is finished, or ``out`` cannot be written to.
    """
    runs = []
    for job in jobs:
        trained, evaluated = job.trained(), job.evaluated()
        if trained is not None and evaluated is not None:
            runs.append(Run(job.config.method, job.config.seed, trained, evaluated))
    if not runs:
        raise UserError(f"no run is finished; the first failure: {next(iter(failures.items()))}")
    found = compared(runs)
    facts = {
        **provenance(torch.device("cpu")),
        "trained with": sorted({_listed(run.training["hardware"]) for run in runs}),
        "failures": dict(failures),
    }
    report = json.dumps({**facts, **found}, indent=1, allow_nan=False) + "\n"
    texts = {
        "comparison.json": report,
        "comparison.md": as_markdown(found, _setup(facts, runs)),
    }
    for name, text in texts.items():
        with written_whole(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    arms: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        arms.setdefault(run.method, []).append(run.evaluation["checkpoints"]["best"])
    plots.save_all(arms, out)


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
