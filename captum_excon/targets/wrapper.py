"""Any function of a model's output as the target of a Captum method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["CallableTargets", "callable_targets", "split_rows"]

Target = Callable[[Any], Tensor]


def callable_targets(
    model: nn.Module,
    targets: Target | Sequence[Target],
    *,
    indexed: bool = False,
    split: Callable[[Any, int], Sequence[Any]] | None = None,
) -> CallableTargets:
    """Wrap ``model`` so that functions of its output take the place of classes.

    A target is a callable that receives the model's output *for one image* and returns a scalar
    tensor: the convention of pytorch-grad-cam, whose ``ClassifierOutputTarget``,
    ``SemanticSegmentationTarget`` and ``FasterRCNNBoxScoreTarget`` can be given as they are. The
    wrapped model is a "classifier" whose class ``t`` is ``targets[t]``, so that Captum's own
    ``target`` says which callable explains which image, and Captum repeats it together with the
    images wherever a method repeats them:

    * ``attribute(images, target=0)``: the first callable explains every image;
    * ``attribute(images, target=[0, 1, 2])``: one callable for each image;
    * ``attribute_classes(images, [0, 1])``: both callables for every image, in one sweep.

    Every callable is evaluated on every row of a batch. With ``indexed=True``, only one is: the
    wrapped model then takes, as its **last** additional argument, the indices of the callables,
    one for each image, and returns ``(rows,)`` instead of ``(rows, T)``. That suits a long list
    with one target for each image: ``attribute(images, additional_forward_args=wrapped.index)``,
    or ``(mask, wrapped.index)`` where the model itself has an additional argument ``mask``; there
    is no ``target`` then.

    The outputs are scores, and a softmax over callables would mean nothing, so this package's
    methods and metrics take them as they are (``score="identity"``) unless ``score`` is given. A
    callable that should be a probability applies its own softmax or sigmoid.

    Args:
        model: Any module; a ``DistributedDataParallel`` is taken off. It is not changed; it becomes
            the submodule ``model`` of the result, so a layer is given as ``model.layer4`` itself or
            by the name ``"model.layer4"``.
        targets: One callable or several.
        indexed: Whether the last argument of each call says which callable scores which row.
        split: Called with the model's output and the number of rows, returns the outputs of the
            single images. Default: :func:`split_rows`.

    Returns:
        A module: ``wrapped(*inputs)`` of shape ``(rows, T)``, or, if ``indexed``,
        ``wrapped(*inputs, index)`` of shape ``(rows,)``; rows are those of the first input. It
        is on the first input's device, and gradients flow through it.

    Raises:
        TypeError: If ``model`` is no module or a target is not callable. In a call: if a target
            returns something other than a tensor, or the output cannot be split.
        ValueError: If there is no target. In a call: if a target returns a tensor that is not
            scalar, if the output does not have as many rows as the input, or if the index is
            missing, out of range or of another length than the batch.

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
                "the output for one image to a scalar tensor; class numbers are given to "
                "`attribute` as `target`, without this wrapper."
            )
    if isinstance(model, nn.parallel.DistributedDataParallel):
        # Its forward waits for the other ranks, which may have other numbers of rows to score.
        model = model.module
    return CallableTargets(model, listed, indexed, split or split_rows)


class CallableTargets(nn.Module):
    """The model that :func:`callable_targets` makes.

    Attributes:
        emits_scores: True; asks the methods and metrics of this package to use the outputs as
            they are.
        model: The wrapped model.
        targets: The callables.
        index: Only if ``indexed``: ``arange(T)``, for ``additional_forward_args`` when image ``i``
            is explained by ``targets[i]``. It may stay on the CPU whatever the model's device.
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
        """Score every row by every callable, or, if ``indexed``, by the one that it names."""
        index: list[int] | None = None
        if self.indexed:
            inputs, index = inputs[:-1], self._read_index(inputs)
        rows = len(inputs[0])
        if index is not None and len(index) != rows:
            raise ValueError(
                f"the index has {len(index)} entries, but the batch has {rows} rows. It needs one "
                "entry for each image; `wrapped.index` fits as many images as there are targets."
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
                "torch.long tensor with the index of each image's target: pass "
                "`additional_forward_args=wrapped.index`."
            )
        chosen: list[int] = index.tolist()
        for t in chosen:
            if not 0 <= t < len(self.targets):
                raise ValueError(
                    f"index {t} is out of range: there are {len(self.targets)} targets."
                )
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
    """Split a model's output for a batch into the outputs for its single images.

    * A tensor of shape ``(rows, ...)`` gives its slices ``output[i]``.
    * A **list without a tensor in it**, at the outermost level, is what torchvision's detectors
      return, one dictionary for each image: image ``i`` has element ``i``.
    * A tuple, named tuple, mapping, dataclass or any other list is a structure of batched values:
      image ``i`` has the same structure (a plain ``dict`` for a mapping) of slices.
    * Inside a structure, values without rows (``None``, numbers, strings and tensors without
      dimensions, such as a loss) are handed to every image.

    So a list of tensors is never read as one tensor for each image, whatever its length. Give
    ``split`` to :func:`callable_targets` where the model means that.

    Args:
        output: What the model returned.
        rows: How many images it was given.

    Returns:
        A list of ``rows`` outputs. Tensors are views, and gradients flow through them.

    Raises:
        ValueError: If a tensor or a list of images does not have ``rows`` rows.
        TypeError: If the output, or a part of it, is of a type that is not named above.

    Example:
        >>> import torch
        >>> from captum_excon.targets import split_rows
        >>> batched = {"out": torch.tensor([[1, 2], [3, 4]]), "scale": 0.5}
        >>> split_rows(batched, 2)[1]
        {'out': tensor([3, 4]), 'scale': 0.5}
        >>> split_rows([{"scores": torch.ones(3)}, {"scores": torch.ones(0)}], 2)[1]
        {'scores': tensor([])}
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
