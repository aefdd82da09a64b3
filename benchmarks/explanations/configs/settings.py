"""The settings of one benchmark, read from YAML and checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import Field, field_validator, model_validator
from tabulate import tabulate

from captum_excon._files import written_whole
from captum_excon._messages import close_names
from captum_excon._settings import Settings, assign, read_yaml, validated
from captum_excon._settings_help import allowed, default_text
from captum_excon.errors import UserError

CONFIGS = Path(__file__).parent

# These say where to compute or where the data lie, and change no value.
MACHINE = ("path", "weights", "labels", "device", "batch_size")

Count: TypeAlias = Annotated[int, Field(ge=1)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Split: TypeAlias = Literal["train", "val", "test"]
Matching: TypeAlias = Literal["auto", "wnid", "name", "order"]


class SyntheticData(Settings):
    """Images whose explanation is known pixel by pixel; the model is ``synthetic``."""

    kind: Literal["synthetic"] = "synthetic"
    """Which data."""
    count: Count = 32
    """The number of items."""
    size: Count = 64
    """The side of an image in pixels."""
    seed: int = 0
    """Decides the images."""


class _Labelled(Settings):
    """The settings of all data sets of files."""

    classes: Matching = "auto"
    """How a class of the data finds its output of the model: by its ImageNet id, by the model's
    name for it, or by its number among the data's sorted classes. "auto" takes the id or else the
    name. Where the classes in a ``labels.csv`` are whole numbers, "order" takes them as the
    outputs' own, from 0."""
    count: Count = 100
    """The number of items."""
    seed: int = 0
    """Decides which images are taken."""


class _Images(_Labelled):
    """The settings of all data sets without annotation."""

    path: str
    """A folder as `open_dataset` takes it, a folder with a ``labels.csv`` or such a file (columns
    ``file`` and ``wnid``, ``class``, ``label`` or ``name``), or the name of a torchvision dataset
    such as ``cifar100``."""
    split: Split = "test"
    """Which images, where the data are split."""


class ImagesData(_Images):
    """Labelled images without annotation."""

    kind: Literal["images"] = "images"
    """Which data."""


class GridData(_Images):
    """2×2 mosaics of labelled images; one cell is of the explained class."""

    kind: Literal["grid"] = "grid"
    """Which data."""
    min_probability: Share = 0.5
    """The least probability that the model may give the class of a cell's image. No other class
    may have a higher one."""
    cells: Literal["half", "full"] = "half"
    """"half" makes mosaics of the model's input size, "full" makes each cell that large, for models
    that take any size."""
    count: Count = 100
    """The number of mosaics. Those that explain the same photograph count as one image."""
    seed: int = 0
    """Decides the mosaics."""


class BoxesData(_Labelled):
    """Images whose objects are annotated with boxes or masks.

    There is one row for each image and class in it; its ground truth is all objects of the class.
    """

    kind: Literal["boxes"] = "boxes"
    """Which data."""
    layout: Literal["voc", "coco", "imagenet", "tiny-imagenet", "pets"]
    """What ``path`` holds; see `benchmarks.explanations.data.readers`."""
    path: str
    """The folder."""
    split: str | None = None
    """The part of it, as the data set names its parts; the layout's default if None."""
    max_area: Share = 1.0
    """Leave out rows whose objects cover more of the model's view than this share: there every map
    is right."""


Data: TypeAlias = SyntheticData | ImagesData | GridData | BoxesData


class ModelConfig(Settings):
    """The network; all but the last two are options of ``captum-excon explain``."""

    name: str = "demo"
    """``synthetic``, ``demo``, ``torchvision:NAME[@WEIGHTS]``, ``timm:NAME``, or
    ``package.module:function``."""
    weights: str | None = None
    """A file of weights."""
    labels: str | None = None
    """A file of class names, one per line."""
    size: Annotated[list[int], Field(min_length=2, max_length=2)] | None = None
    """Height and width, or None for the model's own."""
    mean: list[float] | None = None
    """Of the normalisation, one per channel; None for the model's own."""
    std: list[float] | None = None
    """Of the normalisation, one per channel; None for the model's own."""
    fold_batch_norm: bool = False
    """Fold batch normalisation into the convolutions. A CPU's passes get faster, and round
    differently."""
    channels_last: bool = False
    """Keep channels last in memory. A CPU's passes get faster, and round differently."""


class Protocol(Settings):
    """What is explained, and how maps are made comparable."""

    target: Literal["predicted", "label"] = "predicted"
    """The explained class: the predicted one, or the data's."""
    only_correct: bool = True
    """Take only images whose predicted class is the data's. (Rows of images with several classes
    are correct where the row's class is the predicted one.) Boxes need it where the predicted class
    is explained."""
    min_probability: Share = 0.0
    """Take only images whose explained class has at least this probability."""
    negatives: Literal["clamp", "abs", "keep"] = "clamp"
    """What becomes of a map's negative part: cut off, made positive, or kept."""


class Choice(Settings):
    """One explainer or metric: its name alone in the file, or these fields."""

    name: str
    """What it is."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed to it unchanged."""
    label: str = ""
    """What records and tables call it, by default its name; needed where one name stands twice."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"name": value}
        if isinstance(value, dict) and "name" in value and not value.get("label"):
            value = {**value, "label": value["name"]}
        return value

    def check_options(self, kind: str, known: Collection[str]) -> None:
        """Raises UserError if an explainer or metric, the ``kind``, has no option of some name."""
        for name in self.options:
            if name not in known:
                hint = close_names(name, known) or f"; it has {', '.join(sorted(known)) or 'none'}"
                raise UserError(f"{kind} {self.label!r} has no option {name!r}{hint}")


Choices: TypeAlias = Annotated[tuple[Choice, ...], Field(strict=False)]


class Config(Settings):
    """Everything that decides a benchmark.

    Example:
        >>> config = load_config("quick", {"data.count": 4, "model.name": "synthetic"})
        >>> config.data.count, config.metrics[0].label
        (4, 'ebpg')
    """

    data: Annotated[Data, Field(discriminator="kind")]
    """What is explained."""
    model: ModelConfig = ModelConfig()
    """The network."""
    protocol: Protocol = Protocol()
    """Which items count and which class is explained."""
    explainers: Choices
    """In the order of the tables."""
    metrics: Choices
    """In the order of the tables."""
    layer: str | None = None
    """The layer of every method that takes one; None for the last that `select_layers` finds."""
    seed: int = 0
    """Of explainers and metrics; the data have their own."""
    batch_size: Count | None = None
    """Rows in a forward pass; None to find them from the image's size. No value depends on it, but
    for rounding."""
    device: str = "cpu"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``."""

    @field_validator("explainers", "metrics")
    @classmethod
    def _labelled_apart(cls, choices: tuple[Choice, ...]) -> tuple[Choice, ...]:
        if not choices:
            raise ValueError("expected a list of names, but it is empty")
        labels = [choice.label for choice in choices]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"{label!r} stands twice; give one of them a label of its own")
        return choices

    @model_validator(mode="after")
    def _explains_what_is_annotated(self) -> Config:
        if isinstance(self.data, GridData) and self.protocol.target != "label":
            raise ValueError(
                "protocol.target must be 'label' for mosaics: the explained class is that of one "
                "cell, whichever of the four the model prefers"
            )
        others_class = self.protocol.target == "predicted" and not self.protocol.only_correct
        if isinstance(self.data, BoxesData) and others_class:
            raise ValueError(
                "protocol.only_correct must be true for boxes where protocol.target is "
                "'predicted': a wrongly classified image has boxes of its own class and a map of "
                "another; set protocol.only_correct=true, or protocol.target=label to explain the "
                "boxes' class"
            )
        return self

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any], source: str | Path | None = None) -> Config:
        """Makes the settings from plain values by name, as YAML holds them.

        Raises:
            UserError: A setting is unknown, missing, of a wrong type or out of range; the message
                begins with the ``source``.
        """
        return validated(cls, settings, source)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values that `from_mapping` reads again."""
        return self.model_dump(mode="json")

    def save(self, path: Path) -> None:
        """Writes a YAML file that `load_config` reads, whole or not at all."""
        import yaml

        with written_whole(path) as temporary:
            temporary.write_text(yaml.safe_dump(self.to_dict(), sort_keys=False))

    @property
    def items_hash(self) -> str:
        """Changes with everything that decides which items there are and what is explained."""
        protocol = self.protocol.model_dump(exclude={"negatives"})
        return _digest(_portable(self.data), _portable(self.model), protocol)

    def explainer_hash(self, explainer: Choice) -> str:
        """Changes with everything that a map depends on, and not with the other explainers."""
        return _digest(self.items_hash, self.layer, self.seed, explainer.name, explainer.options)

    def metric_hash(self, explainer: Choice, metric: Choice) -> str:
        """Changes with everything that a value depends on, and not with the other choices."""
        return _digest(
            self.explainer_hash(explainer), self.protocol.negatives, metric.name, metric.options
        )


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Reads a YAML file and puts settings on top.

    Another ``data.kind`` drops those of the file's settings that the new kind does not have.

    Args:
        path: A file, or the name of one in ``benchmarks/explanations/configs`` such as ``quick``.
        overrides: Settings by dotted name, such as ``{"data.path": "flowers"}``.

    Raises:
        UserError: The file cannot be read, or a setting is unknown, missing, of a wrong type or
            out of range.
    """
    file = Path(path)
    named = CONFIGS / f"{path}.yaml"
    if not file.suffix and named.is_file():
        file = named
    elif not file.exists():
        known = sorted(p.stem for p in CONFIGS.glob("*.yaml"))
        hint = close_names(str(path), known) or f"; a file, or one of {', '.join(known)}"
        raise UserError(f"{path}: no such configuration{hint}")
    settings = read_yaml(file)
    overrides = overrides or {}
    kinds = {kind.model_fields["kind"].default: kind for kind in get_args(Data)}
    if (kind := kinds.get(overrides.get("data.kind"))) and isinstance(settings.get("data"), dict):
        settings["data"] = {k: v for k, v in settings["data"].items() if k in kind.model_fields}
    for name, value in overrides.items():
        assign(settings, name, value)
    return Config.from_mapping(settings, path)


def settings_tables() -> str:
    """Returns all settings as Markdown: name, values, default and meaning, a table per section."""
    sections: dict[str, tuple[str, type[Settings]]] = {
        f"data.kind={kind.model_fields['kind'].default}": ("data.", kind) for kind in get_args(Data)
    }
    sections |= {"model": ("model.", ModelConfig), "protocol": ("protocol.", Protocol)}
    sections |= {"all else": ("", Config)}
    parts = []
    for title, (prefix, cls) in sections.items():
        rows = []
        for name, field in cls.model_fields.items():
            if cls is Config and name not in ("layer", "seed", "batch_size", "device"):
                continue
            values = allowed(field).replace("|", " or ")
            meaning = " ".join((field.description or "").split())
            rows.append([f"`{prefix}{name}`", values, default_text(field), meaning])
        head = ["setting", "values", "default", "meaning"]
        table = tabulate(rows, head, "github", disable_numparse=True)
        parts.append(f"## {title}\n\n{(cls.__doc__ or '').splitlines()[0]}\n\n{table}\n")
    return "\n".join(parts)


def _portable(section: Settings) -> dict[str, Any]:
    return section.model_dump(exclude=set(MACHINE))


def _digest(*parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
