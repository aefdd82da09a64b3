"""SupCon, ExCon and ExConB: contrastive training of an encoder, then a linear classifier."""

from __future__ import annotations

from functools import partial
from typing import Literal

from pydantic import ConfigDict, Field

from captum_excon.training.methods._method import Method
from captum_excon.training.methods._settings import ModuleSettings


class ContrastiveSettings(ModuleSettings):
    """What `ExConModule` adds."""

    model_config = ConfigDict(title="Only for supcon, excon and exconb")

    temperature: float = Field(default=0.1, gt=0)
    """Temperature of the loss."""
    base_temperature: float | None = Field(default=None, gt=0)
    """Multiply the loss by temperature / base_temperature, as the official code does with 0.07. By
    default no factor."""
    background: Literal["negatives", "class"] = "negatives"
    """For exconb: rejected masked images are negatives, or a class of their own."""
    projection_hidden: int | None = Field(default=None, ge=1)
    """Width of the projection's hidden layer. By default that of the features."""
    projection_dim: int = Field(default=128, ge=1)
    """Size of the projections."""
    classifier_schedule: Literal["alternate", "step"] = "alternate"
    """Train encoder and classifier in turn, an epoch each, or both in every step."""
    classifier_lr: float | None = Field(default=None, gt=0)
    """Learning rate of the classifier. By default --lr."""
    gather_distributed: bool = True
    """Contrast the views of all devices."""


_contrastive = partial(
    Method,
    settings=ContrastiveSettings,
    module="captum_excon.training.modules.excon:ExConModule",
    defaults={"threshold": 0.5, "fill": 0.0},
    views="excon",
)
METHODS = [
    _contrastive("supcon", "supervised contrastive"),
    _contrastive("excon", "the same with views masked by explanations"),
    _contrastive("exconb", "excon with rejected masked images as negatives"),
]
