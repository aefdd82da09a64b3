"""Estimates the cost of a run: its first item is explained and scored, the rest multiplication.

Nothing is lost by it: the maps and records are those that the stages would have made.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from benchmarks.explanations.stages.common import Shard
from benchmarks.explanations.stages.explain import explain
from benchmarks.explanations.stages.plan import OpenRun
from benchmarks.explanations.stages.progress_mode import ProgressMode
from benchmarks.explanations.stages.records import Record, read_records
from benchmarks.explanations.stages.score import score


def estimate_cost(run: OpenRun, mode: ProgressMode = "quiet") -> str:
    """Explains and scores the first item, unless that is done, and estimates the cost of all.

    Returns:
        A table of forward and backward rows and seconds, a line for each explainer and metric, and
        the time of all items.

    Raises:
        UserError: An explainer, a metric or an option is wrong.
    """
    plan = run.plan
    first = Shard(0, len(plan.items))
    explain(run, first, mode)
    score(run, first, mode)
    wanted = {config for config, _, _ in plan.hashes()}
    records = read_records(plan.folder / "records")
    return cost_table(
        [r for r in records if r["item"] == 0 and r["config"] in wanted], len(plan.items)
    )


def cost_table(records: Iterable[Record], items: int) -> str:
    """Adds up the records of one item, and multiplies the time by the number of items.

    The rows are what an explainer or metric would need alone; metrics that share passes share the
    time as well.

    Example:
        >>> record = {"stage": "explain", "explainer": "rise", "metric": "explain",
        ...           "forward_rows": 1000, "backward_rows": 0, "seconds": 36.0}
        >>> print(cost_table([record], 100))
        one item                       forward backward seconds
        explain rise                      1000        0    36.0
        all 100 items: 1 h 00 min of one process
    """
    columns = ["forward_rows", "backward_rows", "seconds"]
    costs: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0])
    for record in records:
        what = record["explainer"] if record["stage"] == "explain" else record["metric"]
        cost = costs[f"{record['stage']} {what}"]
        cost[:] = (total + record[column] for total, column in zip(cost, columns, strict=True))
    lines = [f"{'one item':30s} forward backward seconds"]
    lines += [f"{name:30s} {f:7d} {b:8d} {s:7.1f}" for name, (f, b, s) in costs.items()]
    whole = items * sum(seconds for *_, seconds in costs.values())
    lines.append(f"all {items} items: {_duration(whole)} of one process")
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{seconds / 60:.1f} min"
