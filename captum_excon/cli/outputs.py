"""What the command line writes: figures and arrays, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from captum_excon._files import written_whole

if TYPE_CHECKING:
    from torch import Tensor

    from captum_excon.cli._job import Explained, Job


def write_figure(path: Path, job: Job, result: Explained) -> None:
    """Draws the photograph as the model saw it, and the maps beside and the layers' maps below."""
    from captum_excon.visualization import grid, overlay, save_png, to_uint8

    mean, std = job.model.mean, job.model.std

    def heat(saliency: Tensor) -> Tensor:
        return overlay(result.inputs, saliency[None], mean=mean, std=std)[0]

    pictures = [[to_uint8(result.inputs, mean=mean, std=std)[0]]]
    pictures[0] += [heat(e.saliency) for e in result.explanations]
    probability = float(result.probabilities[result.target])
    captions = [[f"{job.model.label(result.target)}, {probability:.0%}"]]
    captions[0] += [job.methods[e.method].__name__ for e in result.explanations]
    row_labels = [""]
    for e in result.explanations:
        if e.layer_maps:
            pictures.append([heat(saliency) for saliency in e.layer_maps.values()])
            captions.append(list(e.layer_maps))
            row_labels.append(job.methods[e.method].__name__)
    width = max(map(len, pictures))
    figure = grid(
        [[*row, *[None] * (width - len(row))] for row in pictures],
        captions=[[*row, *[""] * (width - len(row))] for row in captions],
        row_labels=row_labels if len(pictures) > 1 else None,
    )
    with written_whole(path) as temporary:
        save_png(figure, temporary)


def write_arrays(path: Path, name: str, job: Job, result: Explained) -> None:
    """Writes a compressed .npz of plain arrays, which loads with ``allow_pickle=False``.

    Under each method's name lies its map (H, W), under ``method.layer`` a layer's, all float32;
    ``image`` is what the model saw, (H, W, C) in [0, 1].
    """
    normalized = result.inputs[0].movedim(0, -1).cpu().numpy()
    arrays = {
        "path": np.array(name),
        "image": (normalized * job.model.std + job.model.mean).astype(np.float32),
        "target": np.array(result.target),
        "class_name": np.array(job.model.label(result.target)),
        "layers": np.array([layer.name for layer in job.layers], dtype=np.str_),
    }
    for e in result.explanations:
        arrays[e.method] = e.saliency.numpy()
        for layer, saliency in e.layer_maps.items():
            arrays[f"{e.method}.{layer}"] = saliency.numpy()
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
