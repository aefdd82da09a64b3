"""Time of deletion against that of `quantus.PixelFlipping` at the same number of steps on RGB.

    python -m benchmarks.speed.deletion --out benchmarks/results/speed/deletion.json

Both score the same images with the same maps, model and classes, in turn, each with its default
rows per forward pass unless told. Quantus flips values of single channels, ours pixels of all
channels; both make as many steps, to which ours adds the unchanged image. Apart from that, only
what is not forward passes can differ, and what a row costs in batches of different sizes: the bare
passes are timed too. Without ``--images`` it uses shifted copies of
photographs that ship with scikit-image. Needs the `bench` extra.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from pathlib import Path
from typing import Any

import quantus
import skimage.data
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from benchmarks.speed.masking import (
    PHOTOGRAPHS,
    bare_forward,
    count_rows,
    seconds,
)
from captum_excon._files import read_image
from captum_excon._provenance import provenance
from captum_excon.metrics import deletion
from captum_excon.metrics.scorer import default_rows
from captum_excon.models import Model, load_model


class PixelFlipping(quantus.PixelFlipping):  # type: ignore[name-defined]
    """Without its check of the step size, which no 28 steps over three channels can pass."""

    def custom_preprocess(self, **_: Any) -> None:
        """Checks nothing."""


def prepare(loaded: Model, folder: Path | None, count: int) -> Tensor:
    """Returns ``count`` images, (N, 3, H, W): those of a folder, or photographs, shifted."""
    paths = sorted(folder.iterdir())[:count] if folder else []
    pictures = [read_image(path) for path in paths] or [
        Image.fromarray(getattr(skimage.data, name)()) for name in PHOTOGRAPHS[:count]
    ]
    images = torch.cat([loaded.inputs(picture) for picture in pictures])
    copies = -(-count // len(images))
    return torch.cat([images.roll(11 * i, 3) for i in range(copies)])[:count]


def main() -> None:
    """Measures, prints, and saves."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="demo", help="as in `captum-excon explain --model`")
    parser.add_argument("--images", type=Path, help="a folder of images (default: scikit-image's)")
    parser.add_argument("--count", type=int, default=100, help="how many images")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--batch-size", type=int, help="our rows per forward pass")
    parser.add_argument("--peer-batch-size", type=int, default=64, help="Quantus's, which is 64")
    parser.add_argument("--channels-last", action="store_true", help="the model's memory format")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    options = parser.parse_args()
    device = torch.device(options.device)
    loaded = load_model(options.model, device=options.device)
    model, images = loaded.module, prepare(loaded, options.images, options.count)
    if options.channels_last:
        model.to(memory_format=torch.channels_last)
    own_rows = options.batch_size or default_rows(images)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(len(images), 1, 7, 7, generator=generator)
    maps = F.interpolate(coarse, images.shape[2:], mode="bilinear")
    with torch.inference_mode():
        classes = torch.cat([model(batch).argmax(1) for batch in torch.split(images, own_rows)])
    metric = PixelFlipping(
        features_in_step=math.ceil(images[0].numel() / options.steps), disable_warnings=True
    )
    arrays = {
        "x_batch": images.cpu().numpy(),
        "y_batch": classes.cpu().numpy(),
        "a_batch": maps.numpy(),
    }

    def ours() -> None:
        deletion(
            model,
            images,
            maps,
            target=classes,
            steps=options.steps,
            batch_size=own_rows,
        )

    def theirs() -> None:
        with warnings.catch_warnings():
            # Pixels that are zero already do not change, of which it warns row by row.
            warnings.simplefilter("ignore")
            metric(model=model, batch_size=options.peer_batch_size, device=options.device, **arrays)

    calls = {"captum_excon.metrics.deletion": ours, "quantus.PixelFlipping": theirs}
    rows = {}
    for name, call in calls.items():
        with count_rows(model) as counted:
            call()
        rows[name] = sum(counted)
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    image = images[:1].contiguous(memory_format=layout)
    calls["bare forward passes of our rows"] = lambda: bare_forward(
        model, image, rows["captum_excon.metrics.deletion"], own_rows, None
    )
    times = dict.fromkeys(calls, math.inf)
    for _ in range(options.repeats):
        for name, call in calls.items():
            times[name] = min(times[name], seconds(call, device))
    own = times["captum_excon.metrics.deletion"]
    report = {
        "model": options.model,
        "images": len(images),
        "size": list(images.shape[1:]),
        "steps": options.steps,
        "batch size": {"ours": own_rows, "quantus": options.peer_batch_size},
        "channels last": options.channels_last,
        "seconds": times,
        "times faster": times["quantus.PixelFlipping"] / own,
        "forward rows": rows,
        "share of the model's forward passes in our time": times["bare forward passes of our rows"]
        / own,
        **provenance(device, "quantus"),
    }
    print(json.dumps(report, indent=1))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
