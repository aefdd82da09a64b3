"""Time and memory of the masking methods against the bare forward passes of the same rows.

    python -m benchmarks.speed.masking --out benchmarks/results/speed/masking.json

For each method, images are explained and, in the same run and in turn, the model alone is run on
as many rows at the same batch size and precision. The ratio of the two is the price of everything
that is not the model: hooks, the backward pass, up-sampling, blending, fusion. Needs the `demo`
extra. Without ``--images`` it uses photographs that ship with scikit-image.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from benchmarks.speed import measuring
from benchmarks.speed.measuring import bare_forward, count_rows, seconds
from captum_excon import AdaptiveHybridCAM, MultiLayerSISE, select_layers
from captum_excon.models import Model, load_model


def peak_memory(call: Callable[[], Any], device: torch.device) -> float:
    """Peak memory of a call above what was in use before it, in MiB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    # Linux: the high-water mark of the resident set, reset by writing 5 to clear_refs.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    call()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))


def time_methods(
    loaded: Model, layers: list[str], images: Tensor, target: Tensor, options: argparse.Namespace,
    dtype: torch.dtype | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Times each method and, in turn, the bare passes of as many rows."""
    results = []
    for method in (MultiLayerSISE, AdaptiveHybridCAM):
        explainer = method(loaded.module, layers)
        rows, explained, bare = [], [], []
        for image, label in tqdm(zip(torch.split(images, 1), target.tolist(), strict=True)):
            explain = partial(
                explainer.attribute,
                image,
                target=label,
                perturbations_per_eval=options.batch_size,
                autocast_dtype=dtype,
            )
            with count_rows(loaded.module) as counted:
                explain()
            rows.append(sum(counted))
            forward = partial(
                bare_forward, loaded.module, image, rows[-1], options.batch_size, dtype
            )
            device = image.device
            pairs = [
                (seconds(explain, device), seconds(forward, device)) for _ in range(options.repeats)
            ]
            explained.append(min(first for first, _ in pairs))
            bare.append(min(second for _, second in pairs))
        results.append(
            {
                "method": method.__name__,
                "rows per image, mean": statistics.mean(rows),
                "rows per image": rows,
                "seconds per image": statistics.mean(explained),
                "seconds of the bare passes": statistics.mean(bare),
                "ratio": sum(explained) / sum(bare),
            }
        )
    return results


def main() -> None:
    """Measures, prints, and saves."""
    parser = measuring.new_parser(__doc__, repeats=3)
    measuring.add_images(parser)
    parser.add_argument("--limit", type=int, default=8, help="at most so many images")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--autocast", choices=["bfloat16", "float16"])
    options = parser.parse_args()
    dtype = getattr(torch, options.autocast) if options.autocast else None
    loaded = load_model(options.model, device=options.device)
    model, images = loaded.module, measuring.read_inputs(loaded, options.images, options.limit)
    with torch.inference_mode():
        target = model(images).argmax(1)
    layers = [layer.name for layer in select_layers(model, images)]
    results = time_methods(loaded, layers, images, target, options, dtype)
    memory = []
    for threshold in (0.9, 0.5, 0.0):
        call = partial(
            MultiLayerSISE(model, layers).attribute,
            images[:1],
            target=int(target[0]),
            perturbations_per_eval=options.batch_size,
            autocast_dtype=dtype,
            threshold=threshold,
        )
        with count_rows(model) as counted:
            call()
        peak = min(peak_memory(call, torch.device(options.device)) for _ in range(3))
        memory.append(
            {"threshold": threshold, "masks": sum(counted) - 1, "peak MiB": round(peak, 1)}
        )
    sise, ada_sise = (found["rows per image, mean"] for found in results)
    figures = {
        "model": options.model,
        "layers": layers,
        "images": len(images),
        "batch size": options.batch_size,
        "autocast": options.autocast,
        "results": results,
        "memory": memory,
        "fewer rows by Ada-SISE": 1 - ada_sise / sise,
    }
    measuring.publish(figures, options)


if __name__ == "__main__":
    main()
