"""One pass of a model, watched: which modules emit which maps, computed from what."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

ReshapeTransform = Callable[[Tensor], Tensor]
Size = tuple[int, ...]

# `RemovableHandle` draws its ids from an unguarded counter: two threads that hook one module at
# the same moment can be given the same id, and one hook is lost.
registration = threading.Lock()


class MapShape(NamedTuple):
    channels: int
    size: Size
    channels_last: bool


@dataclass(eq=False)
class Call:
    """One call of a module, from `start` to `end` on a clock that all calls share.

    Values are numbered as in `Trace`; those made during the call are `first` to `last`.
    """

    name: str
    module: nn.Module
    parent: Call | None
    start: int
    given: MapShape | None  # the first tensor argument, if it is a map
    source: int | None  # the value of the first tensor argument
    first: int
    last: int = -1
    end: int = -1
    node: int | None = None  # the value of the first tensor of the output
    shape: Size = ()  # its shape
    map: MapShape | None = None  # the output, if it is a map
    output: Tensor | None = None  # the map itself; kept only to ask for gradients

    @property
    def received(self) -> Size | None:
        return self.given.size if self.given else None

    @property
    def size(self) -> Size | None:
        return self.map.size if self.map else None

    @property
    def depth(self) -> int:
        return sum(1 for _ in self.enclosing())

    @property
    def positions(self) -> int:
        return math.prod(self.size or ())

    def enclosing(self) -> Iterator[Call]:
        """Yields the calls around this one, from the inside, without the model's own."""
        outer = self.parent
        while outer is not None and outer.parent is not None:
            yield outer
            outer = outer.parent

    def contains(self, other: Call) -> bool:
        return self.start <= other.start and other.end <= self.end


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records module calls, and from which values each value of the pass was computed.

    A value ("node") is what a tensor's memory holds between two writes to it: views are the same
    value, an in-place operation makes a new one. Node 0 is the image.
    """

    def __init__(self, image: Tensor, reshape_transform: ReshapeTransform | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reshape_transform = reshape_transform
        self.reads: list[set[int]] = [set()]
        self.calls: list[Call] = []
        self.result: Tensor | None = None
        self.refusal = ""
        self._ndim, self._rows, self._dtype = image.ndim, len(image), image.dtype
        self._node = {_memory(image): 0}
        self._channels_last: dict[tuple[object, ...], bool] = {}
        self._open: list[Call] = []
        self._clock = itertools.count()
        self._paused = False
        self._thread = threading.get_ident()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self._paused:
            self._record(func, args, list(tensors_in((args, kwargs))), list(tensors_in(result)))
        return result

    def _record(
        self, func: Any, args: tuple[Any, ...], sources: list[Tensor], results: list[Tensor]
    ) -> None:
        if "::roi_" in func.name():
            sources = sources[:1]  # So do boxes.
        if func is torch.ops.aten.lift_fresh.default:
            sources = []  # A constant, made unseen in memory that a value may have left.
        tracked = [tensor for tensor in sources if _memory(tensor) in self._node]
        if not tracked:
            for tensor in results:
                # The memory may have belonged to a value that is gone.
                self._node.pop(_memory(tensor), None)
            return
        read = {_memory(tensor) for tensor in tracked}
        channels_last = self._channels_last.get(_view(tracked[0]), False)
        channels_last = _follow_channels(func, args, tracked[0].ndim, channels_last)
        node = len(self.reads)
        self.reads.append({self._node[memory] for memory in read})
        for tensor in results:
            if not (tensor.is_floating_point() or tensor.dtype == self._dtype):
                # Indices and conditions say where to read, not what.
                self._node.pop(_memory(tensor), None)
            elif func._schema.is_mutable or _memory(tensor) not in read:
                self._node[_memory(tensor)] = node
            self._channels_last[_view(tensor)] = channels_last

    def before(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        tensor = next(tensors_in((args, kwargs)), None)
        source = None if tensor is None else self._node.get(_memory(tensor))
        given = self._map(tensor) if tensor is not None and self.reshape_transform is None else None
        parent = self._open[-1] if self._open else None
        start = next(self._clock)
        self._open.append(Call(name, module, parent, start, given, source, len(self.reads)))

    def after(self, module: nn.Module, args: Any, output: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        while (call := self._open.pop()).module is not module:
            pass  # A call that ended in an error, which the model caught, has no second hook.
        call.end = next(self._clock)
        call.last = len(self.reads) - 1
        self.calls.append(call)
        tensor = next(tensors_in(output), None)
        if tensor is None:
            return
        call.node = self._node.get(_memory(tensor))
        call.shape = tuple(tensor.shape)
        if call.parent is None:
            self.result = tensor
        is_single = isinstance(output, list | tuple) and len(output) == 1
        if call.parent is None or is_single or isinstance(output, Tensor):
            call.map = self._map(tensor)
            call.output = None if self.reshape_transform is None else tensor

    def reaching(self, calls: list[Call]) -> list[Call]:
        """Keeps the calls whose map the output depends on, at one position at least.

        A NaN sent back from the output arrives exactly there. An ordinary gradient may also be zero
        because of a zero weight, as in an untrained head.
        """
        calls = [call for call in calls if call.output is not None and call.output.requires_grad]
        if self.reshape_transform is None or self.result is None or not calls:
            return calls
        with torch.autograd.set_detect_anomaly(False):
            gradients = torch.autograd.grad(
                self.result,
                [call.output for call in calls if call.output is not None],
                torch.full_like(self.result, math.nan),
                allow_unused=True,
            )
        return [
            call
            for call, gradient in zip(calls, gradients, strict=True)
            if gradient is not None and self.reshape_transform(gradient).isnan().any()
        ]

    def _map(self, tensor: Tensor) -> MapShape | None:
        channels_last = self._channels_last.get(_view(tensor), False)
        if self.reshape_transform is not None:
            self._paused = True
            try:
                tensor, channels_last = self.reshape_transform(tensor), False
            except Exception as error:
                if tensor.ndim >= 3:
                    self.refusal = f" (reshape_transform: {error})"
                return None
            finally:
                self._paused = False
            if tensor.ndim < 3:
                return None
        elif tensor.ndim != self._ndim or len(tensor) != self._rows:
            return None
        shape = tuple(tensor.shape)
        channels, size = (shape[-1], shape[1:-1]) if channels_last else (shape[1], shape[2:])
        return MapShape(channels, size, channels_last) if math.prod(size) > 1 else None


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _view(tensor: Tensor) -> tuple[object, ...]:
    return _memory(tensor), tuple(tensor.shape), tensor.stride()


def _follow_channels(func: Any, args: tuple[Any, ...], ndim: int, channels_last: bool) -> bool:
    """Tells whether the channels are last after an operation: permutations may move them."""
    if func is torch.ops.aten.permute.default:
        order = [axis % ndim for axis in args[1]]
    elif func is torch.ops.aten.transpose.int:
        order = list(range(ndim))
        i, j = args[1] % ndim, args[2] % ndim
        order[i], order[j] = j, i
    else:
        return channels_last
    if order == [0, 2, 1]:
        return not channels_last
    if order == [0, *range(2, ndim), 1]:
        return True
    return channels_last and order != [0, ndim - 1, *range(1, ndim - 1)]


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        # Others, such as sparse ones, have no memory to follow and are not maps.
        if value.layout is torch.strided:
            yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
