"""Batch normalisation folded into the convolutions before it: the same network, fewer passes."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized

from captum_excon.errors import UserError
from captum_excon.layers._run import run_traced
from captum_excon.layers._trace import Call, Trace

_TOLERANCE = 1e-3


def fold_batch_norm(model: nn.Module, image: Tensor) -> list[str]:
    """Folds, in place, each batch normalisation that is alone in reading a convolution's output.

    Found by data flow in one pass, not by names or order. The modules stay where they are, a
    normalisation as ``nn.Identity``, so that layers keep their names and their values.

    Args:
        model: In evaluation mode.
        image: An input, (1, C, H, W).

    Returns:
        The names of the normalisations that were folded.

    Raises:
        UserError: The folded network answers otherwise than rounding can explain.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
        >>> fold_batch_norm(model, torch.rand(1, 3, 8, 8))
        ['1']
    """
    with torch.inference_mode():
        before = model(image)
    pairs = _pairs(run_traced(model, [image], 0, None))
    for convolution, norm in pairs:
        assert isinstance(convolution.module, nn.Conv2d)
        assert isinstance(norm.module, nn.BatchNorm2d)
        fused = fuse_conv_bn_eval(convolution.module, norm.module)
        model.set_submodule(convolution.name, fused)
        model.set_submodule(norm.name, nn.Identity())
    with torch.inference_mode():
        after = model(image)
    if not torch.allclose(after, before, rtol=_TOLERANCE, atol=_TOLERANCE * float(before.std())):
        raise UserError(
            "batch normalisation cannot be folded into this model's convolutions, since its output "
            "changes; leave out model.fold_batch_norm"
        )
    return [norm.name for _, norm in pairs]


def _pairs(trace: Trace) -> list[tuple[Call, Call]]:
    """Calls of a convolution and of the normalisation that alone reads what it gives."""
    times = Counter(call.module for call in trace.calls)
    once = [call for call in trace.calls if times[call.module] == 1 and _is_plain(call.module)]
    readers = Counter(source for sources in trace.reads for source in sources)
    convolutions = {
        call.node: call
        for call in once
        if isinstance(call.module, nn.Conv2d) and call.node is not None and readers[call.node] == 1
    }
    pairs = []
    for norm in once:
        if type(norm.module) is nn.BatchNorm2d and norm.module.track_running_stats and norm.node:
            source = next(iter(trace.reads[norm.node]), None)
            if len(trace.reads[norm.node]) == 1 and source in convolutions:
                pairs.append((convolutions[source], norm))
    return pairs


def _is_plain(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    return not any(hooks) and not is_parametrized(module)
