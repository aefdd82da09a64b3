import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers.tiny_runs import finished, lines, maps, planned, records, tiny_config
from typer.testing import CliRunner

from benchmarks.explanations.cli import app
from benchmarks.explanations.methods.controls import CONTROLS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_config(["random", "sobel"], ["ebpg", "drop"]).to_dict()))
    return str(path)


def invoke(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.mark.slow
def test_the_stages_one_by_one_and_all_at_once_give_the_same(config, tmp_path):
    one, all_at_once = tmp_path / "one", tmp_path / "all"
    result = invoke("plan", one, "--config", config)
    assert result.exit_code == 0, result.output
    assert "3 items of synthetic" in result.stdout
    for stage in ("explain", "score", "report"):
        result = invoke(stage, one)
        assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(one / "report" / "index.html")
    result = invoke("run", all_at_once, "--config", config, "--quiet", "--no-gallery")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(all_at_once / "report" / "index.html")
    assert result.stderr == ""
    assert records(one) == records(all_at_once)


def test_shards_leave_the_report_to_the_end(config, tmp_path):
    for shard in ("1/2", "0/2"):
        result = invoke("run", tmp_path, "-c", config, "--shard", shard)
        assert result.exit_code == 0, result.output
        assert "when all shards are done" in result.stdout
    assert not (tmp_path / "report").exists()
    before = lines(tmp_path)
    assert invoke("run", tmp_path, "--no-gallery", "-q").exit_code == 0
    assert lines(tmp_path) == before


def test_the_profile_says_how_much_was_forward_passes(config, tmp_path):
    invoke("plan", tmp_path, "-c", config, "--no-estimate")
    invoke("explain", tmp_path)
    result = invoke("score", tmp_path, "--profile")
    assert result.exit_code == 0, result.output
    found = re.search(r"profile: [\d.]+ s, ([\d.]+)% in forward passes", result.stdout)
    assert 0 < float(found[1]) < 100
    assert "drop, increase" in result.stdout


def test_an_error_of_an_explainer_is_told_and_kept_in_the_status(config, tmp_path, monkeypatch):
    def broken(images, items):
        raise RuntimeError("out of order")

    with monkeypatch.context() as patch:
        patch.setitem(CONTROLS, "sobel", broken)
        result = invoke("run", tmp_path, "-c", config, "--no-gallery")
    assert result.exit_code == 1
    assert "sobel, explain: 3 times: RuntimeError: out of order" in result.stderr
    assert (tmp_path / "report" / "index.html").exists()
    assert invoke("explain", tmp_path, "-q").exit_code == 1
    result = invoke("run", tmp_path, "--retry", "--no-gallery")
    assert result.exit_code == 0, result.output
    assert "error" not in "".join(lines(tmp_path)).replace("errors", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain"], "run the plan stage first"),
        (["run"], "has no plan yet"),
        (["run", "-c", "quik"], "did you mean 'quick'"),
        (["run", "-c", "quick", "-s", "data.count"], "expects NAME=VALUE"),
        (["run", "-c", "quick", "-s", "metrics=[ebgp]"], "did you mean 'ebpg'"),
        (["run", "-c", "quick", "--shard", "2"], "--shard must be R/N"),
        (
            ["plan", "-c", "paper", "-s", "data.kind=images", "-s", "data.path=x"],
            "no annotation, which ebpg, miou, bbox, ground-truth need: leave these out",
        ),
    ],
)
def test_what_a_user_can_mend_is_one_line(tmp_path, arguments, message):
    result = invoke(arguments[0], tmp_path, *arguments[1:])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.slow
def test_torchrun_divides_the_items_and_reports_once(tmp_path):
    config = tiny_config(["random", "captum:layer-grad-cam"], ["ebpg", "drop"])
    alone = finished(tmp_path / "alone", config)
    together = planned(tmp_path / "together", config)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "benchmarks.explanations", "run", str(together), "--no-gallery", "--plain"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("index.html")
    assert done.stdout.count("index.html") == 1
    names = sorted(path.name for path in (together / "records").glob("*.jsonl"))
    assert names == ["explain.0of2.jsonl", "explain.1of2.jsonl", "score.0of2.jsonl",
                     "score.1of2.jsonl"]  # fmt: skip
    assert records(together) == records(alone)
    assert maps(together) == maps(alone)
    assert not torch.distributed.is_initialized()
