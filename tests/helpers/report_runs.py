"""Run folders as the stages before the report leave them, from made-up figures."""

import json

import numpy as np

from benchmarks.explanations.stages.records import RecordWriter

METRICS = {"ebpg": "higher", "miou": "higher", "drop": "lower", "deletion": "lower"}
CONTROLS = ("random", "fake-cam", "ground-truth")
# How good each explainer is, in [0, 1].
QUALITY = {"good": 0.8, "fair": 0.5, "poor": 0.3, "random": 0.15, "ground-truth": 1.0}


def record(item, explainer, metric, value, **fields):
    return {
        "stage": "score",
        "item": item,
        "source": f"image-{item}",
        "dataset": "made-up",
        "split": "val",
        "class": item % 2,
        "class_name": "cat" if item % 2 else "dog",
        "label": item % 2,
        "model": "network",
        "weights": "0123456789abcdef",
        "explainer": explainer,
        "control": explainer in CONTROLS,
        "layers": ["features"],
        "metric": metric,
        "value": value,
        "direction": METRICS.get(metric, "higher"),
        "status": "ok",
        "seconds": 0.1,
        "seed": 0,
        "config": f"{explainer}-{metric}",
        "versions": {"torch": "2.0"},
    } | fields


def explained(item, explainer, seconds):
    costs = {"seconds": seconds, "forward_rows": 10, "backward_rows": 1, "peak_mib": 100}
    fields = {"stage": "explain", "config": explainer} | costs
    found = record(item, explainer, "explain", None, **fields)
    del found["direction"]
    return found


def scores(items=24, quality=QUALITY, metrics=METRICS, seed=0, noise=0.02):
    """Values that follow the quality, an image's difficulty and a little noise."""
    rng = np.random.default_rng(seed)
    difficulty = rng.uniform(0, 0.3, items)
    for metric in metrics:
        for explainer, level in quality.items():
            for item in range(items):
                up = level * (1 - difficulty[item]) + rng.normal(0, noise)
                value = up if METRICS[metric] == "higher" else 1 - up
                curve = {}
                if metric == "deletion":
                    curve = {"curve": list(np.linspace(1, 0, 6) * value)}
                yield record(item, explainer, metric, float(value), **curve)


def write_run(folder, records, items=24, *, maps=(), plan=None, config="data: {name: made-up}\n"):
    """Writes a run folder; ``maps`` names the explainers with random maps on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = {"items": [{"item": i} for i in range(items)]} if plan is None else plan
    (folder / "plan.json").write_text(json.dumps(plan))
    (folder / "config.yaml").write_text(config)
    with RecordWriter(folder / "records" / "score.0of1.jsonl") as writer:
        writer.append(records)
    rng = np.random.default_rng(0)
    for explainer in maps:
        place = folder / "maps" / explainer
        place.mkdir(parents=True)
        for item in range(items):
            np.save(place / f"{item}.npy", rng.random((1, 7, 7), dtype=np.float32))
    return folder


def replaced(records, explainer, metric, **fields):
    """The same records, those of one explainer and metric changed."""
    for found in records:
        if (found["explainer"], found["metric"]) == (explainer, metric):
            found = found | {k: f(found["item"]) if callable(f) else f for k, f in fields.items()}
        yield found
