"""Optimizers with a cosine schedule, clipping by group, and parameters that sit out a step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from captum_excon.training.methods._settings import OptimizationSettings


def warmup_cosine(step: int, steps: int, warmup: int) -> float:
    """The factor of the learning rate: linear up to 1 over the warm-up, then a half cosine to 0.

    Example:
        >>> [round(warmup_cosine(step, 6, 2), 3) for step in range(7)]
        [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def optimizer_with_schedule(
    groups: list[dict[str, Any]], settings: OptimizationSettings, steps: int, epoch: int
) -> tuple[Optimizer, LambdaLR]:
    """Builds the optimizer over groups of ``params``, and its schedule, made for every step.

    A group's ``lr`` is by default that of the settings. ``steps`` are those of this optimizer in
    the whole training, ``epoch`` those in an epoch.
    """
    groups = [
        {**group, "params": [p for p in group["params"] if p.requires_grad]} for group in groups
    ]
    optimizer: Optimizer
    if settings.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, settings.rate, weight_decay=settings.weight_decay)
    else:
        optimizer = torch.optim.SGD(
            groups, settings.rate, settings.momentum, weight_decay=settings.weight_decay
        )
    warmup = min(epoch * settings.warmup_epochs, steps // 2)
    return optimizer, LambdaLR(optimizer, lambda step: warmup_cosine(step, steps, warmup))


def idle(parameters: Iterable[nn.Parameter]) -> Tensor | float:
    """Zero, as a function of the parameters.

    Added to a loss, it gives parameters that took no part a gradient of zero, for which
    ``DistributedDataParallel`` would otherwise wait. Nothing is read, so NaN does not spread.

    Example:
        >>> weight = nn.Parameter(torch.full((2, 2), float("nan")))
        >>> idle([weight]).backward()
        >>> weight.grad
        tensor([[0., 0.],
                [0., 0.]])
    """
    return sum(p.reshape(-1)[:0].sum() for p in parameters if p.requires_grad)
