"""The second stage: the raw map of every explainer for every item, on disk."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.explanations.configs.settings import Choice, Config
from benchmarks.explanations.data.items import Item
from benchmarks.explanations.methods.explainers import Case, Explainer, Setting
from benchmarks.explanations.stages.common import Outcome, Records, Shard, common_fields, failure
from benchmarks.explanations.stages.pass_counter import CountedModel, measured
from benchmarks.explanations.stages.plan import EXPLAIN, OpenRun, Plan
from benchmarks.explanations.stages.progress_mode import ProgressMode, progress
from benchmarks.explanations.stages.records import Record
from captum_excon._files import written_whole
from captum_excon.metrics.scorer import default_rows
from captum_excon.models.named_layers import choose_layers

STAGE = METRIC = EXPLAIN
_CONFIGS = ".configs"


def explain(run: OpenRun, shard: Shard, mode: ProgressMode = "quiet") -> Outcome:
    """Explains the items of a shard, one at a time, and skips those that are finished.

    An explainer that raises gives a record that says so, and everything else goes on.

    Args:
        run: See `open_run`.
        shard: Which items.
        mode: How to show progress.

    Raises:
        UserError: An explainer, a layer or an option is wrong.
    """
    plan, items = run.plan, run.items
    explainers = make_explainers(plan.config)
    for choice in plan.config.explainers:
        link_maps(plan, choice)
    numbers = shard.numbers(len(items))
    with (
        Records(plan, STAGE, shard) as records,
        progress(STAGE, len(numbers) * len(explainers), "map", mode) as bar,
    ):
        setting: Setting | None = None
        for number in numbers:
            pending = []
            for explainer in explainers:
                fields = record_key(plan, explainer.choice, number)
                found = records.find(fields)
                if found is not None and _has_map(plan, found):
                    records.skip(found)
                else:
                    pending.append((explainer, fields))
            bar.update(len(explainers) - len(pending))
            if not pending:
                continue
            setting = setting or make_setting(run)
            item = items[number]
            common = common_fields(plan, item.planned)
            for explainer, fields in pending:
                result = _explained(plan, explainer, case_of(item), setting)
                records.add({**common, **fields, **result})
                bar.update()
    return records.outcome


def make_explainers(config: Config) -> list[Explainer]:
    """The explainers of a config.

    Raises:
        UserError: There is no such explainer or option.
    """
    return [Explainer(choice) for choice in config.explainers]


def make_setting(run: OpenRun) -> Setting:
    """What the explainers of a run share.

    Raises:
        UserError: No layer is found, or the configured one does not exist.
    """
    config, model, items = run.plan.config, run.model, run.items
    layers = choose_layers(model, "auto", None)
    layer = layers[-1] if config.layer is None else choose_layers(model, config.layer, None)[-1]
    example = model.blank() if len(items) == 0 else items[0].image[None]
    return Setting(
        CountedModel(model.module),
        layer,
        layers,
        model.black(),
        lambda number: case_of(items[number]),
        [planned.image for planned in items.planned],
        config.seed,
        config.batch_size or default_rows(example),
    )


def case_of(item: Item) -> Case:
    """An item as explainers and metrics take it."""
    # Pictures come with channels last in memory, whose kernels round otherwise: one layout for all.
    return Case(item.number, item.image[None].contiguous(), item.target, item.mask)


def map_path(folder: Path, config: str, number: int) -> Path:
    """Where the map of an item lies, by the hash of the explainer with its options."""
    return folder / "maps" / _CONFIGS / config / f"{number}.npy"


def read_map(folder: Path, config: str, number: int) -> Tensor:
    """Reads a raw map, (1, h, w) float32."""
    return torch.from_numpy(np.load(map_path(folder, config, number), allow_pickle=False))


def link_maps(plan: Plan, choice: Choice) -> None:
    """Points a folder of the explainer's label to the maps of its present options, for readers.

    Maps of other options stay where they are, for when those options come back.
    """
    inside = Path(_CONFIGS) / plan.config.explainer_hash(choice)
    maps = plan.folder / "maps"
    (maps / inside).mkdir(parents=True, exist_ok=True)
    link = maps / choice.label
    if link.is_symlink() and os.readlink(link) == str(inside):
        return
    temporary = maps / f".{choice.label}-{os.getpid()}"
    temporary.symlink_to(inside, target_is_directory=True)
    os.replace(temporary, link)


def record_key(plan: Plan, choice: Choice, number: int) -> Record:
    """What tells the record of a map from others."""
    return {
        "stage": STAGE,
        "item": number,
        "explainer": choice.label,
        "metric": METRIC,
        "seed": plan.config.seed,
        "config": plan.config.explainer_hash(choice),
    }


def _has_map(plan: Plan, record: Record) -> bool:
    path = map_path(plan.folder, record["config"], record["item"])
    return record["status"] != "ok" or path.exists()


def _explained(plan: Plan, explainer: Explainer, case: Case, setting: Setting) -> Record:
    assert isinstance(setting.model, CountedModel)
    found: Record = {"status": "ok"}
    with measured(setting.model, case.image.device) as cost:
        try:
            saliency = explainer.explain(case, setting)
        except Exception as error:
            found = failure(error)
    if found["status"] == "ok":
        config = plan.config.explainer_hash(explainer.choice)
        _write_map(map_path(plan.folder, config, case.number), saliency)
    return {
        **found,
        "control": explainer.control,
        "layers": [layer.name for layer in explainer.layers(setting)],
        "value": None,
        "seconds": cost.seconds,
        "forward_rows": cost.forward_rows,
        "backward_rows": cost.backward_rows,
        "peak_mib": cost.peak_mib,
    }


def _write_map(path: Path, saliency: Tensor) -> None:
    for leftover in path.parent.glob(f".{path.stem}-*"):  # of a process that was killed
        leftover.unlink(missing_ok=True)
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.save(file, saliency.numpy(), allow_pickle=False)
