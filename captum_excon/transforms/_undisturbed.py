"""Explains in the middle of training without leaving a trace."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

import torch
from captum.attr import Attribution
from torch import Tensor, nn

from captum_excon.attr._core.captum import ForwardFunc
from captum_excon.attr._core.masks import resize
from captum_excon.attr._core.modes import eager

Explainer: TypeAlias = Attribution | Callable[[Tensor, Tensor], Tensor]
"""Any Captum attribution, or a function of images and target classes that returns maps."""

Mode: TypeAlias = Literal["eval", "train"]


@contextlib.contextmanager
def undisturbed(
    module: ForwardFunc | None, mode: Mode = "eval", *, autocast_dtype: torch.dtype | None = None
) -> Iterator[None]:
    """Lets a module run without a trace: on exit it is as if nothing had run.

    Restores each submodule's training flag, the buffers (batch norm's statistics), the parameters'
    ``.grad``, and the random state of the CPU and of the module's CUDA devices, without waiting for
    the device. Compiled code runs uncompiled within, so that hooks fire; DistributedDataParallel
    neither broadcasts buffers nor expects a backward pass. An explainer that draws from torch's
    global random state draws the same again unless something else advances it.

    A surrounding autocast region has no effect within: autocast caches the weights it has cast, and
    a training step that reused weights cast without gradients would silently train none of them.

    Args:
        module: The module, possibly wrapped. For a plain function only the random state is
            restored: pass a module if the model has modes or buffers.
        mode: The mode within; ExCon's official code uses ``"train"``.
        autocast_dtype: Precision within; None for the parameters'.

    Example:
        >>> norm = nn.BatchNorm2d(3)
        >>> with undisturbed(norm):
        ...     norm.training
        False
    """
    if mode not in ("eval", "train"):
        raise ValueError(f'mode must be "eval" or "train", but found {mode!r}')
    model = module if isinstance(module, nn.Module) else nn.Module()
    parts = list(model.modules())
    flags = [part.training for part in parts]
    slots = [(part, dict(part._buffers)) for part in parts if part._buffers]
    buffers = {id(b): b for _, named in slots for b in named.values() if b is not None}
    parameters = list(model.parameters())
    tensors = [*parameters, *buffers.values()]
    with contextlib.ExitStack() as stack:
        stack.enter_context(eager())
        stack.enter_context(_without_synchronisation(parts))
        stack.enter_context(_own_precision(tensors, autocast_dtype))
        stack.enter_context(_own_random_state(tensors))
        # References, not copies: a backward pass within makes new gradients.
        grads = [parameter.grad for parameter in parameters]
        # The originals are not even written to, so that graphs that have saved them survive.
        with torch.inference_mode(False):
            copies = {key: buffer.detach().clone() for key, buffer in buffers.items()}
        try:
            for parameter in parameters:
                parameter.grad = None
            for part, named in slots:
                part._buffers.update(
                    {k: b if b is None else copies[id(b)] for k, b in named.items()}
                )
            model.train(mode == "train")
            yield
        finally:
            for part, training in zip(parts, flags, strict=True):
                if part.training != training:
                    part.training = training
            for part, named in slots:
                part._buffers.update(named)
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.grad = grad


@contextlib.contextmanager
def _without_synchronisation(parts: list[nn.Module]) -> Iterator[None]:
    wrappers = [part for part in parts if isinstance(part, nn.parallel.DistributedDataParallel)]
    saved = [(m.require_forward_param_sync, m.require_backward_grad_sync) for m in wrappers]
    try:
        for wrapper in wrappers:
            wrapper.require_forward_param_sync = wrapper.require_backward_grad_sync = False
        yield
    finally:
        for wrapper, (forward, backward) in zip(wrappers, saved, strict=True):
            wrapper.require_forward_param_sync = forward
            wrapper.require_backward_grad_sync = backward


def _own_precision(
    tensors: list[Tensor], autocast_dtype: torch.dtype | None
) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(
        tensors[0].device.type if tensors else _default_device().type,
        dtype=autocast_dtype,
        enabled=autocast_dtype is not None,
        cache_enabled=False,
    )


def _own_random_state(tensors: list[Tensor]) -> contextlib.AbstractContextManager[Any]:
    devices = {t.device for t in tensors} or {_default_device()}
    return torch.random.fork_rng(devices=[d.index for d in devices if d.type == "cuda"])


def _default_device() -> torch.device:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def explained_module(explainer: Explainer) -> nn.Module | None:
    """Returns the module that an attribution explains, or None if it explains a function."""
    forward_func = getattr(explainer, "forward_func", explainer)
    return forward_func if isinstance(forward_func, nn.Module) else None


def explain(
    explainer: Explainer, images: Tensor, targets: Tensor, size: tuple[int, int] | None = None
) -> Tensor:
    """Computes saliency maps of a batch, (N, 1, H, W) float32; call it within `undisturbed`.

    The explainer's maps (N, K, h, w) are summed over channels and resized bilinearly to ``size``,
    by default the images'. The explainer gets a copy of the images that requires gradients, so that
    frozen models can be explained; it is not called for an empty batch.

    Raises:
        TypeError: The images are not floating point, or the explainer is neither an attribution
            nor callable, or does not return a tensor.
        ValueError: Its maps are not (N, K, h, w).
    """
    size = size or (images.shape[-2], images.shape[-1])
    check_floating(images)
    if not len(images):
        return images.new_zeros((0, 1, *size), dtype=torch.float32)
    with torch.inference_mode(False), torch.enable_grad():
        # No leaf, since models whose first operation works in place may not change one.
        inputs = _ordinary(images.detach()).requires_grad_().clone()
        targets = _ordinary(targets)
        if isinstance(explainer, Attribution):
            maps = explainer.attribute(inputs, target=targets)
        elif callable(explainer):
            maps = explainer(inputs, targets)
        else:
            raise TypeError(
                "explainer must be a Captum attribution or a function of images and targets, but "
                f"found {explainer!r}"
            )
    name = getattr(explainer, "__name__", type(explainer).__name__)
    if not isinstance(maps, Tensor):
        raise TypeError(f"{name} must return a tensor of maps, but returned {type(maps).__name__}")
    return to_maps(maps, len(images), size, name)


def check_floating(images: Tensor) -> None:
    """Raises TypeError for images that no model takes and no gradient reaches."""
    if not images.is_floating_point():
        raise TypeError(
            f"images must be floating point to be explained, but found {images.dtype}; apply "
            "v2.ToDtype(torch.float32, scale=True) first"
        )


def _ordinary(tensor: Tensor) -> Tensor:
    """Copies tensors that were made in inference mode, which autograd does not take."""
    return tensor.clone() if tensor.is_inference() else tensor


def to_maps(maps: Tensor, count: int, size: tuple[int, int], source: str = "maps") -> Tensor:
    """Brings attributions (N, K, h, w) to (N, 1, H, W): float32, summed, bilinear, detached."""
    if maps.ndim != 4 or len(maps) != count:
        raise ValueError(
            f"{source} must be of shape ({count}, channels, height, width), one map for each "
            f"image, but found {tuple(maps.shape)}. For layers that emit tokens or have their "
            "channels last, give the attribution a reshape_transform."
        )
    if not maps.shape[1]:
        raise ValueError(f"{source} must have at least one channel, but no channels are left")
    if maps.shape[2:] == (1, 1) != tuple(size):
        warnings.warn(
            f"{source} are 1x1, so they do not tell pixels apart and leave images of "
            f"{size[0]}x{size[1]} unmasked; explain an earlier layer or use larger images",
            stacklevel=2,
        )
    return resize(maps.detach().float().sum(1, keepdim=True), size)
