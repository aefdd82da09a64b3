"""Losses for training with explanations: ExCon's contrastive loss and EDDA's drop losses."""

from captum_excon.losses.edda import (
    EDDA_DROP,
    background_drop_loss,
    drop_loss,
    hinge_drop_loss,
    suppress_drop_loss,
    uniform_drop_loss,
)
from captum_excon.losses.excon import Background, ExConLoss

__all__ = [
    "EDDA_DROP",
    "Background",
    "ExConLoss",
    "background_drop_loss",
    "drop_loss",
    "hinge_drop_loss",
    "suppress_drop_loss",
    "uniform_drop_loss",
]
