"""EDDA, its random control, and plain cross-entropy."""

from __future__ import annotations

from functools import partial
from typing import Literal

from pydantic import ConfigDict, Field

from captum_excon.training.methods._method import Method
from captum_excon.training.methods._settings import ModuleSettings


class EDDASettings(ModuleSettings):
    """What `EDDAModule` adds."""

    model_config = ConfigDict(title="Only for edda and random-occlusion")

    target: Literal["predicted", "label"] = "predicted"
    """The class that is explained."""
    drop_target: Literal["uniform", "background", "hinge", "suppress"] = "uniform"
    """What a copy without its salient region should be: equally likely all classes; a background
    class of its own; or, for the explained class alone, less likely than before (hinge) or
    unlikely (suppress)."""
    keep_weight: float = Field(default=1.0, ge=0)
    """Weight of the copies that keep their salient region."""
    drop_weight: float = Field(default=1.0, ge=0)
    """Weight of the copies that drop it."""
    margin: float = 0.0
    """Margin of the hinge."""
    only_correct: bool = False
    """Use only copies of images that are classified correctly."""
    placement: Literal["shift", "shuffle"] = "shift"
    """For random-occlusion: shift regions as they are, or shuffle their pixels."""
    view: Literal["view1", "standard"] = "view1"
    """Train on a random view, or on the whole image."""


_edda = partial(
    Method,
    settings=EDDASettings,
    module="captum_excon.training.modules.edda:EDDAModule",
    defaults={"keep_ratio": 0.15, "fill": "mean"},
)
METHODS = [
    _edda("ce", "cross-entropy"),
    _edda("edda", "cross-entropy, also on copies that keep or drop the salient region"),
    _edda("random-occlusion", "edda's control, with the same areas at random places"),
]
