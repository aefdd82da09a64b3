"""The shared options, photographs, clock and output of the speed scripts."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import skimage.data
import torch
from PIL import Image
from torch import Tensor, nn

from captum_excon._files import read_image
from captum_excon._provenance import provenance
from captum_excon.models import Model

PHOTOGRAPHS = ("chelsea", "astronaut", "coffee", "rocket")


def new_parser(description: str | None, repeats: int) -> argparse.ArgumentParser:
    """Returns a parser of the options that all scripts have."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=repeats, help="the fastest counts")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    return parser


def add_images(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the scripts that run a model on photographs."""
    parser.add_argument("--model", default="demo", help="as in `captum-excon explain --model`")
    parser.add_argument("--images", type=Path, help="a folder of images (default: scikit-image's)")


def read_inputs(loaded: Model, folder: Path | None, limit: int) -> Tensor:
    """Returns at most ``limit`` images of a folder, or of scikit-image, as the model wants them."""
    if folder:
        pictures = [read_image(path) for path in sorted(folder.iterdir())[:limit]]
    else:
        pictures = [Image.fromarray(getattr(skimage.data, name)()) for name in PHOTOGRAPHS[:limit]]
    return torch.cat([loaded.inputs(picture) for picture in pictures])


@contextmanager
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


def publish(figures: dict[str, Any], options: argparse.Namespace, *packages: str) -> None:
    """Prints the figures with their provenance, and writes them to ``--out``."""
    text = json.dumps({**figures, **provenance(torch.device(options.device), *packages)}, indent=1)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")
