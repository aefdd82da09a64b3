"""Weights from files, read without running code."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_excon.errors import MissingPackageError, UserError

State = Mapping[str, Tensor]

# Where training scripts put the state dict of the model in their checkpoints.
_ENTRIES = ("state_dict", "model_state_dict", "model", "net")
# In this order where several copies fit, an average of the weights among them for example.
_PREFIXES = ("", "model.", "module.", "model.module.", "network.")


def load_weights(module: nn.Module, path: Path, name: str, *, headless: bool = False) -> None:
    """Loads weights into a network.

    Reads safetensors, a state dict as ``torch.save(model.state_dict(), FILE)`` writes it, and
    checkpoints that hold one under ``"state_dict"`` or ``"model"``. The network's keys may have a
    prefix, as Lightning (``model.``) and data parallelism (``module.``) add; what lies outside of
    it, such as a loss, is left out.

    Args:
        module: The network.
        path: The file; no code in it is run.
        name: The name of the network, for messages.
        headless: The network has lost its classifier, whose weights in the file are ignored.

    Raises:
        UserError: The file is missing, holds no weights, or those of another network.
        MissingPackageError: safetensors is not installed.
    """
    state = _without_prefix(_state_dict(path, read_plain(path)), module, headless)
    own = module.state_dict()
    problems = {
        "missing": [key for key in own if key not in state],
        "unknown to the model": [key for key in state if key not in own and not headless],
        "of another shape": [k for k in own if k in state and own[k].shape != state[k].shape],
    }
    if any(problems.values()):
        counts = [f"{len(keys)} {what} ({keys[0]}, ...)" for what, keys in problems.items() if keys]
        raise UserError(f"--weights {path} does not fit {name}: {'; '.join(counts)}")
    module.load_state_dict({key: state[key] for key in own})


def read_plain(path: Path) -> Any:
    """Reads what a file holds, on the CPU, if it is plain data; raises as `load_weights`."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with (
            warnings.catch_warnings(),
            # Training scripts keep their arguments beside the weights.
            torch.serialization.safe_globals([argparse.Namespace]),
        ):
            # torch announces a TorchScript archive with a warning before it refuses it.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise MissingPackageError(f"{path} needs safetensors: pip install safetensors") from error
    except Exception as error:  # torch.load raises almost anything on a file of another kind
        raise UserError(
            f"{path} holds no plain weights (corrupt, a TorchScript archive, or a pickle with "
            f"code: {type(error).__name__}); save model.state_dict() with torch.save or as "
            "safetensors"
        ) from error


def _state_dict(path: Path, found: Any) -> State:
    inside = [found, *(found.get(key) for key in _ENTRIES)] if isinstance(found, Mapping) else []
    for state in inside:
        if isinstance(state, Mapping) and state and all(map(torch.is_tensor, state.values())):
            return state
    keys = f" with keys {', '.join(map(str, list(found)[:5]))}" if inside else ""
    raise UserError(
        f"--weights {path} holds a {type(found).__name__}{keys}, where a state dict is needed, "
        f"alone or under one of {', '.join(_ENTRIES)}"
    )


def _without_prefix(state: State, module: nn.Module, headless: bool) -> State:
    """Returns the entries of the network, by its own keys."""
    own = list(module.state_dict())
    if not own or all(key in state for key in own):
        return state
    found = {key[: -len(own[0])] for key in state if key.endswith(f".{own[0]}")}
    fitting = [p for p in found if all(f"{p}{key}" in state for key in own)]
    # An own training run has the encoder of a larger network, of which an encoder is wanted.
    known = [p for p in (*_PREFIXES, "network.encoder.") if p in fitting]
    if not known and len(fitting) > 1:
        raise UserError(
            f"the weights fit under several prefixes ({', '.join(sorted(fitting))}); save those of "
            "one network alone"
        )
    for prefix in [*known, *fitting][:1]:
        return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
    return state
