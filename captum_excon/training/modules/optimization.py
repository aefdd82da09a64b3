"""SGD with a cosine schedule, clipping by group, and parameters that sit out a step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(step: int, steps: int, warmup: int) -> float:
    """The factor of the learning rate: linear up to 1 over the warm-up, then a half cosine to 0.

    Args:
        step: From 0.
        steps: In all.
        warmup: Of them, for the linear part.

    Example:
        >>> [round(warmup_cosine(step, 6, 2), 3) for step in range(7)]
        [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def sgd(
    groups: list[dict[str, Any]], momentum: float, weight_decay: float, steps: int, warmup: int
) -> tuple[torch.optim.SGD, LambdaLR]:
    """Builds SGD over groups of ``params`` and ``lr``, and its schedule, made for every step."""
    groups = [
        {**group, "params": [p for p in group["params"] if p.requires_grad]} for group in groups
    ]
    optimizer = torch.optim.SGD(groups, momentum=momentum, weight_decay=weight_decay)
    return optimizer, LambdaLR(optimizer, lambda step: warmup_cosine(step, steps, warmup))


def clip_groups(optimizer: torch.optim.Optimizer, max_norm: float) -> None:
    """Scales down the gradients of each parameter group whose joint 2-norm exceeds ``max_norm``."""
    for group in optimizer.param_groups:
        nn.utils.clip_grad_norm_(group["params"], max_norm)


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
