"""The settings of one training run: a flat dataclass, a YAML file, and flags on top."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from captum_excon._files import written_whole
from captum_excon._messages import one_line
from captum_excon._settings import checked, read_settings, refuse_unknown
from captum_excon.errors import UserError

Method = Literal["ce", "supcon", "excon", "exconb", "edda", "random-occlusion"]

# What may differ between a run and its resumption: it says where to compute, not what.
MACHINE = ("data", "num_workers", "accelerator", "devices", "compile")

# Keys of a file that are no field: settings for single methods, on top of the shared ones.
PER_METHOD = "per_method"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a training run.

    Fields of one method only (``temperature`` for the contrastive ones, ``drop_target`` for EDDA)
    may stand in the settings of the others, so that a comparison changes the one word ``method``.
    The options of the modules carry the meaning, default and range of `ExConModule` and
    `EDDAModule`; those of the data, of `ExplanationDataModule`.

    Attributes:
        data: A folder of images, or the name of a torchvision dataset such as ``cifar100``.
        method: The arm that is trained.
        seed: Decides the weights, the split, the batches, the views and all other randomness.
        epochs: Passes over the training images that update the encoder, the same for every
            method: with ``classifier_schedule="alternate"`` each is followed by a pass for the
            linear classifier, which Lightning counts as an epoch of its own.
        threshold: With `keep_ratio`, what is salient; if both are None, and likewise for ``fill``,
            the method's own default, which differs between ExCon and EDDA.
        encoder: ``torchvision:NAME`` or ``timm:NAME``.
        encoder_args: Further arguments of `build_encoder`, which go to the library.
        precision: Lightning's name, such as ``32-true``, ``bf16-mixed`` or ``16-mixed``.
        deterministic: Use deterministic kernels only, on a GPU too; slower.

    Raises:
        TypeError: A field is of a wrong type.
        ValueError: ``epochs`` or ``val_fraction`` is out of range. The other ranges are checked by
            the modules that the settings are for.

    Example:
        >>> config = TrainConfig(data="flowers", method="edda", epochs=3)
        >>> config.batch_size
        128
        >>> TrainConfig.from_mapping({"data": "flowers", "epochz": 3})
        Traceback (most recent call last):
        ...
        captum_excon.errors.UserError: unknown setting 'epochz'; did you mean 'epochs'?
    """

    data: str
    root: str = "data"
    download: bool = False
    method: Method = "excon"
    seed: int = 0
    epochs: int = 100

    image_size: int = 32
    classes: int | list[str] | None = None
    per_class: int | None = None
    val_fraction: float = 0.1
    split_seed: int = 0
    augment: bool = True
    drop_last: bool = False
    on_corrupt: Literal["raise", "skip"] = "raise"
    cache_images: bool | Literal["auto"] = "auto"
    batch_size: int = 128
    num_workers: int = 2

    encoder: str = "torchvision:resnet18"
    encoder_args: dict[str, Any] = field(default_factory=dict)
    cifar_stem: bool = False
    pretrained: bool = False

    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_epochs: int = 0
    gradient_clip: float | None = None

    explainer: str = "layer-grad-cam"
    layer: str | None = None
    threshold: float | None = None
    keep_ratio: float | None = None
    fill: float | Literal["mean", "blur", "noise"] | None = None
    explain_mode: Literal["eval", "train"] = "eval"
    start_epoch: int = 0
    refresh: int | Literal["step", "teacher"] = "step"
    cache: str | None = None

    temperature: float = 0.1
    base_temperature: float | None = None
    background: Literal["negatives", "class"] = "negatives"
    projection_hidden: int | None = None
    projection_dim: int = 128
    classifier_schedule: Literal["alternate", "step"] = "alternate"
    classifier_lr: float | None = None
    gather_distributed: bool = True

    target: Literal["predicted", "label"] = "predicted"
    drop_target: Literal["uniform", "background", "hinge", "suppress"] = "uniform"
    keep_weight: float = 1.0
    drop_weight: float = 1.0
    margin: float = 0.0
    only_correct: bool = False
    placement: Literal["shift", "shuffle"] = "shift"
    view: Literal["view1", "standard"] = "view1"

    accelerator: str = "auto"
    devices: int = 1
    precision: str = "32-true"
    compile: bool = False
    deterministic: bool = False

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            object.__setattr__(self, name, checked(name, getattr(self, name), hint))
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, but found {self.epochs}")
        if not 0 < self.val_fraction < 1:
            raise ValueError(
                "val_fraction must be between 0 and 1, since the best checkpoint is chosen on the "
                f"validation split, but found {self.val_fraction}"
            )

    @classmethod
    def load(cls, path: Path | None, flags: Mapping[str, Any]) -> TrainConfig:
        """Reads a YAML file and puts flags on top.

        The order, weakest first: the defaults, the file, the file's ``per_method`` section for the
        method, the flags.

        Args:
            path: A YAML mapping of field names; None for the defaults.
            flags: Field names and values that were given explicitly.

        Raises:
            UserError: The file cannot be read, or a setting is unknown, missing or of a wrong type.
        """
        settings = {} if path is None else read_settings(path)
        own = settings.pop(PER_METHOD, {})
        method = flags.get("method", settings.get("method", "excon"))
        for name, section in own.items():
            if name not in get_args(Method) or not isinstance(section, dict):
                raise UserError(
                    f"{path}: {PER_METHOD} maps methods ({', '.join(get_args(Method))}) to their "
                    f"settings, but found {name!r}: {section!r}"
                )
            cls._refuse_unknown(section)
        return cls.from_mapping({**settings, **own.get(method, {}), **flags})

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> TrainConfig:
        """Makes the settings of plain values, as YAML or a checkpoint holds them.

        Raises:
            UserError: A setting is unknown, missing or of a wrong type.
        """
        cls._refuse_unknown(settings)
        for f in fields(cls):
            if f.default is MISSING and f.default_factory is MISSING and f.name not in settings:
                raise UserError(f"the setting {f.name!r} is missing: give --{f.name}")
        try:
            return cls(**settings)
        except (TypeError, ValueError) as error:
            raise UserError(one_line(error)) from error

    @classmethod
    def _refuse_unknown(cls, settings: Mapping[str, Any]) -> None:
        refuse_unknown(settings, [f.name for f in fields(cls)])

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values that `from_mapping` reads again."""
        return asdict(self)

    def save(self, path: Path) -> None:
        """Writes a YAML file that `load` reads, whole or not at all."""
        import yaml

        with written_whole(path) as temporary:
            temporary.write_text(yaml.safe_dump(self.to_dict(), sort_keys=False))
