"""Time and memory of the masking methods against the bare forward passes of the same rows.

    python -m benchmarks.speed.masking --out benchmarks/results/speed/masking.json

For each method, images are explained and, in the same run and in turn, the model alone is run on
as many rows at the same batch size and precision. The ratio of the two is the price of everything
that is not the model: hooks, the backward pass, up-sampling, blending, fusion. Needs the `demo`
extra. Without ``--images`` it uses photographs that ship with scikit-image.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import skimage.data
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_excon import AdaptiveHybridCAM, MultiLayerSISE, select_layers
from captum_excon._files import read_image
from captum_excon._provenance import provenance
from captum_excon.models import load_model

PHOTOGRAPHS = ("chelsea", "astronaut", "coffee", "rocket")


@contextlib.contextmanager
def count_rows(model: nn.Module) -> Iterator[list[int]]:
    """Counts the rows of every forward pass."""
    rows: list[int] = []
    handle = model.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    try:
        yield rows
    finally:
        handle.remove()


def bare_forward(model: nn.Module, image: Tensor, rows: int, batch_size: int, dtype: Any) -> None:
    """Runs the model on ``rows`` copies of an image."""
    batch = image.expand(batch_size, *image.shape[1:]).contiguous()
    with (
        torch.inference_mode(),
        torch.autocast(image.device.type, dtype=dtype, enabled=dtype is not None),
    ):
        for start in range(0, rows, batch_size):
            model(batch[: rows - start])


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Wall-clock time of a call, device work included."""
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


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
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {key}")


def main() -> None:
    """Measures, prints, and saves."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="demo", help="as in `captum-excon explain --model`")
    parser.add_argument("--images", type=Path, help="a folder of images (default: scikit-image's)")
    parser.add_argument("--limit", type=int, default=8, help="at most so many images")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--autocast", choices=["bfloat16", "float16"])
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    options = parser.parse_args()
    device = torch.device(options.device)
    dtype = getattr(torch, options.autocast) if options.autocast else None
    loaded = load_model(options.model, device=options.device)
    model = loaded.module
    paths = sorted(options.images.iterdir()) if options.images else []
    pictures = [read_image(p) for p in paths[: options.limit]] or [
        Image.fromarray(getattr(skimage.data, name)()) for name in PHOTOGRAPHS[: options.limit]
    ]
    images = torch.cat([loaded.inputs(picture) for picture in pictures])
    with torch.inference_mode():
        target = model(images).argmax(1)
    layers = [layer.name for layer in select_layers(model, images)]

    results = []
    for method in (MultiLayerSISE, AdaptiveHybridCAM):
        explainer = method(model, layers)
        times: dict[str, list[float]] = {"method": [], "forward": []}
        per_image = []
        for i in tqdm(range(len(images)), desc=method.__name__):
            image = images[i : i + 1]

            def explain(image: Tensor = image, i: int = i, explainer: Any = explainer) -> None:
                explainer.attribute(
                    image,
                    target=int(target[i]),
                    perturbations_per_eval=options.batch_size,
                    autocast_dtype=dtype,
                )

            with count_rows(model) as counted:
                explain()
            rows = sum(counted)
            per_image.append(rows)
            explained, bare = [], []
            for _ in range(options.repeats):
                explained.append(seconds(explain, device))
                bare.append(
                    seconds(
                        partial(bare_forward, model, image, rows, options.batch_size, dtype),
                        device,
                    )
                )
            times["method"].append(min(explained))
            times["forward"].append(min(bare))
        results.append(
            {
                "method": method.__name__,
                "rows per image, mean": statistics.mean(per_image),
                "rows per image": per_image,
                "seconds per image": statistics.mean(times["method"]),
                "seconds of the bare passes": statistics.mean(times["forward"]),
                "ratio": sum(times["method"]) / sum(times["forward"]),
            }
        )
    memory = []
    for threshold in (0.9, 0.5, 0.0):
        explainer = MultiLayerSISE(model, layers)
        call = functools.partial(
            explainer.attribute,
            images[:1],
            target=int(target[0]),
            perturbations_per_eval=options.batch_size,
            autocast_dtype=dtype,
            threshold=threshold,
        )
        with count_rows(model) as counted:
            call()
        memory.append(
            {
                "threshold": threshold,
                "masks": sum(counted) - 1,
                "peak MiB": round(min(peak_memory(call, device) for _ in range(3)), 1),
            }
        )
    report = {
        "model": options.model,
        "layers": layers,
        "images": len(images),
        "batch size": options.batch_size,
        "autocast": options.autocast,
        "results": results,
        "memory": memory,
        "fewer rows by Ada-SISE": 1
        - results[1]["rows per image, mean"] / results[0]["rows per image, mean"],
        **provenance(device),
    }
    print(json.dumps(report, indent=1))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
