"""Training with explanations: data, encoders, Lightning modules, runner and evaluation.

The names below are imported when they are first used: Lightning and its companions come with
``pip install "captum-excon[train]"``, and reading a dataset or building an encoder needs none.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captum_excon.models.classifier import ProjectionHead as ProjectionHead
    from captum_excon.models.encoders import build_encoder as build_encoder
    from captum_excon.training.data.corrupted import corruptions as corruptions
    from captum_excon.training.data.corrupted import open_corrupted as open_corrupted
    from captum_excon.training.data.datasets import LabelledImages as LabelledImages
    from captum_excon.training.data.datasets import open_dataset as open_dataset
    from captum_excon.training.data.module import ExplanationDataModule as ExplanationDataModule
    from captum_excon.training.data.sampling import EpochSampler as EpochSampler
    from captum_excon.training.modules.edda import EDDAModule as EDDAModule
    from captum_excon.training.modules.excon import ExConModule as ExConModule
    from captum_excon.training.modules.explainers import build_explainer as build_explainer
    from captum_excon.training.modules.factory import METHODS as METHODS
    from captum_excon.training.modules.factory import build_module as build_module
    from captum_excon.training.modules.factory import load_module as load_module
    from captum_excon.training.run.config import TrainConfig as TrainConfig
    from captum_excon.training.run.runner import load_run as load_run
    from captum_excon.training.run.runner import train as train

_MODULES = {
    "METHODS": "modules.factory",
    "EDDAModule": "modules.edda",
    "EpochSampler": "data.sampling",
    "ExConModule": "modules.excon",
    "ExplanationDataModule": "data.module",
    "LabelledImages": "data.datasets",
    "ProjectionHead": ".models.classifier",
    "TrainConfig": "run.config",
    "build_encoder": ".models.encoders",
    "build_explainer": "modules.explainers",
    "build_module": "modules.factory",
    "corruptions": "data.corrupted",
    "load_module": "modules.factory",
    "load_run": "run.runner",
    "open_corrupted": "data.corrupted",
    "open_dataset": "data.datasets",
    "train": "run.runner",
}

__all__ = [*_MODULES]

_EXTRA = ("lightning", "pandas", "tabulate", "tensorboard", "torchmetrics", "yaml")


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f".{_MODULES[name]}", __name__)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _EXTRA:
            raise
        raise ImportError(
            f"{__name__}.{name} needs the package {error.name!r}, which is not installed: "
            'pip install "captum-excon[train]"',
            name=error.name,
        ) from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
