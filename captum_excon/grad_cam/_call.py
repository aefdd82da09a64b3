"""One call of a pytorch-grad-cam class, with the map that it computed before any scaling."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import tqdm
from numpy.typing import NDArray
from torch import Tensor, nn

from captum_excon.attr._core.captum import ForwardArgs, Target, select_target, take_targets
from captum_excon.attr._core.capture import HookedLayer
from captum_excon.attr._core.modes import eager
from captum_excon.grad_cam._model import HALF, ObservedModel

# grad-cam draws from numpy's global random state, finds its progress bar in a module, and gives all
# AblationCAMs one default AblationLayer: calls from several threads take turns.
_turn = threading.RLock()


@dataclass(frozen=True)
class CamCall:
    """What to call, and which map of it is wanted."""

    cam_class: type
    options: dict[str, Any]  # of its constructor
    call_options: dict[str, Any]
    scaled: bool  # return what the CAM returns, in place of the map it computed first
    batch_size: int | None  # of the classes that score many rows; None for their default
    seed: int
    show_progress: bool

    def maps(
        self,
        model: nn.Module,
        layers: Sequence[HookedLayer],
        images: Tensor,
        target: Target,
        args: ForwardArgs,
    ) -> NDArray[Any]:
        """Returns the maps (N, *spatial) of N > 0 images; several layers are aggregated."""
        rows = len(images)
        # Scoring passes do not tell whose rows they have: with arguments that differ, and where
        # the class takes one target for all, each image has a call of its own.
        step = 1 if any(args.per_image) or is_subclass(self.cam_class, "FinerCAM") else rows
        images = images.float() if images.dtype in HALF else images
        parts = []
        with _turn, _numpy_seed(self.seed), eager(), torch.inference_mode(False):
            for start in range(0, rows, step):
                batch = images[start : start + step].detach().clone()
                row_args = functools.partial(_repeat_row, args, start)
                observed = ObservedModel(model, layers, row_args, batch)
                targets = [_OneImage(observed, target, i) for i in range(start, start + step)]
                with torch.enable_grad():
                    parts.append(self._run(observed, batch, targets))
        return np.concatenate(parts)

    def _run(self, model: ObservedModel, images: Tensor, targets: list[_OneImage]) -> NDArray[Any]:
        # FullGrad says so in print when it is given layers.
        no_layers = is_subclass(self.cam_class, "FullGrad")
        cam = self.cam_class(
            model=model,
            target_layers=[] if no_layers else list(model.probes),
            reshape_transform=model.as_map,
            **self.options,
        )
        bases = _bases(cam)
        model.differentiable = any(base.uses_gradients for base in bases)
        model.forget = functools.partial(_forget, bases)
        if self.batch_size is not None:
            cam.batch_size = self.batch_size
        chosen: dict[str, Any] = {"targets": targets}
        if is_subclass(self.cam_class, "FinerCAM"):
            chosen = {"targets": None, "target_idx": targets[0].class_index()}
        found: list[NDArray[Any]] = []
        for base in bases:
            _record(base, found)
        if no_layers and not self.scaled:
            cam.aggregate_multi_layers = functools.partial(np.sum, axis=1)
        try:
            with contextlib.nullcontext() if self.show_progress else _silence(cam, *bases):
                result: NDArray[Any] = cam(images, **chosen, **self.call_options)
            if not model.differentiable:
                # Some such classes never look at the target, which may be wrong all the same.
                for target, output in zip(targets, getattr(cam, "outputs", ()), strict=False):
                    target(output)
        finally:
            model.release()
            # Its release would detach what ShapleyCAM has kept in place, which views do not allow.
            _forget(bases)
            for base in bases:
                base.activations_and_grads.release()
                # These close a circle, which would keep the graph until it is collected.
                for name in ("get_cam_image", "outputs"):
                    vars(base).pop(name, None)
        if self.scaled or no_layers:
            return result
        if len(found) != 1 or (cam not in bases and not is_subclass(self.cam_class, "FinerCAM")):
            raise ValueError(
                f"{self.cam_class.__name__}, called with {self.call_options}, combines several "
                "scaled maps and has no raw one; pass output='scaled'"
            )
        return found[0]


class _OneImage:
    """A target of grad-cam: a function of the output of one image, or of SESS's many patches."""

    def __init__(self, model: ObservedModel, target: Target, image: int) -> None:
        own = take_targets(target, torch.tensor([image]))
        self._target = own[0] if isinstance(own, list) else own
        self._model = model

    def __call__(self, output: Tensor) -> Tensor:
        if output.dim() == self._model.output_dims:
            return select_target(output, self._target)
        return select_target(output.unsqueeze(0), self._target)[0]

    def class_index(self) -> int:
        target = self._target
        if isinstance(target, Tensor) and target.numel() == 1:
            target = int(target)
        if not isinstance(target, int):
            raise ValueError(
                "FinerCAM compares a class with others and needs one class index for each image as "
                f"target, but found {target!r}"
            )
        return target


class _Full(list[Any]):
    """Activations are complete: the hooks of later scoring passes would only pile up more."""

    def append(self, _: Any) -> None:
        pass


def _record(base: Any, found: list[NDArray[Any]]) -> None:
    original = base.get_cam_image

    def get_cam_image(*args: Any, **kwargs: Any) -> NDArray[Any]:
        base.activations_and_grads.activations = _Full()
        maps: NDArray[Any] = original(*args, **kwargs)
        found.append(maps)
        return maps

    base.get_cam_image = get_cam_image


def _forget(bases: list[Any]) -> None:
    for base in bases:
        base.activations_and_grads.activations.clear()
        base.activations_and_grads.gradients.clear()


def _bases(cam: Any) -> list[Any]:
    """The objects with hooks: the CAM itself, or those that a meta-method is made of."""
    inner = [*getattr(cam, "base_cam_per_layer", ())]
    inner += [cam.base_cam] if hasattr(cam, "base_cam") else []
    return [base for part in inner for base in _bases(part)] or [cam]


def is_subclass(cam_class: type, name: str) -> bool:
    """Whether a class is grad-cam's class of that name, or made from it; imports nothing."""
    return any(c.__name__ == name and "pytorch_grad_cam" in c.__module__ for c in cam_class.__mro__)


def _repeat_row(args: ForwardArgs, image: int, count: int) -> tuple[Any, ...]:
    return args.take(torch.full((count,), image)).values


@contextlib.contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    # The legacy generator is the one that RandomCAM and scikit-learn's solvers draw from.
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


@contextlib.contextmanager
def _silence(*cams: Any) -> Iterator[None]:
    """Replaces tqdm and print in the modules of these objects' classes.

    Theirs alone: sys.stdout and sys.stderr belong to all threads.
    """
    bars = functools.partial(tqdm.tqdm, disable=True)
    with contextlib.ExitStack() as undo:
        for name in {c.__module__ for cam in cams for c in type(cam).__mro__}:
            names = vars(sys.modules[name])
            if name == "builtins":
                continue
            undo.callback(names.pop, "print", None)
            names["print"] = lambda *_args, **_kwargs: None
            if "tqdm" in names:
                undo.callback(names.__setitem__, "tqdm", names["tqdm"])
                names["tqdm"] = SimpleNamespace(tqdm=bars) if names["tqdm"] is tqdm else bars
        yield
