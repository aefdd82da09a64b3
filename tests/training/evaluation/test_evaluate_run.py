import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from helpers.small_runs import CLASSES, SIZE, image_folder, picture, settings, weights
from PIL import Image
from typer.testing import CliRunner

from captum_excon.cli.evaluate import evaluate as command
from captum_excon.errors import UserError
from captum_excon.training.evaluation import plots
from captum_excon.training.evaluation.runs import evaluate_run
from captum_excon.training.evaluation.tables import figures
from captum_excon.training.methods._settings import EvaluationSettings
from captum_excon.training.run import runner

# Lightning 2.6 with this torch: an import inside it.
pytestmark = [
    pytest.mark.slow,  # trains a run first
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]

SMALL = EvaluationSettings(limit=5, epsilons=(2,), pgd_steps=2)

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(command)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the plots, which take longer than all the rest."""
    monkeypatch.setattr(plots, "save_all", lambda results, folder: None)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = image_folder(tmp_path_factory.mktemp("data"))
    out = tmp_path_factory.mktemp("run") / "excon-0"
    runner.train(settings(data, "excon", epochs=2, start_epoch=0), out)
    return out


@pytest.fixture(scope="module")
def report(run: Path) -> dict[str, Any]:
    return evaluate_run(run, settings=SMALL)


def test_a_folder_gives_the_best_and_the_last_checkpoint(run: Path, report: dict[str, Any]) -> None:
    assert list(report["checkpoints"]) == ["best", "last"]
    for name, found in report["checkpoints"].items():
        assert (found["method"], found["seed"]) == ("excon", 0)
        assert (found["images"], found["subset"]) == (12, 5)
        assert set(found["explanations"]) == {"layer-grad-cam", "integrated-gradients", "random"}
        summary = json.loads((run / "summary.json").read_text())
        assert found["clean"]["top1"] == pytest.approx(summary[name]["test_accuracy"])
    assert torch.__version__.startswith(report["versions"]["torch"])


def test_json_tables_and_plots_are_written(run: Path, report: dict[str, Any]) -> None:
    out = run / "evaluation"
    assert {path.name for path in out.iterdir()} == {
        "evaluation.json",
        "evaluation.csv",
        "evaluation.md",
        "attacks.png",
        "shifts.png",
        "reliability.png",
    }
    assert json.loads((out / "evaluation.json").read_text()) == json.loads(json.dumps(report))
    with (out / "evaluation.csv").open(newline="") as file:
        rows = {(row["checkpoint"], row["figure"]): row["value"] for row in csv.DictReader(file)}
    expected = figures(report["checkpoints"]["last"])
    assert {n: float(rows["last", n]) for n in expected} == expected
    page = re.sub(" +", " ", (out / "evaluation.md").read_text())
    top1 = 100 * report["checkpoints"]["best"]["clean"]["top1"]
    assert f"| best | {top1:.1f} |" in page
    for name in ("attacks", "shifts", "reliability"):
        with Image.open(out / f"{name}.png") as picture_file:
            assert min(picture_file.size) > 300


@pytest.mark.usefixtures("undrawn")
def test_a_checkpoint_is_evaluated_alone_and_repeats_itself(
    run: Path, report: dict[str, Any], tmp_path: Path
) -> None:
    alone = evaluate_run(run / "last.ckpt", tmp_path, settings=SMALL, batch_size=5)
    assert list(alone["checkpoints"]) == ["last"]
    again = figures(alone["checkpoints"]["last"])
    assert again == pytest.approx(figures(report["checkpoints"]["last"]), abs=1e-6)


@pytest.mark.usefixtures("undrawn")
def test_evaluation_leaves_the_checkpoint_and_the_random_state_alone(
    run: Path, tmp_path: Path
) -> None:
    before, state = weights(run / "best.ckpt"), torch.get_rng_state()
    evaluate_run(run / "best.ckpt", tmp_path, settings=SMALL)
    after = weights(run / "best.ckpt")
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.usefixtures("undrawn")
def test_other_data_and_other_explainers_can_be_named(run: Path, tmp_path: Path) -> None:
    data = image_folder(tmp_path / "other", test=2)
    found = evaluate_run(
        run / "best.ckpt", tmp_path / "out", data=str(data), explainers=["saliency"], settings=SMALL
    )["checkpoints"]["best"]
    assert found["images"] == 6
    assert set(found["explanations"]) == {"saliency", "random"}


def cifar_c(folder: Path, severities: int = 5, count: int = 6) -> Path:
    """CIFAR-C's files: the same images at every severity, with labels in their first third."""
    folder.mkdir()
    labels = np.arange(count) % len(CLASSES)
    pixels = np.stack([np.asarray(picture(int(label), 7 + i)) for i, label in enumerate(labels)])
    for name in ("fog", "snow"):
        np.save(folder / f"{name}.npy", np.concatenate([pixels] * severities))
    np.save(folder / "labels.npy", labels)
    return folder


@pytest.mark.slow
def test_corrupted_images_get_a_ladder_a_table_and_a_plot(run: Path, tmp_path: Path) -> None:
    corrupted = cifar_c(tmp_path / "c")
    out = tmp_path / "out"
    report = evaluate_run(run / "best.ckpt", out, corrupted=corrupted, settings=SMALL)
    found = report["checkpoints"]["best"]["corruptions"]
    assert list(found) == ["fog", "snow"]
    assert found["fog"] == [found["fog"][0]] * 5
    assert (
        figures(report["checkpoints"]["best"])["corruptions/mean/top1"] == found["fog"][0]["top1"]
    )
    assert "## Accuracy under corruptions" in (out / "evaluation.md").read_text()
    assert (out / "corruptions.png").exists()


@pytest.mark.usefixtures("undrawn")
def test_what_the_user_can_mend_is_said_in_one_line(run: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ([run / "gone.ckpt"], "gone.ckpt: cannot be read"),
        ([run / "metrics.csv"], "not a checkpoint of captum-excon train"),
        ([run, "--data", tmp_path / "nowhere"], "nowhere"),
        ([run, "--explainers", "saliencey"], "unknown method 'saliencey'; did you mean"),
        ([run, "--epsilons", "1,x"], "epsilons.1 should be a valid integer"),
        ([run, "--epsilons", "0"], "epsilons.0 should be greater than or equal to 1"),
        ([run, "--device", "warp"], "--device 'warp' is unknown"),
        ([run, "--corrupted", tmp_path / "none"], "none: no such folder"),
    ):
        arguments = [*map(str, arguments), "--out", str(tmp_path / "out"), "--limit", "2"]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2, result.output
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_naming_the_data_in_place_of_a_run_leaves_nothing_in_it(tmp_path: Path) -> None:
    data = image_folder(tmp_path / "data")
    with pytest.raises(UserError, match=r"best\.ckpt: cannot be read"):
        evaluate_run(data)
    assert not (data / "evaluation").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_model_with_outputs_that_are_not_finite_is_reported(run: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(run / "last.ckpt", weights_only=True)
    name = next(n for n in checkpoint["state_dict"] if n.endswith("head.weight"))
    checkpoint["state_dict"][name].fill_(torch.nan)
    torch.save(checkpoint, tmp_path / "nan.ckpt")
    with pytest.raises(UserError, match=r"nan\.ckpt: the model's outputs are NaN or infinite"):
        evaluate_run(tmp_path / "nan.ckpt", settings=SMALL)


@pytest.mark.usefixtures("undrawn")
def test_the_command_prints_tables_or_json(run: Path, tmp_path: Path) -> None:
    options = ["--limit", "3", "--epsilons", "2", "--pgd-steps", "1", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, [str(run / "best.ckpt"), *options])
    assert result.exit_code == 0, result.stderr
    assert "## Accuracy and calibration" in result.stdout
    assert result.stderr == ""
    result = CliRunner().invoke(app, [str(run / "best.ckpt"), *options, "--json"])
    assert json.loads(result.stdout)["checkpoints"]["best"]["settings"]["limit"] == 3


@pytest.mark.usefixtures("undrawn")
def test_image_size_is_the_training_s(run: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in CLASSES:
        for split, count in (("train", 3), ("test", 1)):
            (data / split / name).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (3 * SIZE, 2 * SIZE), name)
                image.save(data / split / name / f"{number}.png")
    report = evaluate_run(run / "best.ckpt", tmp_path / "out", data=str(data), settings=SMALL)
    assert report["checkpoints"]["best"]["images"] == 3
