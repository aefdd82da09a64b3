"""Summarises a comparison of training methods as one Markdown page."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from scipy import stats

from captum_excon.training.evaluation.tables import (
    Section,
    figures,
    higher_is_better,
    markdown_table,
    percent,
    sections,
)

# Each arm against the one that lacks its idea alone; then all against plain training.
CONTROLS = {"excon": "supcon", "exconb": "excon", "edda": "random-occlusion"}
PLAIN = "ce"

HOW_TO_READ = """\
A cell is the mean over seeds of the difference between two arms that were trained with the same \
seed, in percentage points, with the 95 % t-interval of that mean. ▲ marks an interval that \
excludes 0 in favour of the first arm, ▼ one in favour of the second; neither means that nothing \
was shown, not that the arms are equal. Where the difference is the same for every seed there is \
no interval.

{seeds} seeds are few: the interval is {reach:.1f} standard errors wide to each side and assumes \
normally distributed differences, which so few values cannot confirm. Nothing corrects for the \
number of comparisons: if no two arms differed at all, about {chance:.0f} of these {count} \
intervals would exclude 0 all the same, and the figures are related, so that marks come in groups. \
Seeds vary the weights, the order and the views; all arms share the split and the test images, so \
nothing here tells how another data set would do."""


@dataclass(frozen=True)
class Run:
    """One trained and evaluated model: what ``summary.json`` and ``evaluation.json`` hold."""

    method: str
    seed: int
    training: Mapping[str, Any]
    evaluation: Mapping[str, Any]

    def figures(self, checkpoint: str) -> dict[str, float | None]:
        """Every figure by name, those of the training included."""
        chosen = self.training[checkpoint]
        return {
            **figures(self.evaluation["checkpoints"][checkpoint]),
            "training/validation": chosen["val_accuracy"],
            "training/last/top1": self.training["last"]["test_accuracy"],
            "training/epoch": chosen["epoch"],
            "training/seconds": self.training["seconds"],
            "training/explain_seconds": self.training["explain_seconds"],
        }


def compared(runs: Iterable[Run]) -> dict[str, Any]:
    """Gathers the runs' figures: spreads of each arm and paired differences between arms.

    Returns:
        ``checkpoints``: for ``best`` (and ``last``) under ``arms`` for each method and figure
        ``values`` by seed, ``n``, ``mean``, ``sd``; under ``paired`` a list with ``arm``,
        ``against``, ``figure``, ``higher_is_better``, the ``differences`` by seed, ``n``,
        ``mean``, ``sd``, ``low`` and ``high``. ``first``: the evaluation of the first run, whose
        settings are those of all.
    """
    runs = list(runs)
    checkpoints = {}
    for checkpoint in runs[0].evaluation["checkpoints"]:
        arms: dict[str, dict[str, dict[int, float | None]]] = {}
        for run in runs:
            for name, value in run.figures(checkpoint).items():
                arms.setdefault(run.method, {}).setdefault(name, {})[run.seed] = value
        checkpoints[checkpoint] = {
            "arms": {
                method: {name: _described(values) for name, values in named.items()}
                for method, named in arms.items()
            },
            "paired": [
                found
                for arm, against in pairs(list(arms))
                for found in _paired(arm, against, arms[arm], arms[against])
            ],
        }
    return {"checkpoints": checkpoints, "first": runs[0].evaluation["checkpoints"]}


def pairs(methods: list[str]) -> list[tuple[str, str]]:
    """The pairs of arms to compare, among these methods."""
    controlled = list(CONTROLS.items())
    plain = [(arm, PLAIN) for arm in methods if arm != PLAIN]
    return [(a, b) for a, b in controlled + plain if a in methods and b in methods]


class Summary(NamedTuple):
    """The mean of n values, their standard deviation, and a 95 % t-interval of the mean.

    One value has neither deviation nor interval. Nor have values that are all equal an interval: a
    few of them say nothing about the spread of others.
    """

    n: int
    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None


def summary(values: Mapping[int, float]) -> Summary | None:
    r"""Summarises values by seed; None if there is none.

    The interval is :math:`\bar x \pm t_{n-1}\, s / \sqrt n` with the 97.5 % quantile t of
    Student's distribution. It holds for independent, normally distributed values; a handful of
    seeds cannot show whether they are.

    Example:
        >>> found = summary({0: 1.0, 1: 2.0, 2: 3.0})
        >>> found.mean, found.sd, round(found.low, 3), round(found.high, 3)
        (2.0, 1.0, -0.484, 4.484)
    """
    found = list(values.values())
    n = len(found)
    if not n:
        return None
    sd = statistics.stdev(found) if n > 1 else None
    if sd is None or sd < 1e-9:  # rounding
        return Summary(n, statistics.fmean(found), sd)
    interval = stats.ttest_1samp(found, 0).confidence_interval()
    return Summary(n, statistics.fmean(found), sd, float(interval.low), float(interval.high))


def quantile(n: int) -> float:
    """Half the width of the 95 % interval of the mean of n > 1 values, in standard errors."""
    return float(stats.t.ppf(0.975, n - 1))


def paired(
    arm: Mapping[int, float | None], control: Mapping[int, float | None]
) -> dict[int, float]:
    """The differences ``arm - control`` at the seeds for which both have a value."""
    both = ((seed, value, control.get(seed)) for seed, value in arm.items())
    return {s: mine - other for s, mine, other in both if mine is not None and other is not None}


def _described(values: Mapping[int, float | None]) -> dict[str, Any]:
    found = summary({seed: v for seed, v in values.items() if v is not None})
    n, mean, sd, *_ = found or (0, None, None)
    return {"values": dict(values), "n": n, "mean": mean, "sd": sd}


def _paired(
    arm: str,
    against: str,
    mine: Mapping[str, Mapping[int, float | None]],
    theirs: Mapping[str, Mapping[int, float | None]],
) -> list[dict[str, Any]]:
    found = []
    for name in mine:
        differences = paired(mine[name], theirs.get(name, {}))
        spread = summary(differences)
        if spread is not None and not name.startswith("training/"):
            facts: dict[str, Any] = {"arm": arm, "against": against, "figure": name}
            facts |= {"differences": differences, "higher_is_better": higher_is_better(name)}
            found.append({**facts, **spread._asdict()})
    return found


def as_markdown(found: Mapping[str, Any], setup: str) -> str:
    """Writes what `compared` returns as a page.

    Args:
        found: That.
        setup: Text on command, hardware, versions and data, for the top.
    """
    parts = [f"# Training methods compared\n\n{setup}"]
    for checkpoint, tables in found["checkpoints"].items():
        evaluation = found["first"][checkpoint]
        parts += [
            f"## The {checkpoint} checkpoint of each run",
            f"{_CHOSEN[checkpoint]} {evaluation['images']} test images; explanations and attacks "
            f"on {evaluation['subset']} of them. Percentages, mean ± standard deviation over "
            "seeds.",
        ]
        chosen = sections(evaluation)
        parts += [_spread_table(section, tables["arms"]) for section in chosen]
        parts.append(_training_table(tables["arms"]))
        parts.append(_paired_tables(chosen, tables["paired"], list(tables["arms"])))
    return "\n\n".join(parts) + "\n"


_CHOSEN = {
    "best": "Chosen by the accuracy on the validation split, never on the test images.",
    "last": "That of the last epoch, chosen by nothing.",
}


def _spread_table(section: Section, arms: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [arm, *(_spread(named.get(name)) for name in section.columns.values())]
        for arm, named in arms.items()
    ]
    return (
        f"### {section.title}\n\n{section.note}\n\n{markdown_table(['', *section.columns], rows)}"
    )


def _spread(found: Mapping[str, Any] | None) -> str:
    if found is None or found["mean"] is None:
        return "–"
    spread = "" if found["sd"] is None else f" ± {100 * found['sd']:.1f}"
    return percent(found["mean"]) + spread


def _training_table(arms: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for arm, named in arms.items():
        seconds, explaining = (
            named[f"training/{name}"]["mean"] for name in ("seconds", "explain_seconds")
        )
        epoch = named["training/epoch"]
        spreads = [_spread(named[f"training/{name}"]) for name in ("validation", "last/top1")]
        rows.append(
            [arm, f"{epoch['n']}", f"{epoch['mean']:.1f}", *spreads, f"{seconds:.0f}",
             f"{explaining:.0f}"]
        )  # fmt: skip
    head = ["", "seeds", "epoch", "validation top-1", "test top-1, last epoch", "s", "s explaining"]
    return f"### Training\n\nEpoch and seconds are means.\n\n{markdown_table(head, rows)}"


def _paired_tables(
    chosen: list[Section], found: list[Mapping[str, Any]], methods: list[str]
) -> str:
    by_pair = {(f["arm"], f["against"], f["figure"]): f for f in found}
    labels: dict[str, str] = {}
    for section in chosen:
        for label, name in section.columns.items():
            labels.setdefault(name, f"{section.title}: {label}")
    shown = [f for f in found if f["figure"] in labels and f["n"] > 1]
    parts = ["### Paired differences"]
    if not shown:
        return f"{parts[0]}\n\nNone: two arms with at least two seeds in common are needed."
    seeds = min(f["n"] for f in shown)
    parts.append(
        HOW_TO_READ.format(
            seeds=seeds, reach=quantile(seeds), chance=0.05 * len(shown), count=len(shown)
        )
    )
    parts.append(_tally(shown))
    for group in (
        [pair for pair in pairs(methods) if pair[1] != PLAIN],
        [pair for pair in pairs(methods) if pair[1] == PLAIN],
    ):
        if group:
            rows = [
                [label, *(_difference(by_pair.get((*pair, name))) for pair in group)]
                for name, label in labels.items()
            ]
            parts.append(markdown_table(["", *(f"{a} − {b}" for a, b in group)], rows))
    return "\n\n".join(parts)


def _difference(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    mean, low, high = (
        # The sum turns -0.0 into 0.0.
        None if found[end] is None else f"{round(100 * found[end], 1) + 0.0:+.1f}"
        for end in ("mean", "low", "high")
    )
    mark = {1: " ▲", 0: "", -1: " ▼"}[_verdict(found)]
    return str(mean) if low is None else f"{mean} [{low}, {high}]{mark}"


def _verdict(found: Mapping[str, Any]) -> int:
    """1 if the interval excludes 0 in the arm's favour, -1 if in the other's, else 0."""
    if found["low"] is None or found["low"] <= 0 <= found["high"]:
        return 0
    return 1 if (found["mean"] > 0) == found["higher_is_better"] else -1


def _tally(shown: list[Mapping[str, Any]]) -> str:
    verdicts: dict[tuple[str, str], list[int]] = {}
    for found in shown:
        verdicts.setdefault((found["arm"], found["against"]), []).append(_verdict(found))
    rows = [
        [f"{a} − {b}", str(v.count(1)), str(v.count(-1)), str(v.count(0))]
        for (a, b), v in verdicts.items()
    ]
    return markdown_table(["figures below", "▲", "▼", "neither"], rows)
