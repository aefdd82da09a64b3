"""The last map of every convolutional block, chosen from a traced pass; see `select_layers`."""

from __future__ import annotations

import math

from torch.nn.utils import parametrize

from captum_excon.layers._trace import Call, Size, Trace

REMEDY = (
    "Name the layers yourself with layers=[...], or, for a model that works on tokens, pass "
    "reshape_transform= (see captum_excon.layers.tokens_to_map)."
)

_Map = list[Call]  # One map: the calls that emitted it, in the order in which they ended.


def choose(trace: Trace) -> list[Call]:
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
    scorers = _scorers(trace.reads, learned)
    if scorers:
        shared = set.intersection(*(set(_last_uses(trace.reads, s.node or 0)) for s in scorers))
        maps = [call for call in maps if call.node in shared and call not in scorers] or maps

    main = _main_path(trace.reads, maps, root.node)
    bottom = min(maps, key=lambda call: (call.positions, -call.end))
    narrow = not main or 2 * bottom.positions <= min(map_[0].positions for map_ in main)
    if narrow or scorers:
        main = _main_path(trace.reads, maps, bottom.node)
    # Hooks know a module by its last call.
    final = set({call.module: call for call in calls}.values())
    path = _bridged(main, [call for call in maps if call in final], learned)
    pieces = _pieces(_without_scores(path, learned, is_dense=root.map is not None))

    cuts = [piece[0][0] for piece in pieces]
    chosen: list[Call] = []
    begin = -1
    for piece, cut in zip(pieces, [*cuts[1:], None], strict=True):
        end = piece[-1][0]
        if cut is None or _halves(end.size, cut.size):
            working = [call for call in learned if call.end > begin]
            worked = [
                [c for c in map_ if c in final]
                for map_ in piece
                if any(c.size == map_[0].size and c.end <= map_[0].end for c in working)
            ]
            outermost = [min(calls, key=lambda c: c.depth) for calls in worked if calls]
            block = _strided_block(cut, cuts, main, learned) if cut else None
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


def _main_path(reads: list[set[int]], maps: list[Call], sink: int | None) -> list[_Map]:
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


def _bridged(path: list[_Map], maps: list[Call], learned: list[Call]) -> list[_Map]:
    """Adds maps that stand for sums no module emits, and for resolutions the path jumps over.

    They are off the path, but their modules are called beside the path's: by a caller that was
    already running when the map before them was emitted.
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


def _learned(calls: list[Call]) -> list[Call]:
    """Keeps the innermost calls of modules that have parameters of their own."""
    learned: list[Call] = []
    for call in calls:
        own = next(call.module.parameters(recurse=False), None)
        if own is None and not parametrize.is_parametrized(call.module):
            continue
        if not learned or not call.contains(learned[-1]):
            learned.append(call)
    return learned


def _is_detour(call: Call, learned: list[Call]) -> bool:
    """Tells whether a module around the map neither receives nor emits maps as small or large.

    Examples are attention windows and gates computed at a lower resolution. A module that holds all
    layers does not count: it is the model itself, and a U-Net may go down and up again.
    """
    for outer in call.enclosing():
        if learned and outer.contains(learned[0]) and outer.contains(learned[-1]):
            return False
        if outer.received and outer.size and call.size:
            bounds = zip(outer.received, outer.size, call.size, strict=False)
            if not all(min(a, b) <= size <= max(a, b) for a, b, size in bounds):
                return True
    return False


def _scorers(reads: list[set[int]], learned: list[Call]) -> list[Call]:
    """Returns the layers that emit class scores or box regressions for every position.

    No other layer works on what they emit, and the module that they end receives maps and emits
    none.
    """
    inside = {node for call in learned for node in range(call.first, call.last + 1)}
    worked_on: set[int] = set()
    for node in range(len(reads) - 1, 0, -1):
        if node in inside or node in worked_on:
            worked_on |= reads[node]
    final = [call for call in learned if call.map and call.node not in worked_on]
    heads = {
        outer.start
        for call in final
        for outer in call.enclosing()
        if outer.received and not outer.map and not _halves(outer.received, call.size)
    }
    return [call for call in final if any(outer.start in heads for outer in call.enclosing())]


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


def _without_scores(path: list[_Map], learned: list[Call], is_dense: bool) -> list[_Map]:
    """Drops the maps from the last layer on if they are scores, and if others are left."""
    scorer = learned[-1]
    in_head = any(
        outer.received and not outer.map and not _halves(outer.received, scorer.size)
        for outer in scorer.enclosing()
    )
    if not scorer.map or not (is_dense or in_head):
        return path
    return [map_ for map_ in path if map_[0].end < scorer.end] or path


def _strided_block(
    cut: Call, cuts: list[Call], main: list[_Map], learned: list[Call]
) -> Call | None:
    """Returns the largest call around a strided layer that counts as one down-sampling layer.

    It changes the resolution once, and at most one layer with weights comes before the last of
    the maps that it hides: the expansion of an inverted bottleneck.
    """
    if not any(cut.contains(c) and _halves(c.received, c.size) for c in learned):
        return None
    block = None
    for outer in (cut, *cut.enclosing()):
        if any(outer.contains(other) for other in cuts if other is not cut):
            break
        hidden = [m[0] for m in main if outer.contains(m[0]) and m[0].end < cut.end]
        if hidden and len(_weighted_layers(outer, hidden[-1], learned)) > 1:
            break
        block = outer
    return block


def _weighted_layers(block: Call, map_: Call, learned: list[Call]) -> set[int | None]:
    """Returns what the layers with weights in `block`, up to `map_`, were computed from.

    So the parts of a split layer, which read the same value, count once. Norms do not count, nor do
    depth-wise layers around an expansion to more channels than the block emits.
    """
    assert map_.map
    expands = block.map is not None and map_.map.channels > block.map.channels

    def has_weights(layer: Call) -> bool:
        is_parametrized = parametrize.is_parametrized(layer.module)
        shapes = [w.shape for w in layer.module.parameters(recurse=is_parametrized)]
        if expands:
            return any(len(shape) > 1 and min(shape[:2]) > 1 for shape in shapes)
        return any(math.prod(shape) > max(shape, default=1) for shape in shapes)

    inside = [c for c in learned if block.contains(c) and c.end <= map_.end]
    return {layer.source for layer in inside if has_weights(layer)}


def check_not_tokens(trace: Trace, chosen: list[Call]) -> None:
    """Raises an error if more layers emit tokens, `(N, *tokens, features)`, than maps."""
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
            f"{tokens[0].name!r} emits, whose positions in the image are unknown. {REMEDY}"
        )
