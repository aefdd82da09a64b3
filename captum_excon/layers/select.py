"""Which layers to explain: the last map of every convolutional block, found in one traced pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captum_excon.layers._choice import REMEDY, check_not_tokens, choose
from captum_excon.layers._run import first_rows, row_counts, run_traced
from captum_excon.layers._trace import Call, ReshapeTransform, Size


@dataclass(frozen=True)
class SelectedLayer:
    """A layer that `select_layers` chose.

    Attributes:
        name: Its name in the unwrapped model.
        module: The module whose output is the feature map.
        channels: Number of feature maps.
        size: Spatial size of a map, ``(h, w)`` for images.
        channels_last: Whether the output is `(N, *size, channels)`, as in torchvision's Swin.
        input_channels_last: The same for the module's input.
    """

    name: str
    module: nn.Module
    channels: int
    size: Size
    channels_last: bool
    input_channels_last: bool = False


def select_layers(
    model: nn.Module,
    example_inputs: Tensor | tuple[Tensor, ...],
    additional_forward_args: Any = None,
    *,
    reshape_transform: ReshapeTransform | None = None,
) -> list[SelectedLayer]:
    """Chooses the last layer of every convolutional block, from shallow to deep.

    SISE splits a CNN at its down-sampling layers and explains the input of each, and the last map
    before global pooling or flattening. Here one traced forward pass finds these maps, whatever the
    model's classes and modules are called; docs/methods.md gives the rules and the corner cases.

    The pass runs without gradients (with them if `reshape_transform` is given), on an empty batch
    if the model accepts one, otherwise on the first row; a model with modules in training mode gets
    all rows. Modes, buffers, gradients and the random state are left unchanged. Other threads may
    use the model meanwhile, in evaluation mode.

    Args:
        model: The network, possibly wrapped (see `unwrap`); names are relative to what is inside.
        example_inputs: `(N, C, *spatial)` with one to three spatial dimensions, or a tuple of
            tensors. The first with at least three dimensions is taken for the image; a second is
            tried only if the first has no map.
        additional_forward_args: Further arguments of the model, as in Captum. Tensors with `N`
            rows are cut like the inputs.
        reshape_transform: Turns the output of a module into `(N, C, *spatial)`. Modules whose
            output makes it raise an error are ignored.

    Returns:
        The layers in order of execution: for ResNet-50 ``relu`` and ``layer1`` to ``layer4``, for
        VGG-16 ``features.3``, ``.8``, ``.15``, ``.22`` and ``.29``.

    Raises:
        TypeError: If `model` is not an ``nn.Module`` or is scripted, or if the inputs are not
            tensors.
        ValueError: If no input has three dimensions, if a model in training mode gets no rows, if
            the model has no maps, or if it mostly works on tokens and `reshape_transform` is
            missing.

    Reference:
        Sattarzadeh et al., *Explaining Convolutional Neural Networks through Attribution-Based
        Input Sampling and Block-Wise Feature Aggregation*, AAAI 2021, section 3.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(
        ...     nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        ...     nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        ...     nn.Flatten(), nn.Linear(8, 2),
        ... ).eval()
        >>> [(s.name, s.channels, s.size) for s in select_layers(model, torch.rand(1, 3, 8, 6))]
        [('1', 4, (8, 6)), ('4', 8, (4, 3))]
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"Layers can be found in an nn.Module, not in {type(model).__name__}. "
            "Pass the modules yourself, as layers=[...]."
        )
    if reshape_transform is not None and not callable(reshape_transform):
        raise TypeError("reshape_transform must be a callable that turns a tensor into a tensor.")
    model = unwrap(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            "Hooks do not see inside a scripted or traced model: pass the model it was made from."
        )
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    if not all(isinstance(tensor, Tensor) for tensor in inputs):
        raise TypeError("example_inputs must be a tensor or a tuple of tensors.")
    if not any(tensor.ndim >= 3 for tensor in inputs):
        raise ValueError(
            "Layers are found by the spatial size of their maps, so one of the inputs must be "
            f"(N, C, *spatial); got {', '.join(str(tuple(t.shape)) for t in inputs)}. {REMEDY}"
        )
    extra = additional_forward_args
    extra = extra if isinstance(extra, tuple) else () if extra is None else (extra,)

    rows, refusal = len(inputs[0]), ""
    for count in row_counts(model, rows, reshape_transform):
        args = [first_rows(value, rows, count) for value in (*inputs, *extra)]
        for image in (i for i, tensor in enumerate(inputs) if tensor.ndim >= 3):
            try:
                trace = run_traced(model, args, image, reshape_transform)
            except Exception:
                # Reshaping with -1 and many hand-written checks fail on an empty batch.
                if count > 0 or rows == 0:
                    raise
                break
            if chosen := choose(trace):
                if reshape_transform is None:
                    check_not_tokens(trace, chosen)
                return [_selected(call) for call in chosen]
            refusal = trace.refusal
    raise ValueError(
        f"None of the model's modules emits a feature map that the output depends on{refusal}. "
        f"{REMEDY}"
    )


def _selected(call: Call) -> SelectedLayer:
    assert call.map
    input_channels_last = call.given is not None and call.given.channels_last
    return SelectedLayer(call.name, call.module, *call.map, input_channels_last)


def unwrap(model: nn.Module) -> nn.Module:
    """Returns the module inside wrappers that would hide its hooks or change its names.

    These are ``torch.compile``, ``DataParallel`` and ``DistributedDataParallel``, nested or not.
    """
    while True:
        # The class of compiled modules is not public, but its attribute is stable.
        if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


def channels_last_to_first(tensor: Tensor) -> Tensor:
    """Moves the channels of `(N, *spatial, C)` to `(N, C, *spatial)`, as a view.

    Serves as `reshape_transform` for layers with `SelectedLayer.channels_last`.

    Example:
        >>> channels_last_to_first(torch.zeros(2, 7, 5, 96)).shape
        torch.Size([2, 96, 7, 5])
    """
    return tensor.movedim(-1, 1)


@dataclass(frozen=True)
class _TokensToMap:
    height: int
    width: int
    prefix_tokens: int

    def __call__(self, tokens: Tensor) -> Tensor:
        expected = self.prefix_tokens + self.height * self.width
        if tokens.ndim != 3 or tokens.shape[1] != expected:
            raise ValueError(
                f"Expected tokens (N, {expected}, C), that is {self.prefix_tokens} + {self.height} "
                f"x {self.width} tokens, but got {tuple(tokens.shape)}. Pass tokens_to_map the "
                "grid (image size / patch size) and the number of class and register tokens."
            )
        patches = tokens[:, self.prefix_tokens :].transpose(1, 2)
        return patches.reshape(*patches.shape[:2], self.height, self.width)


def tokens_to_map(height: int, width: int, prefix_tokens: int = 1) -> ReshapeTransform:
    """Makes a `reshape_transform` for vision transformers.

    Args:
        height: Rows of the grid of patches: 14 for an image of 224 pixels and patches of 16.
        width: Columns of the grid.
        prefix_tokens: Class and register tokens before the patches; they are dropped.

    Returns:
        A picklable callable from `(N, prefix_tokens + height * width, C)` to a view of shape
        `(N, C, height, width)`. It raises ValueError for any other shape.

    Raises:
        ValueError: If a size is below 1 or `prefix_tokens` is negative.

    Example:
        >>> tokens_to_map(14, 14)(torch.zeros(2, 197, 768)).shape
        torch.Size([2, 768, 14, 14])
    """
    if height < 1 or width < 1 or prefix_tokens < 0:
        given = f"got {height}, {width} and {prefix_tokens}"
        raise ValueError(f"height and width must be at least 1, prefix_tokens at least 0; {given}.")
    return _TokensToMap(height, width, prefix_tokens)
