"""The first stage: which items, of which data, explained for which class, by which model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.explanations.configs.settings import Config, ImagesData, load_config
from benchmarks.explanations.data.items import Items, PlannedItem
from benchmarks.explanations.data.readers import open_source
from benchmarks.explanations.data.selection import select_items
from benchmarks.explanations.methods.explainers import GROUND_TRUTH, Explainer
from benchmarks.explanations.metrics.registry import make_metric
from benchmarks.explanations.stages.model import open_model
from captum_excon._files import check_writable, written_whole
from captum_excon._messages import one_line
from captum_excon._provenance import weights_hash
from captum_excon.errors import UserError
from captum_excon.models import Model

EXPLAIN = "explain"  # In place of a metric, in what tells of a map.


@dataclass(frozen=True)
class Plan:
    """The plan of a run folder.

    Attributes:
        folder: Holds ``config.yaml`` and ``plan.json``.
        config: The benchmark.
        dataset: The data's name.
        split: The part of it.
        weights: The first 16 digits of the model's `weights_hash`.
        items: In their order.
        skipped: How many rows of the data were passed over, by reason.
        seeds: All with which the folder was planned, including the config's.
    """

    folder: Path
    config: Config
    dataset: str
    split: str
    weights: str
    items: tuple[PlannedItem, ...]
    skipped: Mapping[str, int]
    seeds: tuple[int, ...]

    def hashes(self, seed: int | None = None) -> list[tuple[str, str, str]]:
        """Hash, explainer and metric of all that belongs to this plan and one of its seeds.

        Other records are old. The seed is the config's by default.
        """
        config = self.config if seed is None else self.config.model_copy(update={"seed": seed})
        found = [(config.explainer_hash(x), x.label, EXPLAIN) for x in config.explainers]
        for explainer in config.explainers:
            for metric in config.metrics:
                found.append((config.metric_hash(explainer, metric), explainer.label, metric.label))
        return found

    def summary(self) -> str:
        """A few lines for the terminal."""
        asked = self.config.data.count
        few = f" of {asked} asked for" if len(self.items) < asked else ""
        lines = [
            f"{len(self.items)} items{few} of {self.dataset} ({self.split}), "
            f"{len({item.label for item in self.items})} classes, model "
            f"{self.config.model.name} (weights {self.weights})",
            f"{len(self.config.explainers)} explainers × {len(self.config.metrics)} metrics",
        ]
        lines += [f"passed over: {count} {reason}" for reason, count in self.skipped.items()]
        return "\n".join(lines)


def check_choices(config: Config) -> None:
    """Checks before hours of work that the stages can do what the config asks for.

    Raises:
        UserError: There is no such explainer, metric or option, or the data lack the annotation
            that one of them needs.
    """
    for explainer in config.explainers:
        Explainer(explainer)
    metrics = [make_metric(choice) for choice in config.metrics]
    needing = [metric.choice.label for metric in metrics if metric.family.truth]
    needing += [x.label for x in config.explainers if x.name == GROUND_TRUTH]
    if isinstance(config.data, ImagesData) and needing:
        raise UserError(
            f"data.kind=images has no annotation, which {', '.join(needing)} need: leave these out "
            "of metrics and explainers in a YAML file for --config, or make mosaics, which need "
            "none, by --set data.kind=grid --set protocol.target=label"
        )


def make_plan(
    folder: Path, config: Config, model: Model | None = None, *, progress: bool = True
) -> Plan:
    """Plans a run in a new folder, or takes up the plan that is in the folder.

    Another list of explainers or metrics, and other options of theirs, leave the items as they are.
    A ``model`` saves opening the config's again.

    Raises:
        UserError: The folder holds the plan of other items or weights, the data or the model cannot
            be opened, or no item is suitable.
    """
    model = model or open_model(config)
    weights = weights_hash(model.module)[:16]
    file = folder / "plan.json"
    check_writable(folder)
    if file.exists():
        old = _read(file)
        if (old["items_hash"], old["weights"]) != (config.items_hash, weights):
            raise UserError(
                f"{folder} is the run of other data, another model or another protocol; choose "
                "another run folder, or delete it"
            )
        plan = _plan(folder, config, old)
    else:
        items, skipped = select_items(config, model, progress=progress)
        source = open_source(config.data)
        plan = Plan(
            folder, config, source.dataset, source.split, weights, items, skipped, (config.seed,)
        )
    config.save(folder / "config.yaml")
    _write(file, plan)
    return plan


def read_plan(folder: Path) -> Plan:
    """Reads what `make_plan` left in a run folder.

    Raises:
        UserError: There is no plan, or its files were changed.
    """
    content = _read(folder / "plan.json")
    config = load_config(folder / "config.yaml")
    if config.items_hash != content["items_hash"]:
        raise UserError(f"{folder}: config.yaml was changed after plan.json; plan again")
    return _plan(folder, config, content)


@dataclass(frozen=True)
class OpenRun:
    """A planned run with the model and the items, opened once for all stages."""

    plan: Plan
    model: Model
    items: Items


def open_run(plan: Plan | Path, model: Model | None = None) -> OpenRun:
    """Opens the items of a plan, or of the folder that holds one, for the model of the plan.

    Raises:
        UserError: There is no plan, the model cannot be built, its weights have changed, or so have
            the data.
    """
    plan = read_plan(plan) if isinstance(plan, Path) else plan
    model = model or open_model(plan.config)
    if (found := weights_hash(model.module)[:16]) != plan.weights:
        raise UserError(
            f"{plan.folder} was planned with the weights {plan.weights}, but "
            f"{plan.config.model.name} has {found}; plan in another run folder"
        )
    return OpenRun(plan, model, Items(plan.config, plan.items, model))


def _write(file: Path, plan: Plan) -> None:
    content = {
        **{name: getattr(plan, name) for name in ("dataset", "split", "weights")},
        "model": plan.config.model.name,
        "items_hash": plan.config.items_hash,
        "seeds": plan.seeds,
        "hashes": [entry for seed in plan.seeds for entry in plan.hashes(seed)],
        "skipped": dict(plan.skipped),
        "items": [asdict(item) for item in plan.items],
    }
    with written_whole(file) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"{file.parent} is not a run: run the plan stage first") from error
    except ValueError as error:
        raise UserError(f"{file}: not a plan ({one_line(error)}); plan again") from error


def _plan(folder: Path, config: Config, content: Mapping[str, Any]) -> Plan:
    # Plans of earlier versions do not say which image an item is of.
    items = tuple(
        PlannedItem(**{"image": item["source"], **item, "rows": tuple(item["rows"])})
        for item in content["items"]
    )
    read = {name: content[name] for name in ("dataset", "split", "weights", "skipped")}
    seeds = tuple(sorted({config.seed, *content.get("seeds", ())}))
    return Plan(folder, config, items=items, seeds=seeds, **read)
