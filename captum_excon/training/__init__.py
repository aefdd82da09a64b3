"""Training with explanations: data, encoders, Lightning modules, runner and evaluation.

The names below are imported when they are first used: Lightning and its companions come with
``pip install "captum-excon[train]"``, and reading a dataset or building an encoder needs none.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captum_excon.training.config import TrainConfig
    from captum_excon.training.corrupted import corruptions, open_corrupted
    from captum_excon.training.data import ExplanationDataModule
    from captum_excon.training.datasets import LabelledImages, open_dataset
    from captum_excon.training.edda_module import EDDAModule
    from captum_excon.training.encoders import ProjectionHead, build_encoder
    from captum_excon.training.excon_module import ExConModule
    from captum_excon.training.explainers import build_explainer
    from captum_excon.training.modules import METHODS, build_module, load_module
    from captum_excon.training.runner import load_run, train
    from captum_excon.training.sampling import EpochSampler

_MODULES = {
    "METHODS": "modules",
    "EDDAModule": "edda_module",
    "EpochSampler": "sampling",
    "ExConModule": "excon_module",
    "ExplanationDataModule": "data",
    "LabelledImages": "datasets",
    "ProjectionHead": "encoders",
    "TrainConfig": "config",
    "build_encoder": "encoders",
    "build_explainer": "explainers",
    "build_module": "modules",
    "corruptions": "corrupted",
    "load_module": "modules",
    "load_run": "runner",
    "open_corrupted": "corrupted",
    "open_dataset": "datasets",
    "train": "runner",
}

__all__ = [
    "METHODS",
    "EDDAModule",
    "EpochSampler",
    "ExConModule",
    "ExplanationDataModule",
    "LabelledImages",
    "ProjectionHead",
    "TrainConfig",
    "build_encoder",
    "build_explainer",
    "build_module",
    "corruptions",
    "load_module",
    "load_run",
    "open_corrupted",
    "open_dataset",
    "train",
]

_EXTRA = ("lightning", "tensorboard", "torchmetrics", "yaml")


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
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
