"""Captum's validation of inputs and targets; the only file that imports its private helpers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from captum._utils.common import (
    _format_additional_forward_args,
    _format_tensor_into_tuples,
    _select_targets,
    _validate_target,
)
from captum.attr import Attribution
from captum.attr._utils.approximation_methods import SUPPORTED_METHODS, approximation_parameters
from captum.attr._utils.common import _format_input_baseline
from captum.log import log_usage
from torch import Tensor

ForwardFunc = Callable[..., Any]
Inputs = Tensor | tuple[Tensor, ...]
Target = int | tuple[int, ...] | Tensor | list[int] | list[tuple[int, ...]] | None

_ORDER = "baselines come before target in attribute, so pass target=... by name"


class Classes(list[Target]):
    """Several targets for ``attribute``, which then returns a list with the result of each."""


class ClassesAttribution(Attribution):
    """Base of the methods: Captum logs their ``attribute``, which takes `Classes`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "attribute" in vars(cls):
            cls.attribute = log_usage(part_of_slo=True)(cls.attribute)

    def attribute_classes(
        self,
        inputs: Inputs,
        classes: Sequence[Target],
        baselines: Any = None,
        additional_forward_args: Any = None,
        **options: Any,
    ) -> list[Any]:
        """Computes the maps of several classes of each image in one sweep.

        The classes share forward passes, and of the masking methods every mask that several
        classes use, so that any number of them costs at most one row for each possible mask.

        Args:
            inputs: As in `attribute`.
            classes: Targets, each in any form that `attribute` takes for the whole batch.
            baselines: As in `attribute`, for methods that take them.
            additional_forward_args: As in `attribute`.
            **options: The other keywords of `attribute`.

        Returns:
            For each class what ``attribute(inputs, target=class)`` returns.
        """
        if baselines is not None:
            options["baselines"] = baselines
        options["additional_forward_args"] = additional_forward_args
        maps: list[Any] = self.attribute(inputs, target=Classes(classes), **options)
        return maps


def format_inputs(inputs: Inputs, *, spatial: bool) -> tuple[Tensor, ...]:
    """Returns the inputs as a tuple of finite floating-point tensors with equally many rows.

    With ``spatial``, each must be (N, C, L), (N, C, H, W) or (N, C, D, H, W).
    """
    formatted: tuple[Tensor, ...] = _format_tensor_into_tuples(inputs)
    if not formatted:
        raise ValueError("inputs is an empty tuple; pass at least one tensor of shape (N, C, ...)")
    for x in formatted:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            found = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(
                f"inputs must be floating-point tensors, but found {found}; convert images with "
                "torchvision.transforms.v2.ToDtype(torch.float32, scale=True), and pass indices or "
                "masks as additional_forward_args"
            )
        if spatial and x.dim() not in (3, 4, 5):
            raise ValueError(
                "inputs must have shape (N, C, L), (N, C, H, W) or (N, C, D, H, W), but found "
                f"{tuple(x.shape)}; add the batch dimension with unsqueeze(0), and pass other "
                "inputs as additional_forward_args"
            )
        if x.dim() < 2 or 0 in x.shape[1:]:
            raise ValueError(
                "inputs must have shape (N, features...), where only N may be 0, but found "
                f"{tuple(x.shape)}"
            )
        if x.shape[0] != formatted[0].shape[0]:
            shapes = [tuple(t.shape) for t in formatted]
            raise ValueError(f"all inputs must have the same number of rows, but found {shapes}")
        if not bool(torch.isfinite(x).all()):
            raise ValueError("inputs contain NaN or infinity; clean them, see torch.nan_to_num")
    return tuple(x.detach() for x in formatted)


def format_baselines(baselines: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Returns one tensor of 1 or N rows per input, broadcastable to it; None means zero."""
    if isinstance(baselines, Tensor) and baselines.dim() == 0:
        baselines = baselines.item()
    if isinstance(baselines, list):
        raise TypeError(f"baselines must be numbers or tensors, but found a list; {_ORDER}")
    _, formatted = _format_input_baseline(inputs, baselines)
    if len(formatted) != len(inputs):
        raise ValueError(
            f"there must be one baseline for each input, but found {len(formatted)} for "
            f"{len(inputs)}; {_ORDER}"
        )
    tensors = []
    for x, b in zip(inputs, formatted, strict=True):
        if not isinstance(b, Tensor):
            b = x.new_full((1,) * x.dim(), b)
        fits = [s in (1, t) for s, t in zip(b.shape, x.shape, strict=False)]
        if b.dim() != x.dim() or not all(fits):
            raise ValueError(
                f"baselines of shape {tuple(b.shape)} do not fit inputs of shape {tuple(x.shape)}; "
                "pass a number, or a tensor that broadcasts to the inputs, such as "
                f"(0 - mean) / std of shape (1, C, 1, 1) for black; {_ORDER}"
            )
        b = b.detach().to(x)
        if not bool(torch.isfinite(b).all()):
            raise ValueError("baselines contain NaN or infinite values; pass finite ones")
        tensors.append(b)
    return tuple(tensors)


@dataclass(frozen=True)
class ForwardArgs:
    """Additional forward arguments, and which of them have a row for each image.

    That is decided once, against the whole batch: a part of it may happen to be as long as a
    tensor that all images share.
    """

    values: tuple[Any, ...] = ()
    per_image: tuple[bool, ...] = ()

    def take(self, index: Tensor) -> ForwardArgs:
        """Returns the arguments of the images ``index``, (R,)."""
        taken = (
            value[index.to(value.device)] if rowwise else value
            for value, rowwise in zip(self.values, self.per_image, strict=True)
        )
        return ForwardArgs(tuple(taken), self.per_image)

    def of_one_row(self) -> ForwardArgs:
        """Returns arguments for one row of zeros, which tells the maps' shape without images."""
        values = (
            value.new_zeros(1, *value.shape[1:]) if rowwise else value
            for value, rowwise in zip(self.values, self.per_image, strict=True)
        )
        return ForwardArgs(tuple(values), self.per_image)


def format_args(additional_forward_args: Any, rows: int) -> ForwardArgs:
    """Returns the additional arguments; tensors of ``rows`` rows have one for each image."""
    values = _format_additional_forward_args(additional_forward_args) or ()
    per_image = (isinstance(v, Tensor) and v.dim() > 0 and len(v) == rows for v in values)
    return ForwardArgs(tuple(values), tuple(per_image))


def check_targets(targets: Sequence[Target], rows: int) -> None:
    """Raises AssertionError where a list or tensor of targets is not one per row."""
    if not targets:
        raise ValueError("classes is empty; name at least one target")
    for target in targets:
        _validate_target(rows, target)


def take_targets(target: Target, index: Tensor) -> Target:
    """Returns the targets of the images ``index``, (R,); a target for all images stays."""
    if isinstance(target, list):
        return [target[i] for i in index.tolist()]
    # Captum reads a tensor of one element as one target for all.
    if isinstance(target, Tensor) and target.numel() > 1:
        return target[index.to(target.device)]
    return target


def run_forward(
    forward_func: ForwardFunc, inputs: tuple[Tensor, ...], args: tuple[Any, ...]
) -> Tensor:
    """Returns the model's output, a tensor with one row per input row, in float32 or wider."""
    output = forward_func(*inputs, *args)
    if not isinstance(output, Tensor):
        raise TypeError(
            f"forward_func must return a tensor, but returned {type(output).__name__}; wrap the "
            "model with captum_excon.callable_targets, or pass a function that picks the tensor"
        )
    if output.dim() == 0 or output.shape[0] != inputs[0].shape[0]:
        raise ValueError(
            f"forward_func must return one row per input row, but returned shape "
            f"{tuple(output.shape)} for {inputs[0].shape[0]} rows"
        )
    return output.float() if output.dtype in (torch.float16, torch.bfloat16) else output


def select_target(output: Tensor, target: Target) -> Tensor:
    """Selects one score per row by Captum's rules; (N, ...) -> (N,)."""
    if isinstance(target, Tensor):
        target = target.to(output.device)
    selected: Tensor = _select_targets(output, target)
    if selected.numel() != selected.shape[0]:
        raise AssertionError(
            f"target={target!r} selects values of shape {tuple(selected.shape[1:])} for each row "
            f"of an output of shape {tuple(output.shape)}, but must select one; pass a target for "
            "every output dimension but the first (it is attribute's third positional argument), "
            "or reduce the output with captum_excon.callable_targets"
        )
    return selected.reshape(-1)


def quadrature(method: str, n_steps: int) -> tuple[list[float], list[float]]:
    """Returns the nodes on [0, 1] and the weights of one of Captum's quadrature rules."""
    if method not in SUPPORTED_METHODS:
        raise ValueError(f"method must be one of {SUPPORTED_METHODS}, but found {method!r}")
    least = 1 if method == "gausslegendre" else 2
    if not isinstance(n_steps, int) or n_steps < least:
        raise ValueError(
            f"method={method!r} needs n_steps as an integer >= {least}, but found {n_steps!r}"
        )
    step_sizes, nodes = approximation_parameters(method)
    return nodes(n_steps), step_sizes(n_steps)
