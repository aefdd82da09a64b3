"""Two runs against each other, image by image: is anything significantly worse than it was?

Both the values and whether there is a value at all are compared, so that an explainer cannot win by
failing on the images that it is bad at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.explanations.analysis.run import SUBJECT, Run, load_run
from benchmarks.explanations.analysis.statistics import Pair, compare_pairs
from benchmarks.explanations.analysis.summaries import image_values
from benchmarks.explanations.report.layout import number
from captum_excon.errors import UserError

HAS_VALUE = "share with a value"


@dataclass(frozen=True)
class Change:
    """How one explainer's metric changed over the images of both runs.

    Attributes:
        explainer: Whose.
        metric: Of the values, or of their existence.
        direction: ``"higher"`` or ``"lower"`` is better.
        old: Mean over the images of both.
        new: The same.
        pair: New minus old, with its interval and the p value that is corrected for all changes.
    """

    explainer: str
    metric: str
    direction: str
    old: float
    new: float
    pair: Pair

    @property
    def verdict(self) -> str:
        """``"loss"``, ``"gain"``, or nothing where neither is significant."""
        if not self.pair.significant:
            return ""
        return "gain" if (self.pair.difference.mean > 0) == (self.direction == "higher") else "loss"

    def __str__(self) -> str:
        difference = self.pair.difference
        return (
            f"{self.verdict or 'same':4}  {self.explainer}, {self.metric} ({self.direction} is "
            f"better): {number(self.old)} -> {number(self.new)}, difference "
            f"{number(difference.mean)} [{number(difference.low)} to {number(difference.high)}], "
            f"p = {number(self.pair.p)}, n = {difference.count}"
        )


@dataclass(frozen=True)
class Comparison:
    """What `compared` returns.

    Attributes:
        changes: Of what both runs have and what differs on any image, losses first.
        notes: What differs between the runs besides: models, explainers, images.
        images: How many images both have.
        unchanged: How many comparisons have no difference on any image; they are no changes.
    """

    changes: list[Change]
    notes: list[str]
    images: int
    unchanged: int

    @property
    def losses(self) -> list[Change]:
        """The changes that are significantly for the worse."""
        return [change for change in self.changes if change.verdict == "loss"]


def compare(old: Path, new: Path, *, correction: str = "holm") -> int:
    """Prints what changed from one run to another.

    Args:
        old: A run folder.
        new: Another one, of the same images.
        correction: ``"holm"`` or ``"bh"``, over everything that differs on any image.

    Returns:
        1 if something is significantly worse, else 0: the exit status.

    Raises:
        UserError: A folder is not a run with scores, or the runs share nothing.
        ValueError: An unknown correction.
    """
    found = compared(old, new, correction=correction)
    for note in found.notes:
        print(f"note  {note}")
    for change in found.changes:
        print(change)
    gains = sum(change.verdict == "gain" for change in found.changes)
    print(
        f"{len(found.losses)} losses, {gains} gains and "
        f"{len(found.changes) - gains - len(found.losses)} without a significant change, over "
        f"{found.images} images (paired 95 % bootstrap intervals and sign-flip tests, corrected "
        f"by {correction} for {len(found.changes)} comparisons; in {found.unchanged} more nothing "
        "differs)"
    )
    return 1 if found.losses else 0


def compared(old: Path, new: Path, *, correction: str = "holm") -> Comparison:
    """Compares two runs; see `compare`."""
    runs = load_run(old), load_run(new)
    rows = [_identified(run.scores) for run in runs]
    both_have = rows[0]["source"][rows[0]["source"].isin(rows[1]["source"])]
    before, after = (image_values(found[found["source"].isin(both_have)]) for found in rows)
    _check_directions(*runs)
    directions = runs[0].scores.groupby("metric")["direction"].first().to_dict()
    shared = [
        (metric, explainer)
        for metric in before
        for explainer in before[metric]
        if metric in after and explainer in after[metric]
    ]
    images = _images(before) & _images(after)
    if not shared or not images:
        raise UserError(
            f"{old} and {new} have no image, explainer and metric in common; compare runs of the "
            "same data"
        )
    columns: dict[str, pd.Series] = {}
    facts: list[tuple[str, str, str]] = []
    unchanged = 0
    for metric, explainer in shared:
        both = before[metric].index.intersection(after[metric].index)
        values = [frame[metric].loc[both, explainer] for frame in (before, after)]
        there = [series.notna().astype(float) for series in values]
        for name, direction, series in (
            (metric, directions[metric], values),
            (f"{metric}: {HAS_VALUE}", "higher", there),
        ):
            # Without a single difference nothing can be significant, and to count it as a
            # comparison would only weaken the others (Tarone, 1990).
            if not _differ(*series):
                unchanged += 1
                continue
            columns |= {f"old{len(facts)}": series[0], f"new{len(facts)}": series[1]}
            facts.append((str(explainer), name, direction))
    changes = _tested(facts, columns, correction)
    return Comparison(changes, list(_notes(runs, shared)), len(images), unchanged)


def _differ(old: pd.Series, new: pd.Series) -> bool:
    """Whether the values differ on any image that both have one for."""
    difference = new.to_numpy(dtype=float) - old.to_numpy(dtype=float)
    return bool(difference[np.isfinite(difference)].any())


def _tested(
    facts: list[tuple[str, str, str]], columns: dict[str, pd.Series], correction: str
) -> list[Change]:
    aligned = pd.DataFrame(columns)
    values = {str(name): aligned[name].to_numpy(dtype=float) for name in aligned}
    pairs = compare_pairs(
        values, [(f"new{i}", f"old{i}") for i in range(len(facts))], correction=correction
    )
    changes = []
    for i, (fact, pair) in enumerate(zip(facts, pairs, strict=True)):
        both = aligned[[f"old{i}", f"new{i}"]].dropna()
        changes.append(Change(*fact, both[f"old{i}"].mean(), both[f"new{i}"].mean(), pair))
    return sorted(changes, key=lambda change: ("loss", "gain", "").index(change.verdict))


def _identified(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores with items told apart by their data, image and class, and not by number."""
    names = scores[["dataset", "split", "source", "class", "image"]].astype(str)
    return scores.assign(
        source=names[["dataset", "split", "source", "class"]].agg("/".join, axis=1),
        image=names[["dataset", "split", "image"]].agg("/".join, axis=1),
    )


def _images(values: dict[str, pd.DataFrame]) -> set[str]:
    return {str(source) for frame in values.values() for source in frame.index}


def _check_directions(old: Run, new: Run) -> None:
    found = [run.scores.groupby("metric")["direction"].first() for run in (old, new)]
    for metric in found[0].index.intersection(found[1].index):
        if found[0][metric] != found[1][metric]:
            raise UserError(
                f"{metric}: {found[0][metric]} is better in {old.folder}, but {found[1][metric]} "
                f"in {new.folder}; score one of them again"
            )


def _notes(runs: tuple[Run, Run], shared: Iterable[tuple[str, str]]) -> Iterable[str]:
    old, new = runs
    for field in SUBJECT:
        if old.subject[field] != new.subject[field]:
            yield f"the {field} differs: {old.subject[field]} and {new.subject[field]}"
    for name in sorted({*old.versions, *new.versions}):
        versions = [run.versions.get(name, "none") for run in runs]
        if versions[0] != versions[1]:
            yield f"the version of {name} differs: {versions[0]} and {versions[1]}"
    known = set(shared)
    sources = [set(_identified(run.scores)["source"]) for run in runs]
    for age, run, mine, other in (("old", old, 0, 1), ("new", new, 1, 0)):
        for metric, explainer in sorted(
            set(run.scores.groupby(["metric", "explainer"]).groups) - known
        ):
            yield f"only in the {age} run: {explainer}, {metric}"
        if sources[mine] - sources[other]:
            yield f"only in the {age} run: {len(sources[mine] - sources[other])} images"
    configs = [run.scores.groupby(["metric", "explainer"])["config"].first() for run in runs]
    changed = [pair for pair in sorted(known) if configs[0][pair] != configs[1][pair]]
    if changed:
        listed = ", ".join(f"{explainer} ({metric})" for metric, explainer in changed[:5])
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        yield f"the configuration differs: {listed}{more}"
