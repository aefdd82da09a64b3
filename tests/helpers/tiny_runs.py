"""Tiny benchmarks on the synthetic data, and what of their records must be the same again."""

import json

import torch

from benchmarks.explanations.configs.settings import Config
from benchmarks.explanations.stages import common
from benchmarks.explanations.stages.common import Shard
from benchmarks.explanations.stages.explain import explain
from benchmarks.explanations.stages.plan import make_plan, open_run
from benchmarks.explanations.stages.records import read_records
from benchmarks.explanations.stages.score import score

EXPLAINERS = ["captum:layer-grad-cam", {"name": "rise", "options": {"n_masks": 8}}, "random"]
METRICS = ["ebpg", "drop", {"name": "deletion", "options": {"steps": 4}}]

# What the clock and the machine decide.
MEASURED = ("seconds", "peak_mib")


def tiny_config(explainers=EXPLAINERS, metrics=METRICS, count=3, **settings):
    return Config.from_mapping(
        {
            "data": {"kind": "synthetic", "count": count, "size": 48},
            "model": {"name": "synthetic"},
            "protocol": {"target": "label"},
            "layer": "block1",
            "batch_size": 8,
            "explainers": list(explainers),
            "metrics": list(metrics),
            **settings,
        }
    )


def planned(folder, config=None):
    """A run folder with a plan."""
    make_plan(folder, config or tiny_config(), progress=False)
    return folder


def stages(folder, shard=Shard()):  # noqa: B008 - it is frozen
    """Explains and scores; returns how both went."""
    run = open_run(folder)
    return explain(run, shard), score(run, shard)


def stages_in_chunks(folder, seconds):
    """`stages`, with records written so often; here, since a child process imports its module."""
    torch.set_num_threads(1)  # as in the parent: rounding depends on it
    common.CHUNK_SECONDS = seconds
    stages(folder)


def finished(folder, config=None):
    """A run folder that is explained and scored."""
    stages(planned(folder, config))
    return folder


def records(folder, stage=None):
    """The records, without what the clock decides."""
    found = [r for r in read_records(folder / "records") if stage in (None, r["stage"])]
    return [json.dumps({k: v for k, v in r.items() if k not in MEASURED}) for r in found]


def lines(folder):
    """All lines of all record files."""
    return [
        line
        for path in sorted((folder / "records").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]


def maps(folder):
    """The bytes of all maps, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted((folder / "maps" / ".configs").glob("*/*.npy"))
    }


def values(folder, metric):
    """The values of a metric, one list an explainer."""
    found = {}
    for r in read_records(folder / "records"):
        if r["metric"] == metric:
            found.setdefault(r["explainer"], []).append(r["value"])
    return found
