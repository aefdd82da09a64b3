"""Checks of arguments that the losses share."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Widens half precision, in which exponentials of logits are inaccurate."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless the value is one of the choices."""
    if value not in choices:
        known = ", ".join(map(repr, choices))
        raise ValueError(f"{name} must be one of {known}, but found {value!r}")


def check_integers(name: str, tensor: Tensor) -> None:
    """Raises TypeError unless the tensor holds integers."""
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{name} must be integers, but found {tensor.dtype}")
