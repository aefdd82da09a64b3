"""Trains and evaluates several methods with several seeds, and compares them pair by pair.

::

    python -m benchmarks.training.compare --config benchmarks/training/laptop-cifar100.yaml
        --data DIR --seeds 0 1 2 --out comparison --jobs 2

Every run is a call of ``captum-excon train`` and one of ``captum-excon evaluate``, in a folder of
its own. After an interruption, whatever it was, the same command goes on: finished runs are
skipped, and an unfinished one resumes after its last whole epoch. ``comparison.jsonl`` (every
figure of every run), ``comparison.md`` and the plots hold what was found.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.training.runs import Job, locked, run_all
from captum_excon._files import check_writable
from captum_excon._settings import parse_assignments
from captum_excon.errors import UserError
from captum_excon.training.methods import METHODS
from captum_excon.training.run.config import TrainConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit status is 2 if a run failed, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        check_writable(options.out)
        jobs = plan(options)
        with locked(options.out) as lock:
            failures = run_all(jobs, options.jobs, lock)
            # Not before: torch takes longer to import than many an error to find.
            from benchmarks.training.write_up import write

            write(options.out, jobs, failures)
    except UserError as error:
        print(f"compare: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("compare: interrupted; the same command goes on", file=sys.stderr)
        return 130
    print(options.out / "comparison.md")
    return 2 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training.compare")
    parser.add_argument("--config", type=Path, help="settings of all runs, as YAML")
    parser.add_argument("--data", help="a folder of images, or cifar100")
    parser.add_argument("--root", help="where torchvision's data sets lie")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--limit", type=int, help="images for explanations and attacks")
    parser.add_argument("--with-last", action="store_true", help="evaluate the last epochs too")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, which share the cores")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and results")
    return parser


def plan(options: argparse.Namespace) -> list[Job]:
    """Makes the jobs, seed by seed, so that an interrupted comparison has whole pairs.

    Raises:
        UserError: A setting is unknown, missing or of a wrong type.
    """
    shared = parse_assignments(options.set)
    shared |= {key: value for key in ("data", "root") if (value := getattr(options, key))}
    texts = [f"--set={key}={json.dumps(value)}" for key, value in shared.items()]
    texts += [] if options.config is None else [f"--config={options.config}"]
    jobs = []
    for seed in dict.fromkeys(options.seeds):
        for method in dict.fromkeys(options.methods):
            jobs.append(
                Job(
                    TrainConfig.load(options.config, {**shared, "method": method, "seed": seed}),
                    options.out / f"{method}-{seed}",
                    [f"--method={method}", f"--seed={seed}", *texts],
                    ("best", "last") if options.with_last else ("best",),
                    options.limit,
                )
            )
    return jobs


if __name__ == "__main__":
    sys.exit(main())
