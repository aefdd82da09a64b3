"""Tables of evaluations, as CSV and Markdown, with a unique name for every figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pandas as pd
from tabulate import tabulate

from captum_excon.training.evaluation.calibration import BINS
from captum_excon.training.evaluation.robustness import ATTACKS

LADDERS = ("shifts", "corruptions")
METRICS = {"top1": "Accuracy", **{f"ece{n}": f"Calibration error ({n} bins)" for n in BINS}}


def figures(result: Mapping[str, Any]) -> dict[str, float | None]:
    """Names every figure of an evaluation, in the order of the tables.

    Names are such as ``clean/top1``, ``explanations/random/drop``, ``attacks/pgd/8``,
    ``shifts/rotation/3/ece15``, ``shifts/rotation/mean/ece15`` (over the severities) and
    ``shifts/mean/ece15`` (over all). Figures are in [0, 1], or None where no image gave one.
    """
    named: dict[str, float | None] = {f"clean/{m}": v for m, v in result["clean"].items()}
    for name, found in result["explanations"].items():
        named |= {f"explanations/{name}/{metric}": value for metric, value in found.items()}
    attacks = result["attacks"]
    named["attacks/clean"] = attacks["clean"]
    for attack in ATTACKS:
        pairs = zip(attacks["epsilons"], attacks[attack], strict=True)
        named |= {f"attacks/{attack}/{epsilon}": accuracy for epsilon, accuracy in pairs}
    for group in LADDERS:
        named |= _ladder(group, result.get(group, {}))
    return named


def _ladder(
    group: str, kinds: Mapping[str, Sequence[Mapping[str, float]]]
) -> dict[str, float | None]:
    named: dict[str, float | None] = {}
    means: dict[str, list[float]] = {}
    for kind, severities in kinds.items():
        for severity, found in enumerate(severities, start=1):
            named |= {f"{group}/{kind}/{severity}/{m}": value for m, value in found.items()}
        for metric in severities[0]:
            mean = fmean(found[metric] for found in severities)
            means.setdefault(metric, []).append(mean)
            named[f"{group}/{kind}/mean/{metric}"] = mean
    return named | {f"{group}/mean/{metric}": fmean(v) for metric, v in means.items()}


def higher_is_better(name: str) -> bool:
    """Returns the direction of a figure that `figures` names."""
    return not name.rpartition("/")[2].startswith(("drop", "ece", "undefined"))


@dataclass(frozen=True)
class Section:
    """One table: its title, a note, and the name of the figure in each column."""

    title: str
    note: str
    columns: dict[str, str]


def sections(result: Mapping[str, Any]) -> list[Section]:
    """Arranges the figures of an evaluation in tables; single severities are left to the CSV."""
    ece = {f"ECE, {bins} bins": f"clean/ece{bins}" for bins in BINS}
    explained = {
        f"{metric}, {name}": f"explanations/{name}/{metric.lower()}"
        for metric in ("Drop", "Increase")
        for name in result["explanations"]
    }
    parts = [
        Section(
            "Accuracy and calibration",
            "Top-1 and top-5: higher is better. Expected calibration error (ECE): lower.",
            {"top-1": "clean/top1", "top-5": "clean/top5", **ece},
        ),
        Section(
            "Explanations",
            f"With the {result['settings']['fraction']:.0%} most salient pixels alone. Drop: lower "
            "is better. Increase: higher. `random` keeps as many pixels at random, the control.",
            explained,
        ),
    ]
    for attack in ATTACKS:
        radii = {f"{e}/255": f"attacks/{attack}/{e}" for e in result["attacks"]["epsilons"]}
        parts.append(
            Section(
                f"Accuracy under {attack.upper()}",
                "By the radius of the attack, L∞; `clean` on the same images. Higher is better.",
                {"clean": "attacks/clean", **radii},
            )
        )
    for group in LADDERS:
        kinds = {kind: f"{group}/{kind}/mean" for kind in result.get(group, {})}
        for metric, title in METRICS.items() if kinds else ():
            columns = {label: f"{name}/{metric}" for label, name in kinds.items()}
            direction = "Higher" if higher_is_better(metric) else "Lower"
            parts.append(
                Section(
                    f"{title} under {group}",
                    f"Means over five severities. {direction} is better.",
                    {**columns, "mean": f"{group}/mean/{metric}"},
                )
            )
    return parts


def as_csv(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Writes evaluations, by label, with a line for each figure; undefined ones are empty."""
    rows = [(label, *figure) for label, x in results.items() for figure in figures(x).items()]
    table = pd.DataFrame(rows, columns=["checkpoint", "figure", "value"])
    return str(table.to_csv(index=False, lineterminator="\n"))


def as_markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Writes evaluations of the same settings, by label, as tables with a row for each."""
    named = {label: figures(result) for label, result in results.items()}
    first = next(iter(results.values()))
    parts = [
        f"{first['images']} test images; explanations and attacks on {first['subset']} of them. "
        "All figures are percentages."
    ]
    for section in sections(first):
        rows = [
            [label, *(percent(values[name]) for name in section.columns.values())]
            for label, values in named.items()
        ]
        table = markdown_table(["", *section.columns], rows)
        parts.append(f"## {section.title}\n\n{section.note}\n\n{table}")
    return "\n\n".join(parts) + "\n"


def percent(value: float | None) -> str:
    """Formats a share as a percentage with one digit, None as a dash."""
    return "–" if value is None else f"{100 * value:.1f}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Makes a Markdown table, its first column to the left and the others to the right."""
    aligned = ("left", *["right"] * (len(head) - 1))
    return str(tabulate(rows, head, tablefmt="pipe", colalign=aligned, disable_numparse=True))
