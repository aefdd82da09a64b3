"""Pictures of maps: each method's best, median and worst image, and the same few images for all."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from benchmarks.explanations.analysis import names
from benchmarks.explanations.analysis.run import Run
from captum_excon.visualization import overlay

Pictures = Callable[[int], Image.Image]
Masks = Callable[[int], Tensor | None]

# The first that the run has decides what is best and worst.
RANKED_BY = ("ebpg", "bbox", "miou", "abpc", "insertion", "deletion")
BESIDE = (names.TRUTH, names.OTHER_IMAGE, "sobel", names.RANDOM)
RANDOM_IMAGES = 3
SIDE = 112
_QUALITY = 62


class Tile(NamedTuple):
    """A picture, or the reason why there is none."""

    label: str
    alt: str
    source: str | None
    control: bool = False


class Strip(NamedTuple):
    """One image: the photograph and maps of it."""

    title: str
    tiles: list[Tile]


class Gallery(NamedTuple):
    """All pictures of a report: randomly chosen images with the maps of all explainers, and for
    each method the best, median and worst image by ``metric``, beside controls.
    """

    metric: str
    random: list[Strip]
    methods: dict[str, list[Strip]]


def build(
    run: Run, pictures: Pictures, masks: Masks = lambda item: None, *, seed: int = 0
) -> Gallery:
    """Chooses the images, and draws.

    Args:
        run: The run.
        pictures: From an item's number to its RGB picture as the model saw it.
        masks: From an item's number to where the object is, (1, H, W) bool, which every tile
            outlines; None where it is not known.
        seed: Chooses the random images.
    """
    valued = run.scores[run.scores["value"].notna()]
    metrics = sorted((run.scores if valued.empty else valued)["metric"].unique(), key=names.order)
    metric = next((m for m in RANKED_BY if m in metrics), metrics[0])
    scores = run.scores[run.scores["metric"] == metric]
    explainers = sorted(run.scores["explainer"].unique(), key=lambda n: (n in run.controls, n))
    artist = _Artist(run, pictures, masks)
    items = np.array(sorted(run.scores["item"].unique()))
    chosen = np.random.default_rng(seed).permutation(items)[:RANDOM_IMAGES]
    methods = {}
    for name in explainers:
        if name not in run.controls:
            controls = (f"{c}:{name}" if f"{c}:{name}" in explainers else c for c in BESIDE)
            shown = [name, *(control for control in controls if control in explainers)]
            methods[name] = _extremes(artist, scores[scores["explainer"] == name], shown)
    random = [artist.strip("", int(item), explainers) for item in sorted(chosen)]
    return Gallery(names.heading(metric), random, methods)


def _extremes(artist: _Artist, scores: pd.DataFrame, shown: list[str]) -> list[Strip]:
    """The best, median and worst image by the scores of one metric and method."""
    values = scores.groupby("item")["value"].mean().dropna()
    if values.empty:
        return []
    up = scores["direction"].iloc[0] == "higher"
    # Stable, so that items of equal value come in the order of their numbers.
    ranking = values.sort_values(ascending=not up, kind="stable")
    metric = names.heading(scores["metric"].iloc[0])
    places = {"best": 0, "median": len(ranking) // 2, "worst": len(ranking) - 1}
    return [
        artist.strip(f"{kind}, {metric} {ranking.iloc[at]:.3f}; ", int(ranking.index[at]), shown)
        for kind, at in places.items()
    ]


class _Artist:
    """Draws strips; the photographs and the classes come from the run."""

    def __init__(self, run: Run, pictures: Pictures, masks: Masks) -> None:
        self._run = run
        self._pictures = pictures
        self._masks = masks
        self._classes = run.scores.groupby("item")["class_name"].first().to_dict()

    def strip(self, kind: str, item: int, explainers: list[str]) -> Strip:
        """The photograph and the maps of some explainers."""
        picture = self._pictures(item).convert("RGB")
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        label = self._classes.get(item)
        alt = f"item {item}" + (f", {label}" if label is not None else "")
        pixels = torch.from_numpy(np.array(picture)).movedim(-1, 0)
        mask = self._masks(item)
        tiles = [Tile("image", alt, _data_uri(_outlined(pixels, mask)))]
        tiles += [self._tile(pixels, mask, name, item, alt) for name in explainers]
        return Strip(kind + alt, tiles)

    def _tile(self, pixels: Tensor, mask: Tensor | None, name: str, item: int, alt: str) -> Tile:
        path = self._run.maps(name, item)
        control = name in self._run.controls
        if not path.exists():
            return Tile(name, "no map", None, control)
        saliency = torch.from_numpy(np.load(path, allow_pickle=False)).float()
        if not bool(saliency.isfinite().all()):
            return Tile(name, "NaN or infinite", None, control)
        drawn = overlay(pixels, saliency.reshape(1, *saliency.shape[-2:]))
        return Tile(name, f"map of {name} on {alt}", _data_uri(_outlined(drawn, mask)), control)


def _outlined(pixels: Tensor, mask: Tensor | None) -> Tensor:
    """Draws a white line on the inner edge of a mask, and a black one beside it.

    Args:
        pixels: (3, H, W) uint8.
        mask: (1, h, w) bool, of any size; None for no line.
    """
    if mask is None or mask.all():
        return pixels
    inside = F.interpolate(mask[None].float(), pixels.shape[1:], mode="area")[0] > 0.5
    inner = _shrunk(inside)
    core = _shrunk(inner)
    return pixels.where(~(inner & ~core), 0).where(~(inside & ~inner), 255)


def _shrunk(mask: Tensor) -> Tensor:
    """Takes off the pixels at the edge of a mask and of the picture."""
    outside = F.pad(~mask, (1, 1, 1, 1), value=True).float()
    return F.max_pool2d(outside, 3, 1) == 0


def _data_uri(pixels: Tensor) -> str:
    file = io.BytesIO()
    image = Image.fromarray(pixels.movedim(0, -1).numpy())
    image.save(file, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
