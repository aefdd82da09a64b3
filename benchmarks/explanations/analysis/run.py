"""Reads a run's records as frames, and checks that they are those of one benchmark."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.explanations.stages.explain import map_path
from benchmarks.explanations.stages.plan import EXPLAIN
from benchmarks.explanations.stages.records import read_records
from captum_excon._messages import one_line
from captum_excon.errors import UserError

SUBJECT = ("dataset", "split", "model", "weights")
_FIELDS = (
    *("stage", "item", "source", "image", "class", "class_name", "control", "label", "explainer"),
    *("layers", "metric", "value", "direction", "status", "message", "seed", "config", "curve"),
    *("fractions", "seconds", "forward_rows", "backward_rows", "peak_mib", "versions", *SUBJECT),
)


@dataclass(frozen=True)
class Run:
    """The content of a run folder.

    Attributes:
        folder: The run.
        scores: One row per item, explainer, metric and seed.
        explained: One row per item, explainer and seed: what the maps cost.
        items: How many items the plan has.
        controls: The explainers that are controls: they do not explain the model on that image.
        subject: Data set, split, model and weights.
        versions: Of the software, by name, and the ``machine``.
        config: The configuration as it was written, if it is there.
        configs: The hash of each explainer's configuration, where the plan tells it.
    """

    folder: Path
    scores: pd.DataFrame
    explained: pd.DataFrame
    items: int
    controls: frozenset[str]
    subject: dict[str, str]
    versions: dict[str, str]
    config: str | None
    configs: dict[str, str]

    def maps(self, explainer: str, item: int) -> Path:
        """Where the map of an explainer lies."""
        if explainer in self.configs:
            return map_path(self.folder, self.configs[explainer], item)
        return self.folder / "maps" / explainer / f"{item}.npy"


def load_run(folder: Path) -> Run:
    """Reads a run.

    Records of an earlier configuration or label, which stay in the files, are left out where the
    plan lists the ``hashes`` that count.

    Raises:
        UserError: There is no plan, no score, or the records are of several benchmarks.
    """
    plan = _plan(folder)
    try:
        found = read_records(folder / "records")
    except ValueError as error:
        raise UserError(one_line(error)) from error
    planned = [(config, name, metric) for config, name, metric in plan.get("hashes", ())]
    if planned:
        wanted = set(planned)
        found = [r for r in found if (r["config"], r["explainer"], r["metric"]) in wanted]
    records = pd.DataFrame(found, columns=list(_FIELDS))
    scores = records[records["stage"] == "score"].reset_index(drop=True)
    explained = records[records["stage"] == "explain"].reset_index(drop=True)
    if scores.empty:
        raise UserError(f"{folder} has no scores yet; run the explain and score stages first")
    _check_one_benchmark(folder, scores)
    config = folder / "config.yaml"
    return Run(
        folder,
        scores.assign(
            value=scores["value"].astype(float),
            image=scores["image"].astype(object).where(scores["image"].notna(), scores["source"]),
        ),
        explained,
        len(plan["items"]),
        frozenset(records.loc[records["control"].astype(bool), "explainer"]),
        {field: str(scores[field].iloc[0]) for field in SUBJECT},
        _versions(records),
        config.read_text(encoding="utf-8") if config.exists() else None,
        # Of the first seed, where there are several.
        {name: config for config, name, metric in reversed(planned) if metric == EXPLAIN},
    )


def _plan(folder: Path) -> dict[str, Any]:
    path = folder / "plan.json"
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        len(plan["items"])
        [(config, name, metric) for config, name, metric in plan.get("hashes", ())]
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} is not a run: it has no plan.json; run the plan stage"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is not a plan as this version writes it; run the plan stage again"
        ) from error
    return dict(plan)


def _check_one_benchmark(folder: Path, scores: pd.DataFrame) -> None:
    subjects = scores[list(SUBJECT)].drop_duplicates()
    if len(subjects) > 1:
        listed = "; ".join(", ".join(map(str, row)) for row in subjects.itertuples(index=False))
        raise UserError(
            f"{folder} mixes records of several data sets or models ({listed}); one run folder "
            "holds one of each: start another folder"
        )
    for (explainer, metric, _), group in scores.groupby(["explainer", "metric", "seed"]):
        if group["config"].nunique() > 1:
            raise UserError(
                f"{folder} mixes records of {explainer} and {metric} under several configurations; "
                "plan again, so that the plan says which count, or start another folder"
            )
    for metric, group in scores.groupby("metric"):
        if not set(group["direction"]) <= {"higher", "lower"} or group["direction"].nunique() > 1:
            raise UserError(
                f"{folder}: the records of {metric} must all say the direction 'higher' or all "
                f"'lower', but found {sorted(map(str, set(group['direction'])))}"
            )


def _versions(records: pd.DataFrame) -> dict[str, str]:
    """Every version that occurs: more than one of a name if the run changed machines."""
    found: dict[str, set[str]] = {}
    for versions in records["versions"]:
        for name, version in (versions or {}).items():
            found.setdefault(str(name), set()).add(str(version))
    return {name: ", ".join(sorted(found[name])) for name in sorted(found)}
