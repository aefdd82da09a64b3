"""The second stage: writes the raw map of every explainer for every item."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.explanations.configs.settings import Choice
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

_CONFIGS = ".configs"


def explain(run: OpenRun, shard: Shard, mode: ProgressMode = "quiet") -> Outcome:
    """Explains the items of a shard, one at a time, and skips those that are finished.

    An explainer that raises gives a record that says so, and everything else goes on.

    Raises:
        UserError: An explainer, a layer or an option is wrong.
    """
    plan, items = run.plan, run.items
    explainers = [Explainer(choice) for choice in plan.config.explainers]
    for choice in plan.config.explainers:
        link_maps(plan, choice)
    numbers = shard.numbers(len(items))

    def has_map(record: Record) -> bool:
        path = map_path(plan.folder, record["config"], record["item"])
        return record["status"] != "ok" or path.exists()

    with (
        Records(plan, EXPLAIN, shard) as records,
        progress(EXPLAIN, len(numbers) * len(explainers), "map", mode) as bar,
    ):
        setting: Setting | None = None
        for number in numbers:
            keys = [(e, record_key(plan, e.choice, number)) for e in explainers]
            pending = [(e, fields) for e, fields in keys if not records.finished(fields, has_map)]
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


def make_setting(run: OpenRun) -> Setting:
    """Returns what the explainers of a run share.

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
    image = item.image[None].contiguous()
    return Case(item.planned.item, image, item.planned.target, item.mask)


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
    """Returns the fields that identify the record of a map."""
    return {
        "stage": EXPLAIN,
        "item": number,
        "explainer": choice.label,
        "metric": EXPLAIN,
        "seed": plan.config.seed,
        "config": plan.config.explainer_hash(choice),
    }


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
        path = map_path(plan.folder, config, case.number)
        for leftover in path.parent.glob(f".{path.stem}-*"):  # of a process that was killed
            leftover.unlink(missing_ok=True)
        with written_whole(path) as temporary, temporary.open("wb") as file:
            np.save(file, saliency.numpy(), allow_pickle=False)
    return {
        **found,
        "control": explainer.control,
        "layers": [layer.name for layer in explainer.layers(setting)],
        "value": None,
        **asdict(cost),
    }
