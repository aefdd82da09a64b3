"""Devices by name."""

from __future__ import annotations

import torch

from captum_excon.errors import UserError


def pick_device(name: str) -> torch.device:
    """Returns the device of this name: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps.

    Raises:
        UserError: There is no such device here.

    Example:
        >>> pick_device("cpu")
        device(type='cpu')
    """
    counts = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    present = [kind for kind, count in counts.items() if count]
    if name == "auto":
        return torch.device(present[0])
    kind, _, index = name.partition(":")
    if kind not in counts or not (index.isdecimal() or name == kind):
        raise UserError(f"--device {name!r} is unknown; devices are auto, {', '.join(counts)}")
    if int(index or 0) >= counts[kind]:
        raise UserError(
            f"--device {name!r} is not available here; torch finds {', '.join(present)}"
        )
    return torch.device(name)
