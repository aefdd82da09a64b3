"""Which layers to explain: the last map of every convolutional block, found in one traced pass."""

import functools
import itertools
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["SelectedLayer", "channels_last_to_first", "select_layers", "tokens_to_map", "unwrap"]

ReshapeTransform = Callable[[Tensor], Tensor]
Size = tuple[int, ...]

_REMEDY = (
    "Name the layers yourself with layers=[...], or, for a model that works on tokens, pass "
    "reshape_transform= (see captum_excon.layers.tokens_to_map)."
)


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
    """

    name: str
    module: nn.Module
    channels: int
    size: Size
    channels_last: bool


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
       down-sampling layer. What it computes before its stride (the expansion in MobileNet's and
       EfficientNet's blocks) is left out if the piece has another map. A pooling layer is never
       widened in this way: its very input is taken, wherever it sits.
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
    - *Class scores are no feature maps*: in models with a dense output, and in a submodule that
      pools its maps straight into the output (SqueezeNet's classifier), maps from the last layer
      with parameters on are left out.
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
            f"(N, C, *spatial); got {', '.join(str(tuple(t.shape)) for t in inputs)}. {_REMEDY}"
        )
    extra = additional_forward_args
    extra = extra if isinstance(extra, tuple) else () if extra is None else (extra,)

    rows, refusal = len(inputs[0]), ""
    for count in _row_counts(model, rows, reshape_transform):
        args = [_first_rows(value, rows, count) for value in (*inputs, *extra)]
        for image in (i for i, tensor in enumerate(inputs) if tensor.ndim >= 3):
            try:
                trace = _run(model, args, image, reshape_transform)
            except Exception:
                # Reshaping with -1 fails on no rows, as do many hand-written checks.
                if count > 0 or rows == 0:
                    raise
                break
            if chosen := _choose(trace):
                if reshape_transform is None:
                    _check_not_tokens(trace, chosen)
                return [SelectedLayer(c.name, c.module, *c.map) for c in chosen if c.map]
            refusal = trace.refusal
    raise ValueError(
        f"None of the model's modules emits a feature map that the output depends on{refusal}. "
        f"{_REMEDY}"
    )


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


# --- One traced pass ----------------------------------------------------------------------------


class _MapShape(NamedTuple):
    channels: int
    size: Size
    channels_last: bool


@dataclass(eq=False)
class _Call:
    """One call of a module, from `start` to `end` on a clock that all calls share.

    Attributes:
        received: Spatial size of the map in the first argument, if it is one.
        node: The value (see `_Trace`) of the first tensor of the output.
        shape: Its shape.
        map: How the output is a map, if it is one.
        output: The map itself; kept only to ask for gradients.
    """

    name: str
    module: nn.Module
    parent: "_Call | None"
    start: int
    received: Size | None
    end: int = -1
    node: int | None = None
    shape: Size = ()
    map: _MapShape | None = None
    output: Tensor | None = None

    @property
    def size(self) -> Size | None:
        return self.map.size if self.map else None

    @property
    def depth(self) -> int:
        return sum(1 for _ in self.enclosing())

    @property
    def positions(self) -> int:
        return math.prod(self.size or ())

    def enclosing(self) -> "Iterator[_Call]":
        """Yields the calls around this one, from the inside, without the model's own."""
        outer = self.parent
        while outer is not None and outer.parent is not None:
            yield outer
            outer = outer.parent

    def contains(self, other: "_Call") -> bool:
        return self.start <= other.start and other.end <= self.end


class _Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records module calls, and from which values each value of the pass was computed.

    A value ("node") is what a tensor's memory holds between two writes to it: views are the same
    value, an in-place operation makes a new one. Node 0 is the image.
    """

    def __init__(self, image: Tensor, reshape_transform: ReshapeTransform | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reshape_transform = reshape_transform
        self.reads: list[set[int]] = [set()]
        self.calls: list[_Call] = []
        self.result: Tensor | None = None
        self.refusal = ""
        self._ndim = image.ndim
        self._node = {_memory(image): 0}
        self._channels_last: dict[tuple[object, ...], bool] = {}
        self._open: list[_Call] = []
        self._clock = itertools.count()
        self._paused = False
        self._thread = threading.get_ident()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self._paused:
            self._record(func, args, list(_tensors((args, kwargs))), list(_tensors(result)))
        return result

    def _record(
        self, func: Any, args: tuple[Any, ...], sources: list[Tensor], results: list[Tensor]
    ) -> None:
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
            if func._schema.is_mutable or _memory(tensor) not in read:
                self._node[_memory(tensor)] = node
            self._channels_last[_view(tensor)] = channels_last

    def before(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Is the hook of `module` before its call."""
        if threading.get_ident() != self._thread:
            return
        received = None
        if self.reshape_transform is None:
            tensor = next(_tensors((args, kwargs)), None)
            received = None if tensor is None else self._map(tensor)
        parent = self._open[-1] if self._open else None
        size = received.size if received else None
        self._open.append(_Call(name, module, parent, next(self._clock), size))

    def after(self, module: nn.Module, args: Any, output: Any) -> None:
        """Is the hook of `module` after its call."""
        if threading.get_ident() != self._thread:
            return
        while (call := self._open.pop()).module is not module:
            pass  # A call that ended in an error, which the model caught, has no second hook.
        call.end = next(self._clock)
        self.calls.append(call)
        tensor = next(_tensors(output), None)
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

    def reaching(self, calls: list[_Call]) -> list[_Call]:
        """Keeps the calls whose map the output depends on, at one position at least.

        A NaN sent back from the output arrives exactly there, whatever the weights are. (A
        gradient may be zero for a weight of zero too, as in a head that is not yet trained.)
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

    def _map(self, tensor: Tensor) -> _MapShape | None:
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
        elif tensor.ndim != self._ndim:
            return None
        shape = tuple(tensor.shape)
        channels, size = (shape[-1], shape[1:-1]) if channels_last else (shape[1], shape[2:])
        return _MapShape(channels, size, channels_last) if math.prod(size) > 1 else None


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


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        # Others, sparse ones say, have no memory to follow and are no maps.
        if value.layout is torch.strided:
            yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _row_counts(
    model: nn.Module, rows: int, reshape_transform: ReshapeTransform | None
) -> list[int]:
    """Returns the numbers of rows to try, the cheapest first."""
    if any(module.training for module in model.modules()):
        if rows == 0:
            raise ValueError(
                "An empty batch would spoil the statistics of a model in training mode: call "
                "model.eval(), or give example_inputs with rows."
            )
        return [rows]
    # On no elements every reshape succeeds, so a transform needs a row to tell maps from others.
    return [0] if rows == 0 else [1] if reshape_transform else [0, 1]


def _first_rows(value: Any, rows: int, count: int) -> Any:
    if isinstance(value, Tensor) and value.ndim > 0 and len(value) == rows:
        return value.detach()[:count]
    return value


def _run(
    model: nn.Module, args: list[Any], image: int, reshape_transform: ReshapeTransform | None
) -> _Trace:
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(reshape_transform is not None))
        stack.enter_context(_state_kept(model, args))
        # Inference tensors cannot require gradients, nor can leaves that do be written to.
        args = [value.clone() if isinstance(value, Tensor) else value for value in args]
        if reshape_transform is not None and args[image].is_floating_point():
            args[image] = args[image].requires_grad_().clone()
        trace = _Trace(args[image], reshape_transform)
        for name, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):  # They take no hooks.
                before = functools.partial(trace.before, name)
                stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(trace.after).remove)
        stack.enter_context(trace)
        model(*args)
    return trace


@contextmanager
def _state_kept(model: nn.Module, args: list[Any]) -> Iterator[None]:
    """Puts the random state and the model's buffers back afterwards."""
    tensors = [*_tensors(args), *model.parameters(), *model.buffers()]
    devices = {tensor.get_device() for tensor in tensors if tensor.is_cuda}
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    with torch.random.fork_rng(sorted(devices)):
        try:
            yield
        finally:
            for module, name, buffer, before in buffers:
                # Nothing is written where nothing changed: other threads may be reading, and to a
                # graph that waits for its backward pass every write is a change.
                if module._buffers[name] is not buffer:
                    module._buffers[name] = buffer
                if not torch.equal(buffer, before):
                    buffer.copy_(before)


# --- The choice ---------------------------------------------------------------------------------

_Map = list[_Call]  # One map: the calls that emitted it, in the order in which they ended.


def _choose(trace: _Trace) -> list[_Call]:
    *calls, root = trace.calls
    if root.node is None:
        return []
    used = _last_uses(trace.reads, root.node)
    learned = _learned([call for call in calls if call.node in used])
    maps = [c for c in calls if c.map and c.node in used and not _is_detour(c, learned)]
    if trace.reshape_transform is not None:
        maps = trace.reaching(maps)
    if not learned or not maps:
        return []

    path = _main_path(trace.reads, maps, root.node)
    bottom = min(maps, key=lambda call: (call.positions, -call.end))
    if not path or 2 * bottom.positions <= min(map_[0].positions for map_ in path):
        path = _main_path(trace.reads, maps, bottom.node)
    # Hooks know a module by its last call.
    final = set({call.module: call for call in calls}.values())
    path = _bridged(path, [call for call in maps if call in final], learned)
    pieces = _pieces(_without_scores(path, learned, is_dense=root.map is not None))

    cuts = [piece[0][0] for piece in pieces]
    chosen: list[_Call] = []
    begin = -1
    for piece, cut in zip(pieces, [*cuts[1:], None], strict=True):
        end = piece[-1][0]
        if cut is None or _halves(end.size, cut.size):
            working = [call for call in learned if call.end > begin]
            worked = [
                [c for c in map_ if c in final] for map_ in piece if _is_worked(map_, working)
            ]
            outermost = [min(calls, key=lambda c: c.depth) for calls in worked if calls]
            block = _strided_block(cut, cuts, learned) if cut else None
            outside = [call for call in outermost if block is None or not block.contains(call)]
            chosen += (outside or outermost)[-1:]
        begin = end.end
    return chosen


def _last_uses(reads: list[set[int]], sink: int) -> dict[int, int]:
    """Returns the values that `sink` was computed from, each with the last of them to read it."""
    last = {sink: sink}
    for node in range(sink, 0, -1):
        if node in last:
            for source in reads[node]:
                last.setdefault(source, node)
    return last


def _main_path(reads: list[set[int]], maps: list[_Call], sink: int | None) -> list[_Map]:
    """Returns the maps that no path from the image to `sink` avoids."""
    last = _last_uses(reads, sink or 0)
    unavoidable = set()
    horizon = 0
    for node in sorted(last):
        # Nodes are numbered in the order of computation, so a way around this one is an older
        # value that a younger one reads.
        if horizon <= node:
            unavoidable.add(node)
        horizon = max(horizon, last[node])
    path: dict[tuple[int, int], _Map] = {}
    for call in maps:
        if call.node in unavoidable:
            # A strided view has the same memory, but is another map.
            path.setdefault((call.node, math.prod(call.shape[1:])), []).append(call)
    return list(path.values())


def _bridged(path: list[_Map], maps: list[_Call], learned: list[_Call]) -> list[_Map]:
    """Adds maps that stand for sums no module emits, and for resolutions the path jumps over.

    They are off the path, but emitted by modules called where the path's modules are called: by a
    caller that was already running when the map before them was emitted.
    """
    on_path = {map_[0].node for map_ in path}
    maps = [c for c in maps if c.node not in on_path and any(c.contains(x) for x in learned)]
    bridged = []
    for map_, following in zip(path, [*path[1:], None], strict=True):
        here, cut = map_[0], following[0] if following else None
        beside = [c for c in maps if c.parent and c.parent.start < here.end < c.start]
        bridged.append(map_)
        for call in beside:
            is_branch = call.map == here.map
            is_between = cut and _halves(here.size, call.size) and _halves(call.size, cut.size)
            if (is_branch or is_between) and (cut is None or call.end < cut.end):
                bridged.append([call])
    return bridged


def _learned(calls: list[_Call]) -> list[_Call]:
    """Keeps the innermost calls of modules that have parameters of their own."""
    learned: list[_Call] = []
    for call in calls:
        own = next(call.module.parameters(recurse=False), None)
        if own is None and not parametrize.is_parametrized(call.module):
            continue
        if not learned or not call.contains(learned[-1]):
            learned.append(call)
    return learned


def _is_detour(call: _Call, learned: list[_Call]) -> bool:
    """Tells whether a module around the map neither receives nor emits maps as small or large.

    Such are the windows of an attention block and gates computed at a lower resolution. A module
    that holds all layers is the model itself, though, in which a U-Net may go down and up again.
    """
    for outer in call.enclosing():
        if learned and outer.contains(learned[0]) and outer.contains(learned[-1]):
            return False
        if outer.received and outer.size and call.size:
            bounds = zip(outer.received, outer.size, call.size, strict=False)
            if not all(min(a, b) <= size <= max(a, b) for a, b, size in bounds):
                return True
    return False


def _halves(before: Size | None, after: Size | None) -> bool:
    pairs = zip(before or (), after or (), strict=False)
    return any(new < old and new <= (old + 1) // 2 for old, new in pairs)


def _pieces(path: list[_Map]) -> list[list[_Map]]:
    """Cuts the path where the size falls to half or less, and where it doubles."""
    pieces: list[list[_Map]] = []
    for map_ in path:
        size = map_[0].size
        before = pieces[-1][-1][0].size if pieces else None
        if not pieces or _halves(before, size) or _halves(size, before):
            pieces.append([])
        pieces[-1].append(map_)
    return pieces


def _without_scores(path: list[_Map], learned: list[_Call], is_dense: bool) -> list[_Map]:
    """Drops the maps from the last layer on if they are scores, and if others are left."""
    scorer = learned[-1]
    in_head = any(
        outer.received and not outer.map and not _halves(outer.received, scorer.size)
        for outer in scorer.enclosing()
    )
    if not scorer.map or not (is_dense or in_head):
        return path
    return [map_ for map_ in path if map_[0].end < scorer.end] or path


def _is_worked(map_: _Map, working: list[_Call]) -> bool:
    return any(call.size == map_[0].size and call.end <= map_[0].end for call in working)


def _strided_block(cut: _Call, cuts: list[_Call], learned: list[_Call]) -> _Call | None:
    """Returns the largest call around a strided layer that holds no other change of resolution."""
    if cut not in learned or not _halves(cut.received, cut.size):
        return None
    block = cut
    for outer in cut.enclosing():
        if any(outer.contains(other) for other in cuts if other is not cut):
            break
        block = outer
    return block


def _check_not_tokens(trace: _Trace, chosen: list[_Call]) -> None:
    """Raises an error if more layers emit tokens than maps, inside of modules that emit maps too.

    Tokens are `(N, *tokens, features)` with fewer dimensions than a map.
    """
    ndim = len(chosen[-1].shape)
    layers = _learned(trace.calls[:-1])
    mapped = [call for call in layers if call.map or any(outer.map for outer in call.enclosing())]
    tokens = [
        call
        for call in layers
        if call not in mapped and 3 <= len(call.shape) < ndim and math.prod(call.shape[1:-1]) > 1
    ]
    if len(tokens) > len(mapped):
        raise ValueError(
            f"Most of the model works on tokens, such as the {('N', *tokens[0].shape[1:])} that "
            f"{tokens[0].name!r} emits, whose positions in the image are not known. {_REMEDY}"
        )
