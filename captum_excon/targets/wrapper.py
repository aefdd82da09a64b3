"""A model whose "classes" are functions of another model's output."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Target = Callable[[Any], Tensor]


def callable_targets(
    model: nn.Module,
    targets: Target | Sequence[Target],
    *,
    indexed: bool = False,
    split: Callable[[Any, int], Sequence[Any]] | None = None,
) -> CallableTargets:
    """Wraps ``model`` so that functions of its output take the place of classes.

    A target is a callable from the model's output *for one image* to a scalar tensor, as in
    pytorch-grad-cam, whose ``ClassifierOutputTarget``, ``SemanticSegmentationTarget`` and
    ``FasterRCNNBoxScoreTarget`` work unchanged. The wrapped model is a "classifier" whose class
    ``t`` is ``targets[t]``, and Captum's own ``target`` selects the callable for each image:

    * ``attribute(images, target=0)``: the first callable explains every image;
    * ``attribute(images, target=[0, 1, 2])``: one callable for each image;
    * ``attribute_classes(images, [0, 1])``: both callables for every image, in one sweep.

    Every callable is evaluated on every row of a batch. For a long list with one target per image,
    ``indexed=True`` evaluates only one per row: the **last** additional argument then holds the
    indices of the callables, as in ``attribute(images, additional_forward_args=wrapped.index)``, or
    ``(mask, wrapped.index)`` if the model itself has an additional argument; ``target`` is not
    given.

    This package's methods and metrics use the values as they are unless ``score`` is given, since a
    softmax over callables is meaningless; a callable may apply its own softmax or sigmoid.

    Args:
        model: Any module; ``DistributedDataParallel`` is removed. It becomes the submodule
            ``model`` of the result, so a layer has the name ``"model.layer4"``.
        targets: One callable or several.
        indexed: Whether the last argument of each call selects one callable per row.
        split: Called with the model's output and the number of rows, returns the outputs of the
            single images. Default: :func:`split_rows`.

    Returns:
        A module that returns ``(rows, T)``, or ``(rows,)`` if ``indexed``, on the first input's
        device; rows are those of the first input. Gradients flow through it.

    Raises:
        TypeError: If ``model`` is not a module or a target is not callable. In a call: if a target
            does not return a tensor, or the output cannot be split.
        ValueError: If there is no target. In a call: if a target's tensor is not scalar, the output
            has the wrong number of rows, or the index is missing or does not fit.

    Example:
        >>> import torch
        >>> from captum.attr import Saliency
        >>> from captum_excon.targets import callable_targets
        >>> network = torch.nn.Conv2d(1, 2, kernel_size=1, bias=False)  # two maps as output
        >>> def upper_half(output):  # the output for one image, (2, 4, 4)
        ...     return output[1, :2].sum()
        >>> wrapped = callable_targets(network, [upper_half, torch.sum])
        >>> images = torch.rand(3, 1, 4, 4, requires_grad=True)
        >>> saliency = Saliency(wrapped).attribute(images, target=[0, 0, 1])
        >>> [int(saliency[i, 0, 2:].count_nonzero()) for i in range(3)]
        [0, 0, 8]
    """
    listed = list(targets) if isinstance(targets, Sequence) else [targets]
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}.")
    if not listed:
        raise ValueError("targets is empty: pass at least one callable.")
    for t, target in enumerate(listed):
        if not callable(target):
            raise TypeError(
                f"targets[{t}] is {target!r}, which cannot be called. A target is a function from "
                "the output for one image to a scalar tensor; for a class number, pass `target` to "
                "`attribute` without this wrapper."
            )
    if isinstance(model, nn.parallel.DistributedDataParallel):
        # Its forward waits for the other ranks, which may have other numbers of rows to score.
        model = model.module
    return CallableTargets(model, listed, indexed, split or split_rows)


class CallableTargets(nn.Module):
    """The model that :func:`callable_targets` makes.

    Attributes:
        emits_scores: Tells this package's methods and metrics to use the outputs as they are.
        index: If ``indexed``, ``arange(T)``: image ``i`` is explained by ``targets[i]``. It may
            stay on the CPU whatever the model's device.
    """

    emits_scores = True

    def __init__(
        self,
        model: nn.Module,
        targets: list[Target],
        indexed: bool,
        split: Callable[[Any, int], Sequence[Any]],
    ) -> None:
        super().__init__()
        self.model = model
        # Not self.train(): that would also set the flags of the model's submodules.
        self.training = model.training
        # A plain list: targets that are modules must not become submodules of the classifier.
        self.targets = list(targets)
        self.indexed = indexed
        self.split = split
        if indexed:
            self.index = torch.arange(len(targets))

    def forward(self, *inputs: Any) -> Tensor:
        """Scores every row by every callable, or, if ``indexed``, by the one that it names."""
        index: list[int] | None = None
        if self.indexed:
            inputs, index = inputs[:-1], self._read_index(inputs)
        rows = len(inputs[0])
        if index is not None and len(index) != rows:
            raise ValueError(
                f"the index has {len(index)} entries, but the batch has {rows} rows. It needs one "
                "entry per image; `wrapped.index` fits as many images as there are targets."
            )
        samples = self.split(self.model(*inputs), rows)
        if len(samples) != rows:
            raise ValueError(f"split returned {len(samples)} outputs for a batch of {rows} rows.")

        values = [
            self._score(t, sample).to(inputs[0].device)
            for row, sample in enumerate(samples)
            for t in (range(len(self.targets)) if index is None else (index[row],))
        ]
        shape = (rows, len(self.targets)) if index is None else (rows,)
        return torch.stack(values).reshape(shape) if values else inputs[0].new_zeros(shape)

    def _read_index(self, inputs: tuple[Any, ...]) -> list[int]:
        index = inputs[-1] if len(inputs) > 1 else None
        if not isinstance(index, Tensor) or index.dtype != torch.long or index.dim() != 1:
            raise ValueError(
                "this model was wrapped with indexed=True, so its last argument must be a 1-D "
                "torch.long tensor of target indices: pass `additional_forward_args=wrapped.index`."
            )
        chosen: list[int] = index.tolist()
        count = len(self.targets)
        if outside := [t for t in chosen if not 0 <= t < count]:
            raise ValueError(f"index {outside[0]} is out of range: there are {count} targets.")
        return chosen

    def _score(self, t: int, sample: Any) -> Tensor:
        target = self.targets[t]
        value = target(sample)
        name = f"targets[{t}] ({getattr(target, '__name__', type(target).__name__)})"
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} returned {value!r}; expected a scalar tensor.")
        if value.numel() != 1:
            raise ValueError(
                f"{name} returned a tensor of shape {tuple(value.shape)}; expected a scalar. A "
                "target receives the output for one image, without the batch dimension."
            )
        return value.reshape(())


def split_rows(output: Any, rows: int) -> list[Any]:
    """Splits a model's output for a batch into the outputs for its single images.

    * A tensor of shape ``(rows, ...)`` gives its slices ``output[i]``.
    * A **list without tensors**, at the outermost level, is what torchvision's detectors return,
      one dictionary per image: image ``i`` gets element ``i``.
    * A tuple, named tuple, mapping, dataclass or any other list is a structure of batched values:
      image ``i`` gets the same structure (a plain ``dict`` for a mapping) of slices.
    * Inside a structure, values without rows (``None``, numbers, strings and scalar tensors, such
      as a loss) are passed to every image.

    So a list of tensors is never read as one tensor per image; if the model means that, give
    :func:`callable_targets` a ``split``. Tensors are split into views; gradients flow through them.

    Raises:
        ValueError: If a tensor or a list of images does not have ``rows`` rows.
        TypeError: If the output, or a part of it, has a type not named above.

    Example:
        >>> import torch
        >>> from captum_excon.targets import split_rows
        >>> batched = {"out": torch.tensor([[1, 2], [3, 4]]), "scale": 0.5}
        >>> split_rows(batched, 2)[1]
        {'out': tensor([3, 4]), 'scale': 0.5}
    """
    if isinstance(output, list) and not any(isinstance(part, Tensor) for part in output):
        if len(output) != rows:
            raise ValueError(
                f"the model returned a list of {len(output)} outputs for a batch of {rows} rows; "
                "expected one for each image. Pass `split=` to say how the output is divided."
            )
        return output
    if not isinstance(output, Tensor | Mapping | tuple | list) and not _is_dataclass(output):
        raise _unknown_type(output, "output")
    if isinstance(output, Tensor) and output.dim() == 0:
        raise ValueError("the model returned a scalar; expected an output for each image.")
    return _split(output, rows, "output")


def _split(value: Any, rows: int, where: str) -> list[Any]:
    if isinstance(value, Tensor) and value.dim() > 0:
        if len(value) != rows:
            raise ValueError(
                f"the model's {where} has shape {tuple(value.shape)}, but the batch has {rows} "
                "rows. Pass `split=` to say how the output is divided."
            )
        return list(value.unbind())
    if value is None or isinstance(value, Tensor | bool | int | float | str):
        return [value] * rows
    if _is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        parts = [_split(getattr(value, name), rows, f"{where}.{name}") for name in names]
        return [
            dataclasses.replace(value, **{n: p[i] for n, p in zip(names, parts, strict=True)})
            for i in range(rows)
        ]
    if isinstance(value, Mapping):
        columns = {key: _split(part, rows, f"{where}[{key!r}]") for key, part in value.items()}
        return [{key: column[i] for key, column in columns.items()} for i in range(rows)]
    if isinstance(value, tuple | list):
        parts = [_split(part, rows, f"{where}[{i}]") for i, part in enumerate(value)]
        make = getattr(type(value), "_make", type(value))  # a named tuple takes no iterable
        return [make([part[i] for part in parts]) for i in range(rows)]
    raise _unknown_type(value, where)


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _unknown_type(value: Any, where: str) -> TypeError:
    return TypeError(
        f"the model's {where} is a {type(value).__name__}, which cannot be divided into images. "
        "Pass `split=`, a function from the output and the number of rows to a list of outputs."
    )
