"""The third stage: every metric of every map, from the maps on disk.

The maps of an item are read and post-processed once, and all of them are scored together, metric by
metric. What a map scores depends neither on the others nor on the shard.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from captum.attr import LayerAttribution
from torch import Tensor

from benchmarks.explanations.methods.explainers import Case
from benchmarks.explanations.metrics.registry import Maps, Metric, make_metric
from benchmarks.explanations.stages.common import (
    Outcome,
    Records,
    Shard,
    common_fields,
    failure,
    read_stage,
)
from benchmarks.explanations.stages.explain import case_of, read_map, record_key
from benchmarks.explanations.stages.pass_counter import CountedModel, Profile, measured
from benchmarks.explanations.stages.plan import OpenRun, Plan
from benchmarks.explanations.stages.progress_mode import ProgressMode, progress
from benchmarks.explanations.stages.records import Record, key
from captum_excon.errors import UserError

STAGE = "score"


class Task(NamedTuple):
    """One value to be found: the explainer's label, the metric, and the fields known beforehand."""

    label: str
    metric: Metric
    fields: Record


def score(
    run: OpenRun, shard: Shard, mode: ProgressMode = "quiet", *, profile: Profile | None = None
) -> Outcome:
    """Scores the maps of a shard's items and skips what is finished.

    A metric that raises gives a record for each map that says so, and everything else goes on. A
    map that could not be made has no scores; its record of explaining says why.

    The ``profile`` is filled in with where the time went.

    Raises:
        UserError: Maps are missing, or a metric or an option is wrong.
    """
    plan = run.plan
    metrics = [make_metric(choice) for choice in plan.config.metrics]
    explained = _explained(plan, shard)
    counted = CountedModel(run.model.module, timed=profile is not None)
    profile = profile or Profile()
    total = sum(map(len, explained.values())) * len(metrics)
    with (
        profile.whole(counted),
        Records(plan, STAGE, shard) as records,
        progress(STAGE, total, "value", mode) as bar,
    ):
        for number, found in explained.items():
            tasks = list(_tasks(plan, found, metrics, number, records))
            bar.update(len(found) * len(metrics) - len(tasks))
            if not tasks:
                continue
            with profile.part("reading items and maps", counted):
                common = common_fields(plan, plan.items[number])
                labels = list(dict.fromkeys(task.label for task in tasks))
                configs = {record["explainer"]: record["config"] for record in found}
                case = case_of(run.items[number])
                maps = Maps(
                    counted, *case[1:], _read_maps(plan, [configs[n] for n in labels], case),
                    run.model.black(), plan.config.seed, plan.config.batch_size,
                )  # fmt: skip
            groups = defaultdict(list)  # of tasks that one computation does
            for task in tasks:
                groups[task.metric.group].append(task)
            for group in groups.values():
                with profile.part(", ".join(sorted(group[0].metric.family.directions)), counted):
                    scored = list(_score(group, labels, maps, counted))
                for record in scored:
                    records.add({**common, **record})
                bar.update(len(scored))
    return records.outcome


def _explained(plan: Plan, shard: Shard) -> dict[int, list[Record]]:
    """The records of the maps of each item, in the config's order of explainers.

    Raises:
        UserError: Some are missing.
    """
    records = {key(r): r for r in read_stage(plan.folder / "records", "explain")}
    explained: dict[int, list[Record]] = {}
    missing = 0
    for number in shard.numbers(len(plan.items)):
        keys = [key(record_key(plan, choice, number)) for choice in plan.config.explainers]
        missing += sum(k not in records for k in keys)
        found = [records[k] for k in keys if k in records]
        explained[number] = [record for record in found if record["status"] == "ok"]
    if missing:
        raise UserError(f"{plan.folder}: {missing} maps are missing; run the explain stage first")
    return explained


def _tasks(
    plan: Plan, explained: Sequence[Record], metrics: Sequence[Metric], number: int,
    records: Records,
) -> Iterator[Task]:  # fmt: skip
    """The unfinished tasks of an item; finished ones are counted."""
    config = plan.config
    choices = {choice.label: choice for choice in config.explainers}
    for metric in metrics:
        for mapped in explained:
            label = mapped["explainer"]
            fields = {
                "stage": STAGE,
                "item": number,
                "explainer": label,
                "metric": metric.choice.label,
                "seed": config.seed,
                "config": config.metric_hash(choices[label], metric.choice),
            }
            if not records.finished(fields):
                fields |= {"control": mapped["control"], "layers": mapped["layers"]}
                yield Task(label, metric, {**fields, "direction": metric.direction})


def _read_maps(plan: Plan, configs: Sequence[str], case: Case) -> Tensor:
    """The maps of one item after the post-processing, (E, 1, H, W)."""
    size, negatives = (case.image.shape[2], case.image.shape[3]), plan.config.protocol.negatives
    raw = [read_map(plan.folder, config, case.number) for config in configs]
    return torch.stack([processed(m, size, negatives) for m in raw]).to(case.image.device)


def processed(raw: Tensor, size: tuple[int, int], negatives: str) -> Tensor:
    """Returns a raw map (1, h, w) as metrics get it, (1, H, W): enlarged linearly, and its negative
    part cut off ("clamp"), made positive ("abs") or kept.

    Example:
        >>> processed(torch.tensor([[[-1.0, 3.0]]]), (1, 2), "clamp")
        tensor([[[0., 3.]]])
    """
    if tuple(raw.shape[1:]) != size:
        raw = LayerAttribution.interpolate(raw[None], size, "bilinear")[0]
    if negatives == "keep":
        return raw
    return raw.abs() if negatives == "abs" else raw.clamp(min=0)


def _score(
    tasks: Sequence[Task], labels: Sequence[str], maps: Maps, model: CountedModel
) -> Iterator[Record]:
    """The records of the tasks of one group."""
    wanted = list(dict.fromkeys(task.label for task in tasks))
    chosen = maps.only([labels.index(label) for label in wanted])
    metric = tasks[0].metric
    failed: Record | None = None
    with measured(model, maps.image.device) as cost:
        try:
            scores, reasons = metric.compute(chosen), metric.reasons(chosen)
        except Exception as error:
            failed = failure(error)
    if failed is not None and len(wanted) > 1:
        # The others need not suffer from one map.
        for label in wanted:
            alone = [task for task in tasks if task.label == label]
            yield from _score(alone, labels, maps, model)
        return
    for task in tasks:
        shared = {
            **task.fields,
            "seconds": cost.seconds / len(wanted),
            "backward_rows": 0,
            "peak_mib": cost.peak_mib,
        }
        if failed is not None:
            yield {**shared, **failed, "value": None, "forward_rows": cost.forward_rows}
            continue
        found, at = scores[task.metric.choice.name], wanted.index(task.label)
        value = float(found.values[at])
        # `value != value` is NaN.
        status = "ok" if value == value else f"nan:{reasons[at] or 'undefined'}"
        record = {**shared, "value": value, "status": status, "forward_rows": found.rows}
        if found.curves is not None:
            record |= {"curve": found.curves[at].tolist(), "fractions": found.fractions}
        yield record
