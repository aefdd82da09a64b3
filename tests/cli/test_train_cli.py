"""The command ``train`` from outside: options, files, what it prints, exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from helpers.small_runs import CLASSES, image_folder, settings
from typer.testing import CliRunner

from captum_excon.cli.train import train

app = typer.Typer()
app.command()(train)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture
def config(data: Path, tmp_path: Path) -> Path:
    settings(data, "ce", epochs=1).save(tmp_path / "small.yaml")
    return tmp_path / "small.yaml"


def run(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def refused(*arguments: object) -> str:
    """The one line on standard error of a command that ends with status 2."""
    result = run(*arguments, code=2)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("captum-excon: error: ")
    return str(line.removeprefix("captum-excon: error: "))


def test_options_come_before_the_file_and_the_summary_is_printed(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--config", config, "--method", "edda", "--seed", 3, "--set", "keep-ratio=0.3"]
    result = run(*arguments, "--set", "drop_target=hinge", "--lr", "0.01", "--classes", "red,blue")
    assert result.stderr == ""
    assert result.stdout.startswith("edda, seed 3: 1 epochs in ")
    assert result.stdout.splitlines()[-1] == str(Path("runs") / "edda-3" / "summary.json")
    summary = json.loads(Path("runs/edda-3/summary.json").read_text())
    used = summary["config"]
    assert (used["keep_ratio"], used["drop_target"], used["lr"]) == (0.3, "hinge", 0.01)
    assert used["classes"] == ["red", "blue"]
    assert f"{summary['last']['test_accuracy']:.1%}" in result.stdout


def test_resuming_needs_the_folder_only_and_prints_the_same(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = json.loads(run("--config", config, "--out", out, "--json").stdout)
    (out / "summary.json").unlink()
    again = json.loads(run("--resume", "--out", out, "--json").stdout)
    assert (first["best"], first["last"]) == (again["best"], again["last"])
    assert run("--resume", "--out", out, "--quiet").stdout == ""


def test_mistakes_are_one_line(config: Path, tmp_path: Path) -> None:
    run("--config", config, "--out", tmp_path / "run")
    assert "is not empty" in refused("--config", config, "--out", tmp_path / "run")
    assert "lr was 0.05, now 0.5" in refused("--resume", "--out", tmp_path / "run", "--lr", "0.5")
    assert "choose one" in refused("--resume", "--overwrite", "--config", config)
    assert "the setting 'data' is missing: A folder with" in refused("--method", "ce")
    assert "expects NAME=VALUE" in refused("--config", config, "--set", "lr")
    assert "unknown setting 'rl'" in refused("--config", config, "--set", "rl=1")
    assert "method: there is no method 'exkon'" in refused("--config", config, "--method", "exkon")
    assert "cannot be read" in refused("--config", tmp_path / "none.yaml")


def test_classes_may_be_a_number(config: Path, tmp_path: Path) -> None:
    summary = json.loads(
        run("--config", config, "--classes", 2, "--out", tmp_path / "run", "--json").stdout
    )
    assert summary["config"]["classes"] == 2
    assert len(CLASSES) == 3


def test_help_imports_neither_torch_nor_lightning() -> None:
    heavy = {"torch", "lightning"}
    code = f"import sys, captum_excon.cli.train; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
def test_ctrl_c_stops_with_status_130_and_says_how_to_go_on(data: Path, tmp_path: Path) -> None:
    settings(data, "ce", epochs=400).save(tmp_path / "long.yaml")
    out = tmp_path / "run"
    script = (
        "import signal, typer\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from captum_excon.cli.train import train\n"
        "typer.run(train)"
    )
    arguments = ["--config", str(tmp_path / "long.yaml"), "--out", str(out)]
    child = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 300
    while not (out / "metrics.csv").exists():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    printed = child.communicate(timeout=300)
    assert child.returncode == 130, printed
    assert printed == ("", f"captum-excon: stopped; continue with: train --resume --out {out}\n")
    assert not (out / "summary.json").exists()
    assert len((out / "metrics.csv").read_text().splitlines()) > 1
