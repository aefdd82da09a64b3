"""From records to figures: means with intervals, paired tests, rates, costs and agreement.

An image counts once: its value is the mean over its items (several classes of one image) and over
seeds. Intervals and tests are over images; the spread over seeds is a figure of its own.

The best method is chosen by its mean over the images that all methods have a value for, since
others may have failed on the hard ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from scipy import stats

from benchmarks.explanations.analysis import names
from benchmarks.explanations.analysis.run import Run
from benchmarks.explanations.analysis.statistics import (
    Pair,
    Values,
    compare_pairs,
    mean_interval,
    metric_agreement,
)

BEST = "best"
TIED = "tied"
UNBEATEN = "unbeaten"
PAIR_COLUMNS = "metric direction best explainer control images difference low high p significant"


@dataclass(frozen=True)
class Analysis:
    """Everything that the report shows, as frames.

    Attributes:
        summary: One row per metric and explainer: ``images`` with a value, ``mean``, ``low``,
            ``high``, the rates ``degenerate``, ``errors`` and ``missing`` over the plan's items,
            and ``mark``: ``best`` (significantly better than every other method, on no fewer
            images than any), ``tied`` (the best mean, or not shown to be worse than it),
            ``unbeaten`` (a control that the best method does not significantly beat), or nothing.
        pairs: One row per metric and explainer: the best method minus it, paired by image.
        costs: One row per explainer.
        seeds: One row per metric and explainer with more than one seed.
        failures: One row per metric, explainer and status other than ``ok``.
        classes: One row per explainer and kind of pointing game: the mean of the classes' means.
        agreement: Metric × metric, Spearman's rank correlation; None with one metric or method.
        controls: The explainers that are controls.
    """

    summary: pd.DataFrame
    pairs: pd.DataFrame
    costs: pd.DataFrame
    seeds: pd.DataFrame
    failures: pd.DataFrame
    classes: pd.DataFrame
    agreement: pd.DataFrame | None
    controls: frozenset[str]

    def metrics(self) -> list[str]:
        """All metrics, as the families list them."""
        return sorted(self.summary["metric"].unique(), key=names.order)


def image_values(scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """For each metric the values, images × explainers, NaN where there is none."""
    return {
        str(metric): group.groupby(["image", "explainer"])["value"].mean().unstack("explainer")
        for metric, group in scores.groupby("metric")
    }


def analyse(run: Run) -> Analysis:
    """Computes all figures of a run."""
    scores = run.scores
    values = image_values(scores)
    directions = scores.groupby("metric")["direction"].first().to_dict()
    found = [
        _one_metric(metric, frame, directions[metric], scores[scores["metric"] == metric], run)
        for metric, frame in values.items()
    ]
    return Analysis(
        pd.concat([summary for summary, _ in found], ignore_index=True),
        pd.concat([pairs for _, pairs in found], ignore_index=True),
        _costs(run),
        _seeds(scores),
        _failures(run),
        _classes(run),
        _agreement(values, directions, run.controls),
        run.controls,
    )


def _one_metric(
    metric: str, frame: pd.DataFrame, direction: str, scores: pd.DataFrame, run: Run
) -> tuple[pd.DataFrame, pd.DataFrame]:
    # An explainer without a map, or whose maps wait for the score stage, has no scores.
    frame = frame.reindex(columns=sorted({*frame.columns, *run.explained["explainer"]}))
    columns = {str(name): frame[name].to_numpy(dtype=float) for name in frame}
    intervals = {name: mean_interval(column) for name, column in columns.items()}
    sign = 1 if direction == "higher" else -1
    methods = [n for n in columns if n not in run.controls and intervals[n].count]
    shared = frame[methods].dropna()
    means = (frame if shared.empty else shared).mean()
    best = max(methods, key=lambda name: sign * means[name], default=None)
    pairs = [] if best is None else _against(best, columns, run.controls)
    marks = {} if best is None else _marks(best, pairs, sign, methods, run.controls)
    counts = [intervals[name].count for name in methods]
    if best is not None and marks.get(best) == BEST and intervals[best].count < max(counts):
        marks[best] = TIED
    failed = run.explained["status"].str.startswith("error")
    outcomes = pd.concat([scores, run.explained[failed]])
    seeds = outcomes.groupby("explainer")["seed"].nunique()
    expected = {name: run.items * seeds.get(name, 1) for name in columns}
    kinds = outcomes["status"].str.extract("^(nan|error)", expand=False).fillna("ok")
    counts = pd.crosstab(outcomes["explainer"], kinds).reindex(columns=["ok", "nan", "error"])
    counts = counts.reindex(list(columns)).fillna(0)
    rows = [
        {
            "metric": metric,
            "direction": direction,
            "explainer": name,
            "control": name in run.controls,
            "images": interval.count,
            "mean": interval.mean,
            "low": interval.low,
            "high": interval.high,
            "degenerate": counts["nan"][name] / expected[name],
            "errors": counts["error"][name] / expected[name],
            "missing": max(0.0, 1 - counts.loc[name].sum() / expected[name]),
            "mark": marks.get(name, ""),
        }
        for name, interval in intervals.items()
    ]
    differences = [
        (metric, direction, pair.first, pair.second, pair.second in run.controls,
         pair.difference.count, pair.difference.mean, pair.difference.low, pair.difference.high,
         pair.p, pair.significant)
        for pair in pairs
    ]  # fmt: skip
    return pd.DataFrame(rows), pd.DataFrame(differences, columns=PAIR_COLUMNS.split())


def _against(best: str, columns: dict[str, Values], controls: frozenset[str]) -> list[Pair]:
    """The best method against each other one: methods are one family of tests, controls another."""
    others = [name for name in columns if name != best]
    families = (
        [(best, name) for name in others if (name in controls) is control]
        for control in (False, True)
    )
    return [pair for family in families if family for pair in compare_pairs(columns, family)]


def _marks(
    best: str, pairs: list[Pair], sign: int, methods: list[str], controls: frozenset[str]
) -> dict[str, str]:
    beaten = {p.second for p in pairs if p.significant and sign * p.difference.mean > 0}
    unbeaten = [p.second for p in pairs if p.second not in beaten and p.difference.count]
    rivals = [name for name in unbeaten if name not in controls]
    marks = {n: UNBEATEN for n in unbeaten if n in controls and n != names.TRUTH}
    if len(methods) > 1:
        marks |= dict.fromkeys(rivals, TIED) | {best: TIED if rivals else BEST}
    return marks


def _costs(run: Run) -> pd.DataFrame:
    costs = ["seconds", "forward_rows", "backward_rows", "peak_mib"]
    done = run.explained["status"] == "ok"
    failed = run.explained["status"].str.startswith("error")
    measured = run.explained[costs].astype(float).where(done)
    frame = run.explained.assign(**measured, done=done.astype(int), failed=failed.astype(int))
    return frame.groupby("explainer", as_index=False).agg(
        control=("explainer", lambda names: names.iloc[0] in run.controls),
        layers=("layers", lambda found: ", ".join(next(iter(found.dropna()), []))),
        maps=("done", "sum"),
        errors=("failed", "sum"),
        seconds=("seconds", "median"),
        slowest=("seconds", "max"),
        forward_rows=("forward_rows", "mean"),
        backward_rows=("backward_rows", "mean"),
        peak_mib=("peak_mib", "max"),
    )


def _seeds(scores: pd.DataFrame) -> pd.DataFrame:
    means = scores.groupby(["metric", "explainer", "seed"])["value"].mean()
    found = means.groupby(["metric", "explainer"]).agg(seeds="count", mean="mean", sd="std")
    return found[found["seeds"] > 1].reset_index()


def _agreement(
    values: dict[str, pd.DataFrame], directions: dict[str, str], controls: frozenset[str]
) -> pd.DataFrame | None:
    """Do two metrics prefer the same methods on the same image? Controls do not take part."""
    ranked = {}
    methods = sorted({str(n) for frame in values.values() for n in frame if n not in controls})
    images = sorted({image for frame in values.values() for image in frame.index})
    for metric in sorted(values, key=names.order):
        frame = values[metric].reindex(index=images, columns=methods)
        oriented = frame.to_numpy(dtype=float) * (1 if directions[metric] == "higher" else -1)
        # Ranks within an image leave out how easy the image is, which no method can help.
        ranked[metric] = stats.rankdata(oriented, axis=1, nan_policy="omit").ravel()
    if len(ranked) < 2 or len(methods) < 2:
        return None
    return metric_agreement(ranked)


def _failures(run: Run) -> pd.DataFrame:
    records = pd.concat([run.explained, run.scores])
    failed = records[records["status"] != "ok"]
    columns = ["explainer", "metric", "status"]
    found = failed.groupby(columns).agg(records=("item", "size"), message=("message", "first"))
    # What pandas makes of a missing message is NaN.
    return found.reset_index().astype(object).where(lambda frame: frame.notna(), None)


def _classes(run: Run) -> pd.DataFrame:
    games = run.scores[run.scores["metric"].str.startswith("pointing-game")]
    means = games.groupby(["metric", "explainer", "class"])["value"].mean()
    found = means.groupby(["metric", "explainer"]).agg(classes="count", mean="mean").reset_index()
    found.insert(2, "control", found["explainer"].isin(run.controls))
    return found
