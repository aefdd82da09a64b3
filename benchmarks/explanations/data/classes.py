"""Which output of a model stands for a class of the data."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from benchmarks.explanations.configs.settings import Matching
from captum_excon.errors import UserError
from captum_excon.models import Model

UNKNOWN = -1
_IMAGENET_ID = r"n\d{8}"


def match_classes(
    names: Sequence[str], model: Model, how: Matching = "auto", *, numbered: bool = False
) -> list[int]:
    """Finds the model's output for each class of the data.

    Args:
        names: The data's classes, in their own order.
        model: The network.
        how: By ImageNet id (n01440764), by name, or by order; "auto" takes the id if all names are
            ids, and the name otherwise.
        numbered: The names are whole numbers: by order, they are the outputs' own, from 0, and need
            not be all of them.

    Returns:
        The number of an output for each class, or `UNKNOWN`.

    Raises:
        UserError: None of the classes is found, two are the same output, or they cannot be
            compared.
    """
    outputs = model.probabilities(model.blank()).numel()
    if how == "auto":
        how = "wnid" if all(re.fullmatch(_IMAGENET_ID, name) for name in names) else "name"
    if how == "order" and numbered:
        return _own_numbers(names, model, outputs)
    if how == "order":
        if len(names) != outputs:
            raise UserError(
                f"data.classes=order needs as many classes as outputs, but the data have "
                f"{len(names)} and {model.name} has {outputs}"
            )
        return list(range(outputs))
    known = _imagenet_ids(model, outputs) if how == "wnid" else _names(model)
    found = [known.get(_plain(name), UNKNOWN) for name in names]
    matched = [number for number in found if number != UNKNOWN]
    if not matched:
        raise UserError(
            f"none of the data's classes ({', '.join(names[:3])}, ...) is a class of {model.name} "
            f"by {how}; set data.classes, or give the model's class names with model.labels"
        )
    if len(set(matched)) < len(matched):
        raise UserError(
            f"two of the data's classes are the same class of {model.name} by name; set "
            "data.classes to wnid or order"
        )
    return found


def readable(name: str) -> str:
    """Returns what ImageNet calls the class of an id, and any other name as it is.

    Example:
        >>> readable("n01440764"), readable("tench")
        ('tench, Tinca tinca', 'tench')
    """
    if not re.fullmatch(_IMAGENET_ID, name):
        return name
    try:
        return str(_imagenet().label_name_to_description(name))
    except (UserError, KeyError):  # without timm, or beyond the thousand classes
        return name


def _own_numbers(names: Sequence[str], model: Model, outputs: int) -> list[int]:
    numbers = [int(name) for name in names]
    if beyond := [number for number in numbers if not 0 <= number < outputs]:
        raise UserError(
            f"data.classes=order takes the data's numbers as those of the outputs, but found "
            f"{beyond[0]}, and {model.name} has the outputs 0 to {outputs - 1}; number the classes "
            "so, or give their names"
        )
    return numbers


def _imagenet_ids(model: Model, outputs: int) -> dict[str, int]:
    info = _imagenet()
    if info.num_classes() != outputs:
        raise UserError(
            f"the data's classes are ImageNet ids, but {model.name} has {outputs} outputs and not "
            f"{info.num_classes()}; set data.classes=order if these are the data's own classes"
        )
    return {info.index_to_label_name(number): number for number in range(outputs)}


@cache
def _imagenet() -> Any:
    try:
        return importlib.import_module("timm.data").ImageNetInfo()
    except ImportError as error:
        raise UserError("matching ImageNet ids needs timm: pip install timm") from error


def _names(model: Model) -> dict[str, int]:
    if model.labels is None:
        raise UserError(
            f"the class names of {model.name} are not known; give them with model.labels, or set "
            "data.classes=order if its outputs are the data's classes in their order"
        )
    known: dict[str, int] = {}
    for number, label in enumerate(model.labels):
        # Some lists give synonyms: "tench, Tinca tinca". A whole name goes before a synonym.
        for synonym in label.split(","):
            known.setdefault(_plain(synonym), number)
    return known | {_plain(label): number for number, label in enumerate(model.labels)}


def _plain(name: str) -> str:
    return name.strip().casefold().replace("_", " ")
