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

import math
import warnings
from typing import Any

import quantus
import torch
from torch.nn import functional as F

from benchmarks.speed import measuring
from benchmarks.speed.measuring import bare_forward, count_rows, seconds
from captum_excon.metrics import deletion
from captum_excon.metrics.scorer import default_rows
from captum_excon.models import load_model

OURS, THEIRS = "captum_excon.metrics.deletion", "quantus.PixelFlipping"
BARE = "bare forward passes of our rows"


class PixelFlipping(quantus.PixelFlipping):  # type: ignore[name-defined]
    """Without its check of the step size, which no 28 steps over three channels can pass."""

    def custom_preprocess(self, **_: Any) -> None:
        """Checks nothing."""


def main() -> None:
    """Measures, prints, and saves."""
    parser = measuring.new_parser(__doc__, repeats=3)
    measuring.add_images(parser)
    parser.add_argument("--count", type=int, default=100, help="how many images")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--batch-size", type=int, help="our rows per forward pass")
    parser.add_argument("--peer-batch-size", type=int, default=64, help="Quantus's, which is 64")
    parser.add_argument("--channels-last", action="store_true", help="the model's memory format")
    options = parser.parse_args()
    loaded = load_model(options.model, device=options.device)
    model, images = loaded.module, measuring.read_inputs(loaded, options.images, options.count)
    copies = -(-options.count // len(images))
    images = torch.cat([images.roll(11 * i, 3) for i in range(copies)])[: options.count]
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    model.to(memory_format=layout)
    own_rows = options.batch_size or default_rows(images)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(len(images), 1, 7, 7, generator=generator)
    maps = F.interpolate(coarse, images.shape[2:], mode="bilinear")
    with torch.inference_mode():
        classes = torch.cat([model(batch).argmax(1) for batch in torch.split(images, own_rows)])
    metric = PixelFlipping(
        features_in_step=math.ceil(images[0].numel() / options.steps), disable_warnings=True
    )
    given = {"x_batch": images, "y_batch": classes, "a_batch": maps}
    arrays = {name: tensor.cpu().numpy() for name, tensor in given.items()}

    def ours() -> None:
        common = {"steps": options.steps, "batch_size": own_rows}
        deletion(model, images, maps, target=classes, **common)

    def theirs() -> None:
        with warnings.catch_warnings():
            # Pixels that are zero already do not change, of which it warns row by row.
            warnings.simplefilter("ignore")
            metric(model=model, batch_size=options.peer_batch_size, device=options.device, **arrays)

    calls = {OURS: ours, THEIRS: theirs}
    rows = {}
    for name, call in calls.items():
        with count_rows(model) as counted:
            call()
        rows[name] = sum(counted)
    image = images[:1].contiguous(memory_format=layout)
    calls[BARE] = lambda: bare_forward(model, image, rows[OURS], own_rows, None)
    times = dict.fromkeys(calls, math.inf)
    for _ in range(options.repeats):
        for name, call in calls.items():
            times[name] = min(times[name], seconds(call, images.device))
    figures = {
        "model": options.model,
        "images": len(images),
        "size": list(images.shape[1:]),
        "steps": options.steps,
        "batch size": {"ours": own_rows, "quantus": options.peer_batch_size},
        "channels last": options.channels_last,
        "seconds": times,
        "times faster": times[THEIRS] / times[OURS],
        "forward rows": rows,
        "share of the model's forward passes in our time": times[BARE] / times[OURS],
    }
    measuring.publish(figures, options, "quantus")


if __name__ == "__main__":
    main()
