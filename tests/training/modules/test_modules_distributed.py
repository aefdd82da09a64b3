"""The training modules on two processes, with gloo on the CPU."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.slow

ARMS: dict[str, dict[str, Any]] = {
    # Warm-up, classifier and explained epochs, with uneven numbers of backgrounds.
    "exconb": {"start_epoch": 1},
    "excon": {"classifier_schedule": "step", "compile": "eager"},
    "edda": {"view": "standard", "refresh": "teacher", "drop_target": "background"},
}

SCRIPT = """
import json
import sys
import warnings
from pathlib import Path

import lightning as L
import torch
from helpers.training_toys import fit, module

torch.set_num_threads(1)
warnings.simplefilter("ignore")
folder = Path(sys.argv[1])


class Note(L.Callback):
    def __init__(self, name):
        self.name = name

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == trainer.max_epochs - 1:
            state = {n: p.data for n, p in pl_module.named_parameters() if p.requires_grad}
            metrics = {n: float(v) for n, v in trainer.callback_metrics.items()}
            torch.save((state, metrics), folder / f"{self.name}-{trainer.global_rank}.pt")


for name, options in json.loads(sys.argv[2]).items():
    if name == "edda":
        options["cache"] = str(folder / "maps")
    model = module(name, **options)
    torch.save(model.state_dict(), folder / f"{name}-start.pt")
    fit(model, folder, 4, devices=2, strategy="ddp_fork", callbacks=[Note(name)])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, folder, json.dumps(ARMS)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("arm", ARMS)
def test_two_processes_end_with_the_same_trained_weights(arm: str, folder: Path) -> None:
    start = torch.load(folder / f"{arm}-start.pt", weights_only=True)
    (first, metrics), (second, others) = (
        torch.load(folder / f"{arm}-{rank}.pt", weights_only=True) for rank in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(not torch.equal(first[name], start[name]) for name in first)
    assert metrics["train/loss"] == others["train/loss"]
    assert metrics["val/accuracy"] == others["val/accuracy"]


@pytest.mark.slow
def test_two_processes_fill_one_cache(folder: Path) -> None:
    (maps,) = (folder / "maps").glob("*.f16")
    (keys,) = (np.fromfile(path, np.int64) for path in (folder / "maps").glob("keys-*.i64"))
    assert len(set(keys)) == 16
    assert bool((keys != 0).all())
    assert maps.stat().st_size % (16 * 2) == 0
