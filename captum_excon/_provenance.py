"""What a figure depends on besides its settings: command, versions, hardware, weights."""

from __future__ import annotations

import hashlib
import platform
import shlex
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

PACKAGES = ("captum-excon", "torch", "torchvision", "captum")


def provenance(device: torch.device, *packages: str) -> dict[str, Any]:
    """Returns ``command``, ``versions`` (of further ``packages`` too) and ``hardware``."""
    return {
        "command": command_line(),
        "versions": versions([*PACKAGES, *packages]),
        "hardware": hardware(device),
    }


def command_line() -> str:
    """Returns the command that runs, without the folder that its program lies in."""
    path = Path(sys.argv[0])
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None and path.suffix == ".py":
        program = ["python", "-m", spec.name.removesuffix(".__main__")]
    else:
        program = [path.name]
    return shlex.join([*program, *sys.argv[1:]])


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Returns the versions of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def hardware(device: torch.device) -> dict[str, Any]:
    """Returns the names of the device, the architecture and the system, and torch's threads."""
    return {
        "device": device_name(device),
        "machine": platform.machine(),
        "system": platform.platform(),
        "threads": torch.get_num_threads(),
    }


def device_name(device: torch.device) -> str:
    """Returns the name of the GPU, or of the processor where the system tells it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def weights_hash(module: nn.Module) -> str:
    """Returns a SHA-256 digest of all parameters and buffers; waits for the device.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> before = weights_hash(model)
        >>> _ = nn.init.zeros_(model.weight)
        >>> weights_hash(model) == before
        False
    """
    digest = hashlib.sha256()
    for name, values in sorted(module.state_dict().items()):
        digest.update(f"{name} {values.dtype} {tuple(values.shape)} ".encode())
        digest.update(values.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
