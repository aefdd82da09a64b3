"""What the command line writes: figures and arrays, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from captum_excon._files import written_whole

if TYPE_CHECKING:
    from torch import Tensor

    from captum_excon.cli._job import Explained, Job
    from captum_excon.cli._options import FigureOptions


def write_figure(path: Path, job: Job, result: Explained, style: FigureOptions) -> None:
    """Draws the photograph beside the maps, a row for each class, and below them the layers'."""
    from captum_excon.visualization import grid, overlay, save_png

    scale = style.height / result.image.height
    size = max(1, round(result.image.width * scale)), style.height
    photograph = result.image.resize(size, Image.Resampling.LANCZOS)
    box = _inside([edge * scale for edge in result.box], size)

    def heat(saliency: Tensor) -> Tensor:
        return overlay(photograph, saliency, box=box, cmap=style.cmap, alpha=style.alpha)

    titles = [e.method.title for e in result.explanations]
    rows: list[tuple[str, list[Any], list[str]]] = []
    for number, target in enumerate(result.targets):
        name = f"{job.model.label(target)}, {float(result.probabilities[target]):.0%}"
        maps = [heat(e.saliency[number]) for e in result.explanations]
        first = photograph if number == 0 else None
        alone = len(result.targets) == 1
        rows.append(("" if alone else name, [first, *maps], [name if alone else "", *titles]))
        for e in result.explanations:
            if layer_maps := e.layer_maps[number]:
                maps = [heat(saliency) for saliency in layer_maps.values()]
                label = e.method.title if alone else f"{e.method.title}, {job.model.label(target)}"
                rows.append((label, maps, list(layer_maps)))
    width = max(len(pictures) for _, pictures, _ in rows)
    figure = grid(
        [[*pictures, *[None] * (width - len(pictures))] for _, pictures, _ in rows],
        captions=[[*texts, *[""] * (width - len(texts))] for _, _, texts in rows],
        row_labels=[label for label, _, _ in rows] if len(rows) > 1 else None,
        height=style.height,
        cmap=style.cmap,
    )
    with written_whole(path) as temporary:
        save_png(figure, temporary)


def _inside(box: list[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Rounds a box to at least one pixel inside an image of this size."""
    left, top, right, bottom = map(round, box)
    left, top = min(left, size[0] - 1), min(top, size[1] - 1)
    return left, top, min(max(right, left + 1), size[0]), min(max(bottom, top + 1), size[1])


def write_arrays(path: Path, name: str, job: Job, result: Explained) -> None:
    """Writes a compressed .npz of plain arrays, which loads with ``allow_pickle=False``.

    Under each method's name lies its map (H, W), under ``method.layer`` a layer's, all float32; of
    several classes (classes, H, W). ``image`` is what the model saw, (H, W, C) in [0, 1], and
    ``box`` where it lies in the photograph: left, top, right, bottom.
    """
    normalized = result.inputs[0].movedim(0, -1).cpu().numpy()
    names, alone = list(map(job.model.label, result.targets)), len(result.targets) == 1
    arrays = {
        "path": np.array(name),
        "image": (normalized * job.model.std + job.model.mean).astype(np.float32),
        "box": np.array(result.box, np.float32),
        "target": np.array(result.targets[0] if alone else result.targets),
        "class_name": np.array(names[0] if alone else names),
        "layers": np.array([layer.name for layer in job.layers], dtype=np.str_),
    }
    for e in result.explanations:
        arrays[e.method.name] = _stacked(e.saliency)
        for layer in e.layer_maps[0]:
            arrays[f"{e.method.name}.{layer}"] = _stacked([maps[layer] for maps in e.layer_maps])
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def _stacked(maps: list[Tensor]) -> Any:
    return maps[0].numpy() if len(maps) == 1 else np.stack([m.numpy() for m in maps])
