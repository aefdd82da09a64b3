"""How an evaluation measures, and on which images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from captum_excon.training.evaluation.robustness import PGD_STEPS

__all__ = ["Settings", "subset"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the figures are measured.

    Attributes:
        limit: How many test images explanations and attacks, which cost the most, are measured on
            (see `subset`); None for all. Everything else is measured on all.
        fraction: Share of the pixels that Drop and Increase keep; the papers' 0.15.
        epsilons: Radii of the attacks, in gray levels of 1/255.
        pgd_steps: Gradient steps of PGD.
        seed: Decides the subset, PGD's starts, the noise and the random maps.

    Raises:
        ValueError: A setting is out of range.
    """

    limit: int | None = None
    fraction: float = 0.15
    epsilons: tuple[int, ...] = (1, 2, 4, 8)
    pgd_steps: int = PGD_STEPS
    seed: int = 0

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be positive or None, but found {self.limit}")
        if not 0 < self.fraction < 1:
            raise ValueError(f"fraction must lie between 0 and 1, but found {self.fraction}")
        if not self.epsilons or min(self.epsilons) <= 0:
            raise ValueError(f"epsilons must be positive gray levels, but found {self.epsilons}")


def subset(count: int, limit: int | None, seed: int = 0) -> Tensor:
    """Chooses the images that explanations and attacks are measured on.

    They depend on the arguments alone, so that all models are measured on the same images.

    Args:
        count: How many images there are.
        limit: How many are taken, at most; None for all.
        seed: Decides which.

    Returns:
        (count,) bool.

    Example:
        >>> subset(6, 3).sum()
        tensor(3)
        >>> subset(3, None)
        tensor([True, True, True])
    """
    chosen = torch.zeros(count, dtype=torch.bool)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    chosen[order[:limit]] = True
    return chosen
