"""Compares two runs image by image: is anything significantly worse than it was?

Both the values and whether there is a value at all are compared, so that an explainer cannot win by
failing on the images that it is bad at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmarks.explanations.analysis.names import number
from benchmarks.explanations.analysis.run import SUBJECT, Run, load_run
from benchmarks.explanations.analysis.statistics import Pair, compare_pairs
from benchmarks.explanations.analysis.summaries import image_values
from captum_excon.errors import UserError


@dataclass(frozen=True)
class Change:
    """The change of one explainer's metric over the images of both runs.

    Attributes:
        explainer: Whose values.
        metric: Of the values, or of whether they exist.
        direction: ``"higher"`` or ``"lower"`` is better.
        old: Mean over the images of both runs.
        new: The same of the later run.
        pair: New minus old, with its interval and its p value, corrected for all changes.
    """

    explainer: str
    metric: str
    direction: str
    old: float
    new: float
    pair: Pair

    @property
    def verdict(self) -> str:
        """``"loss"``, ``"gain"``, or ``"same"`` if neither is significant."""
        if not self.pair.significant:
            return "same"
        return "gain" if (self.pair.difference.mean > 0) == (self.direction == "higher") else "loss"

    def __str__(self) -> str:
        difference = self.pair.difference
        return (
            f"{self.verdict}  {self.explainer}, {self.metric} ({self.direction} is "
            f"better): {number(self.old)} -> {number(self.new)}, difference "
            f"{number(difference.mean)} [{number(difference.low)} to {number(difference.high)}], "
            f"p = {number(self.pair.p)}, n = {difference.count}"
        )


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`; as text, a line for each note and change, and a summary.

    Attributes:
        changes: What both runs have and what differs on any image, losses first.
        notes: What else differs between the runs: models, explainers, images.
        images: The number of images that both runs have.
        unchanged: The number of comparisons without a difference on any image.
    """

    changes: list[Change]
    notes: list[str]
    images: int
    unchanged: int

    @property
    def losses(self) -> list[Change]:
        """The changes that are significantly for the worse."""
        return [change for change in self.changes if change.verdict == "loss"]

    def __str__(self) -> str:
        gains, same = ([c.verdict for c in self.changes].count(v) for v in ("gain", "same"))
        total = (
            f"{len(self.losses)} losses, {gains} gains and {same} without a significant change, "
            f"over {self.images} images (paired 95 % bootstrap intervals and sign-flip tests, "
            f"corrected by holm for {len(self.changes)} comparisons; in {self.unchanged} more "
            "nothing differs)"
        )
        notes = (f"note  {note}" for note in self.notes)
        return "\n".join([*notes, *map(str, self.changes), total])


def compare(old: Path, new: Path) -> Comparison:
    """Compares two runs of the same images.

    Raises:
        UserError: A folder is not a run with scores, or the runs share nothing.
    """
    runs = load_run(old), load_run(new)
    rows = [_identified(run.scores) for run in runs]
    common = set(rows[0]["source"]) & set(rows[1]["source"])
    before, after = (image_values(found[found["source"].isin(common)]) for found in rows)
    directions = _directions(*runs)
    shared = [
        (metric, str(explainer))
        for metric in before
        if metric in after
        for explainer in before[metric].columns.intersection(after[metric].columns, sort=False)
    ]
    if not shared:
        raise UserError(
            f"{old} and {new} have no image, explainer and metric in common; compare runs of the "
            "same data"
        )
    columns: dict[str, pd.Series] = {}
    facts: list[tuple[str, str, str]] = []
    for metric, explainer in shared:
        both = before[metric].index.intersection(after[metric].index)
        values = [frame[metric].loc[both, explainer] for frame in (before, after)]
        there = [series.notna().astype(float) for series in values]
        for name, direction, (was, now) in (
            (metric, directions[metric], values),
            (f"{metric}: share with a value", "higher", there),
        ):
            # Without a single difference nothing can be significant, and to count it as a
            # comparison would only weaken the others (Tarone, 1990).
            if (now - was).fillna(0).any():
                columns |= {f"old{len(facts)}": was, f"new{len(facts)}": now}
                facts.append((explainer, name, direction))
    images = {*pd.concat(before).index.unique(1)} & {*pd.concat(after).index.unique(1)}
    changes = _tested(facts, pd.DataFrame(columns))
    unchanged = 2 * len(shared) - len(facts)
    return Comparison(changes, list(_notes(runs, shared)), len(images), unchanged)


def _tested(facts: list[tuple[str, str, str]], aligned: pd.DataFrame) -> list[Change]:
    values = {str(name): aligned[name].to_numpy(dtype=float) for name in aligned}
    pairs = compare_pairs(values, [(f"new{i}", f"old{i}") for i in range(len(facts))])
    changes = []
    for i, (fact, pair) in enumerate(zip(facts, pairs, strict=True)):
        was, now = aligned[[f"old{i}", f"new{i}"]].dropna().mean()
        changes.append(Change(*fact, was, now, pair))
    return sorted(changes, key=lambda change: ("loss", "gain", "same").index(change.verdict))


def _identified(scores: pd.DataFrame) -> pd.DataFrame:
    """Tells items apart by their data, image and class instead of by number."""
    names = scores[["dataset", "split", "source", "class", "image"]].astype(str)
    return scores.assign(
        source=names[["dataset", "split", "source", "class"]].agg("/".join, axis=1),
        image=names[["dataset", "split", "image"]].agg("/".join, axis=1),
    )


def _directions(old: Run, new: Run) -> dict[str, str]:
    was, now = (run.scores.groupby("metric")["direction"].first() for run in (old, new))
    for metric in was.index.intersection(now.index):
        if was[metric] != now[metric]:
            raise UserError(
                f"{metric}: {was[metric]} is better in {old.folder}, but {now[metric]} in "
                f"{new.folder}; score one of them again"
            )
    return dict(was)


def _notes(runs: tuple[Run, Run], shared: Iterable[tuple[str, str]]) -> Iterable[str]:
    old, new = runs
    for field in SUBJECT:
        if old.subject[field] != new.subject[field]:
            yield f"the {field} differs: {old.subject[field]} and {new.subject[field]}"
    for name in sorted({*old.versions, *new.versions}):
        was, now = (run.versions.get(name, "none") for run in runs)
        if was != now:
            yield f"the version of {name} differs: {was} and {now}"
    known = set(shared)
    sources = [set(_identified(run.scores)["source"]) for run in runs]
    configs = [run.scores.groupby(["metric", "explainer"])["config"].first() for run in runs]
    for age, mine, other in (("old", 0, 1), ("new", 1, 0)):
        for metric, explainer in sorted(set(configs[mine].index) - known):
            yield f"only in the {age} run: {explainer}, {metric}"
        if alone := sources[mine] - sources[other]:
            yield f"only in the {age} run: {len(alone)} images"
    changed = [pair for pair in sorted(known) if configs[0][pair] != configs[1][pair]]
    if changed:
        listed = ", ".join(f"{explainer} ({metric})" for metric, explainer in changed[:5])
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        yield f"the configuration differs: {listed}{more}"
