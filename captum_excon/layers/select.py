"""Which layers to explain: the last map of every convolutional block, found in one traced pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captum_excon.layers._choice import REMEDY, check_not_tokens, choose
from captum_excon.layers._trace import (
    Call,
    ReshapeTransform,
    Size,
    first_rows,
    row_counts,
    run_traced,
)

__all__ = ["SelectedLayer", "channels_last_to_first", "select_layers", "tokens_to_map", "unwrap"]


@dataclass(frozen=True)
class SelectedLayer:
    """A layer that `select_layers` chose.

    Attributes:
        name: The module's name; ``unwrap(model).get_submodule(name)`` is `module`.
        module: The module whose output is the feature map.
        channels: Number of feature maps.
        size: Spatial size of a map, ``(h, w)`` for images.
        channels_last: True if the module emits `(N, *size, channels)`, as the stages of
            torchvision's Swin do; False for `(N, channels, *size)`.
        input_channels_last: The same of what the module is given.
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
    r"""Chooses the last layer of every convolutional block, from shallow to deep.

    SISE splits a CNN at its down-sampling layers and takes the input of each of them, and the last
    map before global pooling or flattening. The choice here is made from one forward pass and
    depends on no architecture's class or module names (the method is ours, the aim the paper's):

    1. The **main path** is the sequence of maps that everything later is computed from: no path
       from image to output avoids them. What happens inside a residual or a many-branched block,
       a gate, or an auxiliary classifier is not on it. A map has the input's number of dimensions
       and more than one position.
    2. The main path is cut where a spatial dimension falls to half (rounded up) or less. The loss
       of a border in an unpadded convolution is no cut.
    3. Each piece gives its **last** map, unless up-sampling follows. A map counts only if a layer
       with parameters has worked at its size: a pooled map is the one before it again.
    4. A block that down-samples **once, by a strided layer with parameters,** counts as one
       down-sampling layer if **at most one layer with weights** precedes its stride: the expansion
       in MobileNet's and EfficientNet's blocks, or none in a pre-activated block. Depth-wise
       layers around an expansion do not count. What the block computes before its stride is left
       out if the piece has another map. A pooling layer is never widened in this way: its very
       input is taken, wherever it sits.
    5. Of the modules that emit a map, the **outermost** is named: ``layer2``, not
       ``layer2.3.relu``.

    Readings chosen where several were possible:

    - *Modules used twice* are known to a hook by their **last** call, so only that call can be
      chosen. The map of an earlier call is left to the module before or around it.
    - *In-place operations* make a new map: an in-place ``nn.ReLU`` is chosen, not the convolution
      before it. Where the operation is a function (``F.relu(x, inplace=True)``), no module emits
      the result, and the one that emitted `x` is chosen.
    - *Sums that no module emits* (``x + self.block(x)`` in the caller): ``block`` stands for them.
      So do, for resolutions that the main path jumps over because cells read two earlier ones
      (NASNet, HRNet), the modules called beside the path's.
    - *Skips past the bottom* (U-Net, heads on several stages): the path leads to the last of the
      smallest maps instead of to the output.
    - *Class scores and box regressions are no feature maps*: in models with a dense output, and in
      heads (submodules that receive maps, emit none and end in a convolution: those of SqueezeNet
      and of detectors), maps from that last layer on are left out. In a detector the path leads to
      the last of the smallest maps that every score depends on.
    - *Tokens*: with `reshape_transform`, every output that it accepts is a map, all usually at
      one size, so the list has one entry. It is the last whose positions still reach the output.
      In a class-token ViT that is the **input** of the last block, since the patch tokens that
      the last block emits are thrown away; in a ViT that averages its tokens, its last layer.

    The pass is made without gradients (with them if `reshape_transform` is given), on an empty
    batch where the model takes one (no row is spent), else on the first row; a model with modules
    in training mode is given all rows as they are. Modes, buffers, gradients and the random state
    are as before afterwards. Other threads may use the model meanwhile, in evaluation mode.

    Args:
        model: The network. ``torch.compile``, ``DataParallel`` and ``DistributedDataParallel``
            wrappers are taken off (see `unwrap`); names are relative to what is inside.
        example_inputs: `(N, C, *spatial)`, one to three spatial dimensions, or a tuple of tensors,
            of which the first with at least three dimensions is the image. A second image is
            followed only if no map can be found for the first.
        additional_forward_args: Further arguments of the model, as in Captum. Tensors with `N`
            rows are cut with the inputs.
        reshape_transform: Turns the output of a module into `(N, C, *spatial)`. It is tried on
            every module; one that it raises an error for is not considered.

    Returns:
        The layers in the order of execution. For ResNet-50 these are ``relu``, ``layer1``,
        ``layer2``, ``layer3`` and ``layer4``; for VGG-16 ``features.3``, ``.8``, ``.15``, ``.22``
        and ``.29``.

    Raises:
        TypeError: If `model` is no ``nn.Module`` or a scripted one, or if the inputs are neither a
            tensor nor a tuple of tensors.
        ValueError: If no input has three dimensions, if a model in training mode gets no rows, if
            the model has no maps, or if most of it works on tokens and there is no
            `reshape_transform`.

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
            "Pass the modules to explain explicitly, as layers=[...]."
        )
    if reshape_transform is not None and not callable(reshape_transform):
        raise TypeError("reshape_transform must be a callable that turns a tensor into a tensor.")
    model = unwrap(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            "Layers cannot be found in a scripted or traced model: hooks do not see inside it. "
            "Pass the model that it was made from."
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
                # Reshaping with -1 fails on no rows, as do many hand-written checks.
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
    """Returns the module inside the wrappers that would hide its hooks or change its names.

    Args:
        model: Any module, perhaps wrapped by ``torch.compile``, ``DataParallel`` or
            ``DistributedDataParallel``, in any nesting.

    Returns:
        The innermost module, which shares its parameters with `model`.

    Example:
        >>> from torch import nn
        >>> model = nn.Linear(2, 2)
        >>> unwrap(nn.DataParallel(model)) is model
        True
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

    It is a `reshape_transform` for layers that `SelectedLayer.channels_last` marks.

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
                f"x {self.width} tokens, but got {tuple(tokens.shape)}. Give tokens_to_map the "
                "model's grid (image size / patch size) and its number of class and register "
                "tokens."
            )
        patches = tokens[:, self.prefix_tokens :].transpose(1, 2)
        return patches.reshape(*patches.shape[:2], self.height, self.width)


def tokens_to_map(height: int, width: int, prefix_tokens: int = 1) -> ReshapeTransform:
    """Makes a `reshape_transform` for vision transformers.

    Args:
        height: Rows of the grid of patches: 14 for an image of 224 pixels and patches of 16.
        width: Columns of the grid.
        prefix_tokens: Tokens before the patches, which are dropped: the class token and registers.

    Returns:
        A callable, which can be pickled, from `(N, prefix_tokens + height * width, C)` to
        `(N, C, height, width)`, a view. It raises ValueError for any other shape.

    Raises:
        ValueError: If a size is below 1 or `prefix_tokens` is negative.

    Example:
        >>> tokens_to_map(14, 14)(torch.zeros(2, 197, 768)).shape
        torch.Size([2, 768, 14, 14])
    """
    if height < 1 or width < 1 or prefix_tokens < 0:
        raise ValueError(
            "height and width must be at least 1 and prefix_tokens at least 0; "
            f"got {height}, {width} and {prefix_tokens}."
        )
    return _TokensToMap(height, width, prefix_tokens)
