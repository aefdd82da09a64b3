"""What the command line reports: facts for machines, and the same as text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from captum_excon._version import __version__

if TYPE_CHECKING:
    from captum_excon.cli._job import Explained, Job
    from captum_excon.layers import SelectedLayer
    from captum_excon.models import Model


def class_facts(model: Model, result: Explained, index: int) -> dict[str, Any]:
    probability = round(float(result.probabilities[index]), 6)
    return {"index": index, "label": model.label(index), "probability": probability}


def image_facts(
    name: str, figure: Path, arrays: Path | None, job: Job, result: Explained
) -> dict[str, Any]:
    """Returns what is reported of one image, in text or as JSON."""
    best = result.probabilities.argsort(descending=True)[:5]
    targets = [class_facts(job.model, result, index) for index in result.targets]
    return {
        "image": name,
        "size": list(result.image.size[::-1]),
        "box": [round(edge) for edge in result.box],
        "figure": str(figure),
        "npz": arrays and str(arrays),
        "target": targets[0],
        "targets": targets,
        "top5": [class_facts(job.model, result, index) for index in best.tolist()],
        "methods": [
            {
                "method": e.method.name,
                "layers": e.layers,
                "masks": e.masks,
                "forward_rows": e.forward_rows,
                "seconds": round(e.seconds, 3),
            }
            for e in result.explanations
        ],
    }


def model_facts(job: Job) -> dict[str, Any]:
    model = job.model
    return {
        "captum_excon": __version__,
        "model": model.name,
        "device": str(model.device),
        "input": {"size": list(job.size), "mean": list(model.mean), "std": list(model.std)},
        "layers": [layer_facts(layer) for layer in job.layers],
    }


def layer_facts(layer: SelectedLayer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "type": type(layer.module).__name__,
        "channels": layer.channels,
        "size": list(layer.size),
    }


def model_text(facts: dict[str, Any]) -> str:
    size = "x".join(map(str, facts["input"]["size"]))
    mean, std = (", ".join(f"{v:g}" for v in facts["input"][key]) for key in ("mean", "std"))
    lines = [
        f"model: {facts['model']} on {facts['device']}",
        f"input: {size}, mean {mean}, std {std}",
    ]
    if facts["layers"]:
        lines.append("layers: " + ", ".join(layer["name"] for layer in facts["layers"]))
    return "\n".join(lines)


def image_text(facts: dict[str, Any]) -> str:
    def listed(classes: list[dict[str, Any]]) -> str:
        return ", ".join(f"{c['index']} {c['label']} {c['probability']:.1%}" for c in classes)

    rows = [
        [m["method"], m["masks"], m["forward_rows"], f"{m['seconds']:.2f} s"]
        for m in facts["methods"]
    ]
    return (
        f"\nimage: {facts['image']}\n"
        f"top 5: {listed(facts['top5'])}\n"
        f"explained: {listed(facts['targets'])}\n"
        f"{table(['method', 'masks', 'forward rows', 'time'], rows)}\n"
        f"wrote: {', '.join(filter(None, [facts['figure'], facts['npz']]))}"
    )


def table(head: list[str], rows: list[list[Any]]) -> str:
    """Lays out columns: the first to the left, the others to the right, "-" for None."""
    align = ["left", *["right"] * (len(head) - 1)]
    text: str = tabulate(
        [head, *rows], tablefmt="plain", missingval="-", colalign=align, disable_numparse=True
    )
    return text
