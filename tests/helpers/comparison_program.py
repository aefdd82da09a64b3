"""Stands in for ``captum-excon`` in tests of a comparison: quick, with figures from a formula.

Environment: CALLS names a file that gets a line for each call, OUT the comparison's folder,
SETTINGS those of a training; FAIL the run whose training fails, SLEEP that which takes a minute.
"""

import hashlib
import json
import os
import random
import sys
import time
from pathlib import Path

SHIFTS = ("gaussian-noise", "rotation")
METHODS = ("ce", "supcon", "excon", "exconb", "edda", "random-occlusion")


def option(name: str, default: str = "") -> str:
    return next((a.split("=", 1)[1] for a in sys.argv if a.startswith(f"--{name}=")), default)


def train() -> None:
    out, method, seed = Path(option("out")), option("method"), int(option("seed"))
    out.mkdir(parents=True, exist_ok=True)
    if os.environ.get("SLEEP") == out.name:
        time.sleep(60)
    if os.environ.get("FAIL") == out.name:
        sys.exit("captum-excon: error: the disk is full")
    settings = {"method": method, "seed": seed}
    settings |= {
        a[6:].split("=")[0]: json.loads(a.split("=", 2)[2]) for a in sys.argv if "--set=" in a
    }
    figures = {"epoch": 2, "val_accuracy": 0.5, "test_accuracy": 0.4}
    summary = {
        "config": {**json.loads(os.environ["SETTINGS"]), **settings},
        "best": figures,
        "last": figures,
        "seconds": 30.0,
        "explain_seconds": 10.0,
        "hardware": {"threads": 1},
    }
    (out / "best.ckpt").write_text(out.name)
    (out / "last.ckpt").write_text(f"{out.name}, last")
    (out / "summary.json").write_text(json.dumps(summary))


def evaluate() -> None:
    target, out = Path(sys.argv[-1]), Path(option("out"))
    paths = [target / "best.ckpt", target / "last.ckpt"] if target.is_dir() else [target]
    limit = int(option("limit")) if option("limit") else None
    out.mkdir(exist_ok=True)
    found = {path.stem: evaluation(path, limit) for path in paths}
    (out / "evaluation.json").write_text(json.dumps({"checkpoints": found}))


def evaluation(path: Path, limit: int | None) -> dict[str, object]:
    method, seed = path.parent.name.rsplit("-", 1)
    noise = random.Random(path.parent.name)
    # Each method is two points better than the one before it, and a little more at higher seeds.
    gain = METHODS.index(method) * (0.02 + 0.001 * int(seed))
    top1 = 0.5 + gain + 0.01 * int(seed)
    figures = {"top1": top1, "top5": 0.9, "ece10": 0.1 + noise.uniform(0, 0.05), "ece15": 0.1}
    return {
        "checkpoint": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "images": 200,
        "subset": limit or 200,
        "clean": figures,
        "reliability": {"count": [0, 200], "confidence": [None, 0.8], "accuracy": [None, top1]},
        "explanations": {
            "layer-grad-cam": {
                "drop": 0.6 - gain,
                "increase": 0.2,
                "undefined": 0.0,
            },
            "random": {"drop": None, "increase": None, "undefined": 1.0},
        },
        "attacks": {"epsilons": [1, 8], "clean": top1, "fgsm": [0.3, 0.1], "pgd": [0.2, 0.0]},
        "shifts": {shift: [figures] * 5 for shift in SHIFTS},
        "settings": {"limit": limit, "fraction": 0.15},
    }


if __name__ == "__main__":
    with open(os.environ["CALLS"], "a") as calls:
        calls.write(f"{sys.argv[1]} {Path(option('out')).relative_to(os.environ['OUT'])}\n")
    {"train": train, "evaluate": evaluate}[sys.argv[1]]()
