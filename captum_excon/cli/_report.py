"""What the command line tells: facts for machines, and the same as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captum_excon._version import __version__

if TYPE_CHECKING:
    from captum_excon.cli._job import Explained, Job
    from captum_excon.layers import SelectedLayer


def image_facts(
    name: str, figure: Path, arrays: Path | None, job: Job, result: Explained
) -> dict[str, Any]:
    """What is told of one image, in text or as JSON."""

    def named(index: int) -> dict[str, Any]:
        probability = round(float(result.probabilities[index]), 6)
        return {"index": index, "label": job.model.label(index), "probability": probability}

    best = result.probabilities.argsort(descending=True)[:5]
    return {
        "image": name,
        "figure": str(figure),
        "npz": arrays and str(arrays),
        "target": named(result.target),
        "top5": [named(index) for index in best.tolist()],
        "methods": [
            {
                "method": e.method,
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
    best = [f"{c['index']} {c['label']} {c['probability']:.1%}" for c in facts["top5"]]
    target = facts["target"]
    rows = [
        [
            m["method"],
            "-" if m["masks"] is None else m["masks"],
            m["forward_rows"],
            f"{m['seconds']:.2f} s",
        ]
        for m in facts["methods"]
    ]
    return (
        f"\nimage: {facts['image']}\n"
        f"top 5: {', '.join(best)}\n"
        f"explained: {target['index']} {target['label']} {target['probability']:.1%}\n"
        f"{table(['method', 'masks', 'forward rows', 'time'], rows)}\n"
        f"wrote: {', '.join(filter(None, [facts['figure'], facts['npz']]))}"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns side by side: the first to the left, the others to the right."""
    lines = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
