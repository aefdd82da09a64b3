"""The settings of one training run: defaults, a YAML file, and options on top."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field, create_model, field_validator

from captum_excon._files import written_whole
from captum_excon._settings import Settings, option, read_yaml, validated
from captum_excon._settings_help import markdown_tables
from captum_excon.errors import UserError
from captum_excon.training.methods import METHODS, find_method
from captum_excon.training.methods._settings import (
    DataSettings,
    MachineSettings,
    ModuleSettings,
    NetworkSettings,
)

# What may differ between a run and its resumption: it says where to compute, not what.
MACHINE = ("data", "num_workers", "accelerator", "devices", "compile")

# Keys of a file that are no setting: settings for single methods, on top of the shared ones.
PER_METHOD = "per_method"


class MethodSettings(Settings):
    """What is trained, for how long."""

    model_config = ConfigDict(title="The method")

    method: str = option("--method", "-m", default="excon", metavar="|".join(METHODS))
    epochs: int = Field(default=100, ge=1)
    """Passes over the training images that update the encoder. Where encoder and classifier
    alternate, the classifier's passes come on top."""

    @field_validator("method")
    @classmethod
    def _known(cls, name: str) -> str:
        return find_method(name).name


MethodSettings.model_fields["method"].description = (
    "; ".join(f"{method.name}: {method.summary}" for method in METHODS.values()) + "."
)

# Fields come in the reverse order of the bases.
_METHODS = tuple(dict.fromkeys(method.settings for method in METHODS.values()))[::-1]

if TYPE_CHECKING:

    class _Declared(MachineSettings, ModuleSettings, NetworkSettings, DataSettings, MethodSettings):
        explainer: str  # no function can come from a file
else:
    _Declared = create_model(
        "_Declared",
        __base__=(MachineSettings, *_METHODS, NetworkSettings, DataSettings, MethodSettings),
    )


class TrainConfig(_Declared):
    """Everything that decides a training run.

    Settings of one method only (``temperature`` for the contrastive ones, ``drop_target`` for
    EDDA) may stand in the settings of the others, so that a comparison changes the one word
    ``method``. docs/training.md lists all settings.

    Example:
        >>> config = TrainConfig(data="flowers", method="edda", epochs=3)
        >>> config.batch_size
        128
        >>> validated(TrainConfig, {"data": "flowers", "epochz": 3})
        Traceback (most recent call last):
        ...
        captum_excon.errors.UserError: unknown setting 'epochz'; did you mean 'epochs'?
    """

    @classmethod
    def load(cls, path: Path | None, given: Mapping[str, Any]) -> TrainConfig:
        """Reads a YAML file and puts settings on top.

        The order, weakest first: the defaults, the file, the file's ``per_method`` section for the
        method, what is given.

        Args:
            path: A YAML mapping of settings; None for the defaults.
            given: Settings that were given explicitly.

        Raises:
            UserError: The file cannot be read, or a setting is unknown, missing or wrong.
        """
        settings = {} if path is None else read_yaml(path)
        own = settings.pop(PER_METHOD, None) or {}
        for name, section in own.items() if isinstance(own, dict) else [(PER_METHOD, own)]:
            if name not in METHODS or not isinstance(section, dict):
                raise UserError(
                    f"{path}: {PER_METHOD} maps methods ({', '.join(METHODS)}) to their settings, "
                    f"but found {name!r}: {section!r}"
                )
            validated(cls, {"data": "", **section}, f"{path}: {PER_METHOD}: {name}")
        method = given.get("method", settings.get("method", cls.model_fields["method"].default))
        section = own.get(method, {}) if isinstance(method, str) else {}
        sources = {} if path is None else dict.fromkeys({*settings, *section}, str(path))
        sources = {name: source for name, source in sources.items() if name not in given}
        return validated(cls, {**settings, **section, **given}, sources)

    def save(self, path: Path) -> None:
        """Writes a YAML file that `load` reads, whole or not at all."""
        import yaml

        with written_whole(path) as temporary:
            temporary.write_text(yaml.safe_dump(self.model_dump(), sort_keys=False))


if __name__ == "__main__":
    print(markdown_tables(TrainConfig))
