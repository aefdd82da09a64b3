"""The command line: ``python -m benchmarks.explanations plan | explain | score | report | ...``.

torch and what needs it are imported inside functions, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captum_excon.cli.console import complain, one_line_errors
from captum_excon.errors import UserError

if TYPE_CHECKING:
    from benchmarks.explanations.stages.common import Outcome, Shard
    from benchmarks.explanations.stages.plan import OpenRun, Plan
    from benchmarks.explanations.stages.process_group import ProcessGroup
    from benchmarks.explanations.stages.progress_mode import ProgressMode
    from captum_excon.models import Model

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Compares explanation methods on images and a model, in four stages that can be "
    "interrupted and repeated: plan, explain, score, report.",
    epilog="""\b
Exit status: 0 if all went well, 1 if an explainer or metric raised an error (records say which,
and everything else was done) or if compare finds a significant loss, 2 if the command cannot be
done (one line on standard error says why), 130 after Ctrl-C. The same command goes on.""",
)

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run.")]
ConfigName = Annotated[
    str | None,
    typer.Option(
        "--config",
        "-c",
        metavar="NAME or FILE",
        help="quick, grid, boxes, fused, ablation, paper, full, or a file. By default the run's.",
    ),
]
Settings = Annotated[
    list[str],
    typer.Option(
        "--set", "-s", metavar="NAME=VALUE", help="A setting on top, such as data.count=20."
    ),
]
ShardText = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="R/N",
        help="Do every N-th item from the R-th on, as one of N jobs. Under torchrun each process "
        "does its share without it. No result depends on it.",
    ),
]
Retry = Annotated[
    bool, typer.Option("--retry", help="Try again what ended in an error, in all shards.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors, no progress.")]
Plain = Annotated[
    bool,
    typer.Option("--plain", help="Progress as lines, as it is where stderr is not a terminal."),
]
Gallery = Annotated[
    bool, typer.Option("--gallery/--no-gallery", help="Whether the report shows the images.")
]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show errors in full.")]


@app.command("plan")
def plan_command(
    folder: RunFolder,
    config: ConfigName = None,
    settings: Settings = [],  # noqa: B006 (typer copies it)
    estimate: Annotated[
        bool,
        typer.Option(
            "--estimate/--no-estimate", help="Explain and score the first item, and tell the cost."
        ),
    ] = True,
    quiet: Quiet = False,
    plain: Plain = False,
    traceback: Traceback = False,
) -> None:
    """Selects the items, writes config.yaml and plan.json, and tells what all of it will cost."""
    with one_line_errors(traceback) as say:
        from benchmarks.explanations.stages.cost import estimate_cost

        plan, model = _plan(folder, config, settings, quiet)
        say(plan.summary())
        if estimate:
            from benchmarks.explanations.stages.plan import open_run

            say(estimate_cost(open_run(plan, model), _mode(quiet, plain)))


@app.command("explain")
def explain_command(
    folder: RunFolder,
    shard: ShardText = None,
    retry: Retry = False,
    quiet: Quiet = False,
    plain: Plain = False,
    traceback: Traceback = False,
) -> None:
    """Explains the items and keeps the raw maps."""
    with one_line_errors(traceback):
        from benchmarks.explanations.stages.explain import explain
        from benchmarks.explanations.stages.plan import open_run

        part, processes = _share(folder, shard, retry)
        outcome = explain(open_run(folder), part, _mode(quiet or processes.rank > 0, plain))
        _leave(processes.total(_tell(outcome, quiet)))


@app.command("score")
def score_command(
    folder: RunFolder,
    shard: ShardText = None,
    retry: Retry = False,
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Print the share of time in the model's forward passes."),
    ] = False,
    quiet: Quiet = False,
    plain: Plain = False,
    traceback: Traceback = False,
) -> None:
    """Scores the maps by every metric."""
    with one_line_errors(traceback) as say:
        from benchmarks.explanations.stages.pass_counter import Profile
        from benchmarks.explanations.stages.plan import open_run
        from benchmarks.explanations.stages.score import score

        part, processes = _share(folder, shard, retry)
        measured = Profile() if profile else None
        mode = _mode(quiet or processes.rank > 0, plain)
        errors = _tell(score(open_run(folder), part, mode, profile=measured), quiet)
        if measured is not None:
            say(str(measured))
        _leave(processes.total(errors))


@app.command("report")
def report_command(
    folder: RunFolder, gallery: Gallery = True, traceback: Traceback = False
) -> None:
    """Writes the report: HTML, CSV, Markdown, LaTeX and JSON."""
    with one_line_errors(traceback) as say:
        say(str(_report(folder, gallery)))


@app.command("run")
def run_command(
    folder: RunFolder,
    config: ConfigName = None,
    settings: Settings = [],  # noqa: B006 (typer copies it)
    shard: ShardText = None,
    retry: Retry = False,
    gallery: Gallery = True,
    quiet: Quiet = False,
    plain: Plain = False,
    traceback: Traceback = False,
) -> None:
    """Does all stages one after the other; with --shard all but the report."""
    with one_line_errors(traceback) as say:
        from benchmarks.explanations.stages.common import Shard
        from benchmarks.explanations.stages.explain import explain
        from benchmarks.explanations.stages.plan import open_run
        from benchmarks.explanations.stages.score import score

        Shard.parse(shard)  # a wrong one is told before the plan is made
        rank = int(os.environ.get("RANK", 0))
        quiet = quiet or rank > 0
        model = None
        if rank == 0:
            plan, model = _plan(folder, config, settings, quiet)
            if not quiet:
                say(plan.summary())
        part, processes = _share(folder, shard, retry)
        run = open_run(folder, model)
        mode = _mode(quiet, plain)
        errors = _tell(explain(run, part, mode), quiet)
        errors = processes.total(errors + _tell(score(run, part, mode), quiet))
        if shard is None and rank == 0:
            say(str(_report(folder, gallery, run)))
        elif shard is not None and not quiet:
            say(f"when all shards are done: python -m benchmarks.explanations report {folder}")
        processes.total(0)
        _leave(errors)


@app.command("compare")
def compare_command(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="Folder of an earlier run.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Folder of a later run.")],
    traceback: Traceback = False,
) -> None:
    """Compares two runs; exit status 1 if something is significantly worse in NEW."""
    with one_line_errors(traceback) as say:
        from benchmarks.explanations.analysis.compare import compare

        found = compare(old, new)
        say(str(found))
        _leave(len(found.losses))


@app.command("settings")
def settings_command() -> None:
    """Lists all settings, their values, defaults and meaning, as Markdown."""
    from benchmarks.explanations.configs.settings import settings_tables

    typer.echo(settings_tables())


def _plan(folder: Path, name: str | None, settings: list[str], quiet: bool) -> tuple[Plan, Model]:
    """Checks all choices, opens the model and makes the plan."""
    from benchmarks.explanations.configs.settings import load_config
    from benchmarks.explanations.stages.model import open_model
    from benchmarks.explanations.stages.plan import check_choices, make_plan
    from captum_excon._settings import parse_assignments

    path: str | Path = folder / "config.yaml" if name is None else name
    if name is None and not (folder / "config.yaml").exists():
        raise UserError(
            f"{folder} has no plan yet: name a configuration by --config, such as quick"
        )
    wanted = load_config(path, parse_assignments(settings))
    check_choices(wanted)
    model = open_model(wanted)
    return make_plan(folder, wanted, model, progress=not quiet), model


def _share(folder: Path, shard: str | None, retry: bool) -> tuple[Shard, ProcessGroup]:
    """This process's part of the items, once all processes are there and errors forgotten."""
    from benchmarks.explanations.stages.common import Shard, forget_errors
    from benchmarks.explanations.stages.process_group import ProcessGroup

    part, processes = Shard.parse(shard), ProcessGroup()
    if retry and processes.rank == 0:
        forget_errors(folder)
    processes.total(0)
    return part, processes


def _report(folder: Path, gallery: bool, run: OpenRun | None = None) -> Path:
    from benchmarks.explanations.report import write_report

    if not gallery:
        return write_report(folder)
    from benchmarks.explanations.stages.plan import open_run

    items = (run or open_run(folder)).items
    return write_report(
        folder,
        pictures=lambda number: items[number].pixels,
        masks=lambda number: items[number].mask,
    )


def _mode(quiet: bool, plain: bool) -> ProgressMode:
    return "quiet" if quiet else "plain" if plain or not sys.stderr.isatty() else "bar"


def _tell(outcome: Outcome, quiet: bool) -> int:
    """Says how a stage ended and returns the number of errors."""
    summary, *errors = outcome.lines()
    if not quiet:
        typer.echo(summary, err=True)
    for line in errors:
        complain("error", line)
    return outcome.errors.total()


def _leave(errors: int) -> None:
    if errors:
        raise typer.Exit(1)
