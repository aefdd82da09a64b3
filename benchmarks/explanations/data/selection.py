"""Which rows of the data become items: a fixed random order, and the protocol's conditions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from tqdm.auto import tqdm

from benchmarks.explanations.configs.settings import BoxesData, Config, GridData
from benchmarks.explanations.data.classes import UNKNOWN
from benchmarks.explanations.data.items import Items, PlannedItem, View, Views, normalized
from benchmarks.explanations.data.mosaics import CELLS, draw_mosaics
from captum_excon.errors import UserError
from captum_excon.models import Model
from captum_excon.training.data.sampling import derive_seed


def select_items(
    config: Config, model: Model, *, progress: bool = True
) -> tuple[tuple[PlannedItem, ...], dict[str, int]]:
    """Selects the items: images one by one, so that no batch has a say.

    Returns:
        The items, and how many rows were passed over for which reason.

    Raises:
        UserError: No row meets the conditions, or too few for a mosaic.
    """
    views = Views(config, model)
    skipped: Counter[str] = Counter()
    with tqdm(
        desc="selecting", total=config.data.count, unit="image", disable=None if progress else True
    ) as bar:
        found = []
        for planned in _suitable(config, views, model, skipped):
            found.append(planned)
            bar.update()
            if _enough(config, found):
                break
    if not found:
        raise UserError(
            f"none of the {len(views.labels)} rows of {views.source.dataset} is suitable: "
            f"{_listed(skipped)}"
        )
    if isinstance(config.data, GridData):
        return _mosaics(config, views, model, found, skipped), dict(skipped)
    return tuple(found), dict(skipped)


def _listed(skipped: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in skipped.items()) or "none"


def _enough(config: Config, found: list[PlannedItem]) -> bool:
    classes = CELLS if isinstance(config.data, GridData) else 1
    return len(found) >= config.data.count and len({item.label for item in found}) >= classes


def _suitable(
    config: Config, views: Views, model: Model, skipped: Counter[str]
) -> Iterator[PlannedItem]:
    generator = torch.Generator().manual_seed(derive_seed(config.data.seed, 3))
    order = torch.randperm(len(views.labels), generator=generator).tolist()
    number = 0
    for row in order:
        label = views.labels[row]
        if label == UNKNOWN:
            skipped["of a class that the model does not know"] += 1
            continue
        view = views[row]
        if reason := _unfit(config, view):
            skipped[reason] += 1
            continue
        probabilities = model.probabilities(normalized(view.pixels, model)[None])
        predicted = int(probabilities.argmax())
        target = label if config.protocol.target == "label" else predicted
        probability = float(probabilities[target])
        if reason := _rejected(config, predicted == label, probability):
            skipped[reason] += 1
            continue
        name = views.source.names[row]
        yield PlannedItem(
            number, name, views.source.image(row), (name,), 0, label, views.class_name(row),
            predicted, target, probability,
        )  # fmt: skip
        number += 1


def _unfit(config: Config, view: View) -> str | None:
    if view.mask is None:
        return None
    if not view.mask.any():
        return "without an object in the model's view"
    if isinstance(config.data, BoxesData) and view.mask.float().mean() > config.data.max_area:
        return "with objects larger than max_area"
    return None


def _rejected(config: Config, correct: bool, probability: float) -> str | None:
    grid = isinstance(config.data, GridData)
    if not correct and (grid or config.protocol.only_correct):
        return "classified wrongly"
    least = {"protocol.min_probability": config.protocol.min_probability}
    if isinstance(config.data, GridData):
        least["data.min_probability"] = config.data.min_probability
    name = max(least, key=lambda name: least[name])
    return f"less probable than {name}={least[name]}" if probability < least[name] else None


def _mosaics(
    config: Config,
    views: Views,
    model: Model,
    singles: list[PlannedItem],
    skipped: Mapping[str, int],
) -> tuple[PlannedItem, ...]:
    count, dataset = config.data.count, views.source.dataset
    try:
        drawn = draw_mosaics([s.label for s in singles], count, config.data.seed)
    except ValueError as error:
        raise UserError(
            f"{dataset}: {error}, in the {len(singles)} suitable of {len(views.labels)} images "
            f"(passed over: {_listed(skipped)}); add images of other classes, or lower "
            "data.min_probability"
        ) from error
    different = next((i for i, found in enumerate(drawn) if found in drawn[:i]), count)
    if different < count:
        raise UserError(
            f"{dataset}: {count} mosaics of {len(singles)} suitable images would repeat "
            f"themselves; set data.count to {different} at most, or add images"
        )
    outline = []
    for number, (cells, position) in enumerate(drawn):
        # `image` stays: mosaics that explain one photograph are not independent.
        single = singles[cells[position]]
        rows = tuple(singles[cell].source for cell in cells)
        source, target = f"{'+'.join(rows)}@{position}", single.label
        outline.append(
            replace(single, item=number, source=source, rows=rows, position=position, target=target)
        )
    seen = []
    for item in Items(config, outline, model):
        probabilities = model.probabilities(item.image[None])
        predicted = int(probabilities.argmax())
        probability = float(probabilities[item.planned.target])
        seen.append(replace(item.planned, predicted=predicted, probability=probability))
    return tuple(seen)
