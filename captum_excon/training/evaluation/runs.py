"""Evaluates the checkpoints of a run: figures, tables and plots in a folder."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from tqdm import tqdm

from captum_excon._files import check_writable, written_whole
from captum_excon._messages import one_line
from captum_excon._provenance import provenance
from captum_excon.errors import UserError
from captum_excon.models import pick_device
from captum_excon.training.data.corrupted import SEVERITIES, corruptions, open_corrupted
from captum_excon.training.data.datasets import open_dataset
from captum_excon.training.data.module import ExplanationDataModule
from captum_excon.training.evaluation import plots
from captum_excon.training.evaluation.measures import Evaluable, evaluate, evaluate_corrupted
from captum_excon.training.evaluation.tables import as_csv, as_markdown
from captum_excon.training.methods._settings import EvaluationSettings
from captum_excon.training.run.checkpoints import BEST, LAST
from captum_excon.training.run.runner import load_run

EVALUATION = "evaluation.json"

# The first that training did not use is measured beside the training's own.
OTHER_EXPLAINERS = ("integrated-gradients", "layer-grad-cam")


def evaluate_run(
    path: Path,
    out: Path | None = None,
    *,
    data: str | None = None,
    explainers: Sequence[str] | None = None,
    settings: EvaluationSettings | None = None,
    corrupted: Path | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    num_workers: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Evaluates a checkpoint on its run's test images, and writes the results.

    ``out`` gets ``evaluation.json``, ``evaluation.csv`` (one figure a line), ``evaluation.md``
    (tables), ``attacks.png``, ``shifts.png``, ``reliability.png`` and, with ``corrupted``,
    ``corruptions.png``; each is written whole or not at all, the JSON last.

    Args:
        path: A checkpoint, or the folder of a run, for both its best and its last one.
        out: Where to write; by default the folder ``evaluation`` beside the checkpoint.
        data: Where the data lie now; None for where training found them.
        explainers: Names of the explainers whose Drop and Increase are measured; by default the
            training's and one that training did not use.
        settings: How to measure.
        corrupted: A folder of CIFAR-10-C, CIFAR-100-C or Tiny-ImageNet-C.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" and so on.
        batch_size: Images per batch; None for the training's. No figure depends on it.
        num_workers: Processes that read images; None for the training's.
        progress: Show bars, unless standard error is not a terminal.

    Returns:
        What ``evaluation.json`` holds: under ``checkpoints``, for ``best``, ``last`` or the
        checkpoint's own name, what `evaluate` returns with the ``checkpoint``, its ``sha256``,
        ``method``, ``seed``, ``training_explainer``, ``seconds`` and, with ``corrupted``, the
        ``corruptions``; ``command``, ``versions`` and ``hardware``.

    Raises:
        UserError: The checkpoint, the data or the device is not there, there is no such explainer,
            the model's outputs are not finite, or ``out`` cannot be written to.
    """
    where = pick_device(device)
    checkpoints = [path / BEST, path / LAST] if path.is_dir() else [path]
    out = out or checkpoints[0].parent / "evaluation"
    with _output_folder(out):
        results = {}
        for checkpoint in checkpoints:
            began = time.perf_counter()
            # Weights are drawn before they are replaced.
            with torch.random.fork_rng(devices=[]):
                module, datamodule, config = load_run(checkpoint, data=data)
            datamodule.batch_size = batch_size or datamodule.batch_size
            datamodule.num_workers = datamodule.num_workers if num_workers is None else num_workers
            other = next(name for name in OTHER_EXPLAINERS if name != config.explainer)
            names = explainers or [config.explainer, other]
            try:
                found = _evaluated(
                    module.to(where), datamodule, names, settings, corrupted, progress
                )
            except ValueError as error:
                raise UserError(f"{checkpoint}: {one_line(error)}") from error
            results[checkpoint.stem] = {
                "checkpoint": str(checkpoint),
                "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
                "method": config.method,
                "seed": config.seed,
                "training_explainer": config.explainer,
                **found,
                "seconds": time.perf_counter() - began,
            }
        report = {"checkpoints": results, **provenance(where, "torchmetrics")}
        _write(out, report)
    return report


@contextmanager
def _output_folder(folder: Path) -> Iterator[None]:
    """Makes a folder to write to, and removes it again if an error leaves it empty."""
    made = not folder.exists()
    check_writable(folder)
    try:
        yield
    except BaseException:
        # An empty folder among those of classes would be a class without images.
        with suppress(OSError):
            if made:
                folder.rmdir()
        raise


def _evaluated(
    module: L.LightningModule,
    datamodule: ExplanationDataModule,
    explainers: Sequence[str],
    settings: EvaluationSettings | None,
    corrupted: Path | None,
    progress: bool,
) -> dict[str, Any]:
    classifier = cast(Evaluable, module)
    built = {name: cast(Any, module).make_explainer(name) for name in explainers}
    result = evaluate(classifier, datamodule.test_dataloader(), built, settings, progress=progress)
    if corrupted is None:
        return result
    names = all_names = datamodule.class_names
    if datamodule.classes is not None:
        all_names = open_dataset(datamodule.source, "test", root=datamodule.root).class_names
    found: dict[str, list[dict[str, float]]] = {}
    # None hides the bar where standard error is not a terminal.
    for kind in tqdm(corruptions(corrupted), unit="corruption", disable=None if progress else True):
        images = [
            open_corrupted(corrupted, kind, severity, names, all_class_names=all_names)
            for severity in SEVERITIES
        ]
        found[kind] = [evaluate_corrupted(classifier, datamodule.loader(i)) for i in images]
    return {**result, "corruptions": found}


def _write(out: Path, report: Mapping[str, Any]) -> None:
    results = report["checkpoints"]
    plots.save_all({name: [result] for name, result in results.items()}, out)
    texts = {
        "evaluation.csv": as_csv(results),
        "evaluation.md": f"# Evaluation\n\n{as_markdown(results)}",
        EVALUATION: json.dumps(report, indent=2, allow_nan=False) + "\n",
    }
    for name, text in texts.items():
        with written_whole(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
