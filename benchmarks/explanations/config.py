"""The settings of one benchmark: YAML sections, each checked against a dataclass."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, get_type_hints

from captum_excon._files import written_whole
from captum_excon._messages import close_names, one_line
from captum_excon._settings import checked, read_settings, refuse_unknown
from captum_excon.errors import UserError

CONFIGS = Path(__file__).parent / "configs"

# What says where to compute and not what, or where the data lie and not which they are.
MACHINE = ("path", "weights", "labels", "device", "batch_size")

T = TypeVar("T")


class _Section:
    """Checks the types of a dataclass's fields."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            object.__setattr__(self, name, checked(name, getattr(self, name), hint))
        if getattr(self, "count", 1) < 1:
            raise ValueError(f"count must be at least 1, but found {getattr(self, 'count', 1)}")


@dataclass(frozen=True, kw_only=True)
class SyntheticData(_Section):
    """Images whose explanation is known pixel by pixel; the model is ``synthetic``.

    Attributes:
        count: The number of items.
        size: The side of an image in pixels.
        seed: Decides the images.
    """

    kind: Literal["synthetic"] = "synthetic"
    count: int = 32
    size: int = 64
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ImagesData(_Section):
    """Labelled images without annotation.

    Attributes:
        path: A folder as `open_dataset` takes it, a folder with a ``labels.csv`` or such a file
            (columns ``file`` and ``wnid``, ``class``, ``label`` or ``name``), or the name of a
            torchvision dataset such as ``cifar100``.
        split: Which images, where the data are split.
        classes: How a class of the data finds its output of the model: by the ImageNet id, by the
            model's name for it, or by its number among the data's sorted classes. "auto" takes the
            id or else the name. Where the classes in a ``labels.csv`` are whole numbers, "order"
            takes them as the outputs' own, from 0.
        count: The number of items.
        seed: Decides which images are taken.
    """

    kind: Literal["images"] = "images"
    path: str
    split: Literal["train", "val", "test"] = "test"
    classes: Literal["auto", "wnid", "name", "order"] = "auto"
    count: int = 100
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class GridData(_Section):
    """2×2 mosaics of labelled images; one cell is of the explained class.

    Attributes:
        path: As for `ImagesData`.
        split: As for `ImagesData`.
        classes: As for `ImagesData`.
        min_probability: A cell's image is one whose class the model gives this probability at
            least, and no other class a higher one.
        cells: "half" makes mosaics of the model's input size, "full" makes each cell that large,
            for models that take any size.
        count: The number of mosaics.
        seed: Decides the mosaics.
    """

    kind: Literal["grid"] = "grid"
    path: str
    split: Literal["train", "val", "test"] = "test"
    classes: Literal["auto", "wnid", "name", "order"] = "auto"
    min_probability: float = 0.5
    cells: Literal["half", "full"] = "half"
    count: int = 100
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class BoxesData(_Section):
    """Images whose objects are annotated with boxes or masks.

    There is one row for each image and class in it; its ground truth is all objects of the class.

    Attributes:
        layout: What ``path`` holds; see `benchmarks.explanations.readers`.
        path: The folder.
        split: The part of it, as the data set names its parts; the layout's default if None.
        classes: As for `ImagesData`.
        max_area: Leave out rows whose objects cover more of the model's view than this share:
            there every map is right.
        count: The number of items.
        seed: Decides which images are taken.
    """

    kind: Literal["boxes"] = "boxes"
    layout: Literal["voc", "coco", "imagenet", "tiny-imagenet", "pets"]
    path: str
    split: str | None = None
    classes: Literal["auto", "wnid", "name", "order"] = "auto"
    max_area: float = 1.0
    count: int = 100
    seed: int = 0


Data: TypeAlias = SyntheticData | ImagesData | GridData | BoxesData
_DATA: dict[str, type[Data]] = {
    "synthetic": SyntheticData,
    "images": ImagesData,
    "grid": GridData,
    "boxes": BoxesData,
}


@dataclass(frozen=True, kw_only=True)
class ModelConfig(_Section):
    """The network; the options but for ``name`` are those of `captum_excon explain`.

    Attributes:
        name: ``synthetic``, ``demo``, ``torchvision:NAME[@WEIGHTS]``, ``timm:NAME``, or
            ``package.module:function``.
        size: Height and width, or None for the model's own.
        fold_batch_norm: Fold batch normalisation into the convolutions, see `fold_batch_norm`.
        channels_last: Keep channels last in memory. Both make a CPU's passes faster and round
            otherwise.
    """

    name: str = "demo"
    weights: str | None = None
    labels: str | None = None
    size: list[int] | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    fold_batch_norm: bool = False
    channels_last: bool = False


@dataclass(frozen=True, kw_only=True)
class Protocol(_Section):
    """What is explained, and how maps are made comparable.

    Attributes:
        target: The explained class: the predicted one, or the data's.
        only_correct: Take only images whose predicted class is the data's. (Rows of images with
            several classes are correct where the row's class is the predicted one.) Boxes need it
            where the predicted class is explained.
        min_probability: Take only images whose explained class has this probability at least.
        negatives: What becomes of a map's negative part: cut off, its size taken, or kept.
    """

    target: Literal["predicted", "label"] = "predicted"
    only_correct: bool = True
    min_probability: float = 0.0
    negatives: Literal["clamp", "abs", "keep"] = "clamp"


@dataclass(frozen=True, kw_only=True)
class Choice(_Section):
    """One explainer or metric: its name alone in the file, or these fields.

    Attributes:
        name: What it is.
        options: Go to it as they are.
        label: What records and tables call it; needed where one name stands twice.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    label: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.label:
            object.__setattr__(self, "label", self.name)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides a benchmark.

    Attributes:
        data: What is explained.
        model: The network.
        protocol: Which items count and which class is explained.
        explainers: In the order of the tables.
        metrics: In the order of the tables.
        layer: The layer of every method that takes one; None for the last that
            `captum_excon.select_layers` finds.
        seed: Of explainers and metrics; the data have their own.
        batch_size: Rows in a forward pass; None to find them from the image's size. No value
            depends on it, but for rounding.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    Example:
        >>> config = load_config("quick", {"data.count": 4, "model.name": "synthetic"})
        >>> config.data.count, config.metrics[0].label
        (4, 'ebpg')
        >>> load_config("quick", {"data.cuont": 4})
        Traceback (most recent call last):
        ...
        captum_excon.errors.UserError: data: unknown setting 'cuont'; did you mean 'count'?
    """

    data: Data
    model: ModelConfig
    protocol: Protocol
    explainers: tuple[Choice, ...]
    metrics: tuple[Choice, ...]
    layer: str | None = None
    seed: int = 0
    batch_size: int | None = None
    device: str = "cpu"

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> Config:
        """Makes the settings of plain values, as YAML holds them.

        Raises:
            UserError: A setting is unknown, missing or of a wrong type.
        """
        refuse_unknown(settings, [f.name for f in fields(cls)])
        values = dict(settings)
        for name, kind in (("model", ModelConfig), ("protocol", Protocol)):
            values[name] = _section(name, kind, values.get(name, {}))
        values["data"] = _data(values.get("data", {}))
        for name in ("explainers", "metrics"):
            values[name] = _choices(name, values.get(name))
        hints = get_type_hints(cls)
        for name in ("layer", "seed", "batch_size", "device"):
            if name in values:
                try:
                    checked(name, values[name], hints[name])
                except TypeError as error:
                    raise UserError(one_line(error)) from error
        config = cls(**values)
        if config.batch_size is not None and config.batch_size < 1:
            raise UserError(f"batch_size must be at least 1, but found {config.batch_size}")
        if isinstance(config.data, GridData) and config.protocol.target != "label":
            raise UserError(
                "protocol.target must be 'label' for mosaics: the explained class is that of one "
                "cell, whichever of the four the model prefers"
            )
        protocol = config.protocol
        if (
            isinstance(config.data, BoxesData)
            and protocol.target == "predicted"
            and not protocol.only_correct
        ):
            raise UserError(
                "protocol.only_correct must be true for boxes where protocol.target is "
                "'predicted': a wrongly classified image has boxes of its own class and a map of "
                "another; set protocol.only_correct=true, or protocol.target=label to explain the "
                "boxes' class"
            )
        return config

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values that `from_mapping` reads again."""
        plain = asdict(self)
        for name in ("explainers", "metrics"):
            plain[name] = list(plain[name])
        return plain

    def save(self, path: Path) -> None:
        """Writes a YAML file that `load_config` reads, whole or not at all."""
        import yaml

        with written_whole(path) as temporary:
            temporary.write_text(yaml.safe_dump(self.to_dict(), sort_keys=False))

    @property
    def items_hash(self) -> str:
        """Changes with everything that decides which items there are and what is explained."""
        protocol = asdict(self.protocol)
        del protocol["negatives"]
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

    Args:
        path: A file, or the name of one in ``benchmarks/explanations/configs`` such as ``quick``.
        overrides: Settings by dotted name, such as ``{"data.path": "flowers"}``.

    Raises:
        UserError: The file cannot be read, or a setting is unknown, missing or of a wrong type.
    """
    file = Path(path)
    named = CONFIGS / f"{path}.yaml"
    if not file.suffix and named.is_file():
        file = named
    elif not file.exists():
        known = sorted(p.stem for p in CONFIGS.glob("*.yaml"))
        hint = close_names(str(path), known) or f"; a file, or one of {', '.join(known)}"
        raise UserError(f"{path}: no such configuration{hint}")
    settings = read_settings(file)
    for name, value in (overrides or {}).items():
        _override(settings, name, value)
    return Config.from_mapping(settings)


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Reads ``data.count=8`` as YAML reads ``count: 8``.

    Raises:
        UserError: There is no ``=``, or no YAML behind it.

    Example:
        >>> parse_overrides(["data.count=8", "layer=null"])
        {'data.count': 8, 'layer': None}
    """
    import yaml

    overrides = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals:
            raise UserError(f"{argument!r}: expected NAME=VALUE, such as data.count=8")
        try:
            overrides[name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"{argument!r}: is no YAML ({one_line(error)})") from error
    return overrides


def _override(settings: dict[str, Any], name: str, value: Any) -> None:
    *sections, last = name.split(".")
    for section in sections:
        settings = settings.setdefault(section, {})
        if not isinstance(settings, dict):
            raise UserError(f"{name}: {section!r} has no settings in it; it is {settings!r}")
    settings[last] = value


def _data(settings: Any) -> Data:
    if not isinstance(settings, dict) or settings.get("kind") not in _DATA:
        raise UserError(f"data.kind must be one of {', '.join(_DATA)}, found data: {settings!r}")
    return _section("data", _DATA[settings["kind"]], settings)


def _section(name: str, kind: type[T], settings: Any) -> T:
    if not isinstance(settings, dict):
        raise UserError(f"{name}: expected lines of 'setting: value', found {settings!r}")
    known = fields(kind)  # type: ignore[arg-type]
    try:
        refuse_unknown(settings, [f.name for f in known])
        for f in known:
            required = f.default is MISSING and f.default_factory is MISSING
            if required and f.name not in settings:
                raise UserError(f"the setting {f.name!r} is missing: add {name}.{f.name}=...")
        return kind(**settings)
    except (UserError, TypeError, ValueError) as error:
        raise UserError(f"{name}: {one_line(error)}") from error


def _choices(name: str, entries: Any) -> tuple[Choice, ...]:
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{name}: expected a list of names, found {entries!r}")
    choices = tuple(
        _section(name, Choice, {"name": entry} if isinstance(entry, str) else entry)
        for entry in entries
    )
    labels = [choice.label for choice in choices]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"{name}: {label!r} stands twice; give one of them a label of its own")
    return choices


def _portable(section: Any) -> dict[str, Any]:
    return {name: value for name, value in asdict(section).items() if name not in MACHINE}


def _digest(*parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
