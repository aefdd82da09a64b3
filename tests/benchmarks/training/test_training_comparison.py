import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.training import compare, runs, write_up
from benchmarks.training.report import Run, compared, paired, pairs, quantile, summary
from captum_excon.training.evaluation import plots
from captum_excon.training.run.config import TrainConfig

PROGRAM = [sys.executable, str(Path(__file__).parents[2] / "helpers" / "comparison_program.py")]
RESULTS = Path(__file__).parents[3] / "benchmarks" / "results" / "training"
ARMS = ["ce", "supcon", "excon"]

pytestmark = pytest.mark.slow  # together; each runs programs


class Comparison:
    """A comparison of three arms, with a stand-in for the command line."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.out, self.calls = folder / "out", folder / "calls"
        monkeypatch.setattr(runs, "PROGRAM", PROGRAM)
        monkeypatch.setenv("CALLS", str(self.calls))
        monkeypatch.setenv("OUT", str(self.out))
        monkeypatch.setenv("SETTINGS", json.dumps(TrainConfig(data="flowers").model_dump()))
        monkeypatch.setattr(plots, "save_all", lambda results, folder: None)  # takes seconds
        self.environment = monkeypatch

    def arguments(self, *more: str, seeds: int = 2) -> list[str]:
        chosen = ["--seeds", *map(str, range(seeds)), "--out", str(self.out)]
        return ["--data", "flowers", "--methods", *ARMS, *chosen, *more]

    def run(self, *more: str, seeds: int = 2) -> int:
        self.calls.write_text("")
        return compare.main(self.arguments(*more, seeds=seeds))

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines()

    def report(self) -> dict:
        # The order and the types are those of a file that was written and read.
        return json.loads(json.dumps(compared(self.runs())))

    def runs(self) -> list[Run]:
        return write_up.read_raw(self.out / "comparison.jsonl")[1]

    def page(self) -> str:
        """The tables' text, without the spaces that align their columns."""
        return re.sub(" +", " ", (self.out / "comparison.md").read_text())


@pytest.fixture
def comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Comparison:
    return Comparison(tmp_path, monkeypatch)


def test_the_interval_of_three_values_by_hand() -> None:
    # Mean 2, deviation 1, t with two degrees of freedom 4.303: 2 ± 4.303 / √3.
    found = summary({0: 1.0, 1: 2.0, 2: 3.0})
    assert (found.n, found.mean, found.sd) == (3, 2.0, 1.0)
    assert (found.low, found.high) == pytest.approx((-0.4841, 4.4841), abs=1e-4)
    assert quantile(3) == pytest.approx(4.3027, abs=1e-4)


def test_one_value_has_no_spread_and_none_no_mean() -> None:
    found = summary({5: 0.25})
    assert (found.mean, found.sd, found.low, found.high) == (0.25, None, None, None)
    assert summary({}) is None


def test_equal_differences_have_no_interval_that_could_exclude_zero() -> None:
    found = summary({0: 0.3, 1: 0.1 + 0.2, 2: 0.3})
    assert found.mean == pytest.approx(0.3)
    assert found.sd == pytest.approx(0.0, abs=1e-12)
    assert (found.low, found.high) == (None, None)


def test_differences_are_taken_seed_by_seed() -> None:
    assert paired({0: 3.0, 1: 5.0, 2: 1.0}, {1: 6.0, 0: 1.0, 3: 9.0}) == {0: 2.0, 1: -1.0}


def test_each_arm_is_compared_with_its_control_and_with_plain_training() -> None:
    methods = ["ce", "supcon", "excon", "exconb", "edda", "random-occlusion"]
    assert pairs(methods)[:3] == [
        ("excon", "supcon"),
        ("exconb", "excon"),
        ("edda", "random-occlusion"),
    ]
    assert pairs(methods)[3:] == [(method, "ce") for method in methods[1:]]
    assert pairs(["supcon", "edda"]) == []


def test_a_comparison_writes_every_figure_of_every_seed(comparison: Comparison) -> None:
    assert comparison.run(seeds=3) == 0
    tables = comparison.report()["checkpoints"]["best"]
    top1 = tables["arms"]["excon"]["clean/top1"]
    assert top1["values"] == pytest.approx({"0": 0.54, "1": 0.552, "2": 0.564})
    assert (top1["mean"], top1["sd"]) == pytest.approx((0.552, 0.012))
    found = {(f["arm"], f["against"], f["figure"]): f for f in tables["paired"]}
    gain = found["excon", "ce", "clean/top1"]
    assert gain["differences"] == pytest.approx({"0": 0.04, "1": 0.042, "2": 0.044})
    assert (gain["n"], gain["higher_is_better"]) == (3, True)
    assert not found["excon", "supcon", "explanations/layer-grad-cam/drop"]["higher_is_better"]
    assert {(run.method, run.seed) for run in comparison.runs()} == {
        (arm, seed) for arm in ARMS for seed in range(3)
    }


def test_tables_are_made_again_from_the_raw_figures(comparison: Comparison, tmp_path: Path) -> None:
    comparison.run()
    raw = str(comparison.out / "comparison.jsonl")
    assert write_up.main([raw, "--out", str(tmp_path / "again")]) == 0
    again, page = (folder / "comparison.md" for folder in (tmp_path / "again", comparison.out))
    assert again.read_text() == page.read_text()
    assert write_up.main([str(comparison.calls), "--out", str(tmp_path / "none")]) == 2


def test_the_committed_tables_are_those_of_the_committed_figures(
    comparison: Comparison, tmp_path: Path
) -> None:
    raw = RESULTS / "laptop-cifar100.jsonl"
    assert write_up.main([str(raw), "--out", str(tmp_path)]) == 0
    written = (tmp_path / "comparison.md").read_text()
    assert written == (RESULTS / "laptop-cifar100.md").read_text()


def test_the_arms_are_drawn_with_their_seeds(comparison: Comparison) -> None:
    drawn = {}
    comparison.environment.setattr(plots, "save_all", lambda arms, out: drawn.update(arms))
    comparison.run()
    assert {arm: len(runs) for arm, runs in drawn.items()} == dict.fromkeys(ARMS, 2)
    assert drawn["excon"][1]["clean"]["top1"] == pytest.approx(0.552)


def test_the_page_has_spreads_and_marks_gains_and_losses(comparison: Comparison) -> None:
    comparison.run(seeds=3)
    page = comparison.page()
    assert "| excon | 55.2 ± 1.2 | 90.0 ± 0.0 |" in page
    # 2.1 ± 4.303 · 0.1 / √3
    assert "| Accuracy and calibration: top-1 | +2.1 [+1.9, +2.3] ▲ |" in page
    assert "| Accuracy and calibration: top-5 | +0.0 |" in page  # equal: no interval, no mark
    # A smaller Drop is better, and figures that no image gave have neither mean nor difference.
    assert "| Explanations: Drop, layer-grad-cam | -2.1 [-2.3, -1.9] ▲ |" in page
    assert "| Explanations: Drop, random | – |" in page
    assert "3 seeds are few: the interval is 4.3 standard errors wide" in page


def test_a_figure_that_one_seed_lacks_is_paired_over_the_others(comparison: Comparison) -> None:
    comparison.run(seeds=2)
    path = comparison.out / "supcon-1" / "evaluation" / "evaluation.json"
    evaluation = json.loads(path.read_text())
    evaluation["checkpoints"]["best"]["explanations"]["layer-grad-cam"]["drop"] = None
    path.write_text(json.dumps(evaluation))
    comparison.run(seeds=2)
    found = {
        (f["arm"], f["against"], f["figure"]): f
        for f in comparison.report()["checkpoints"]["best"]["paired"]
    }
    assert found["excon", "supcon", "explanations/layer-grad-cam/drop"]["n"] == 1


def test_the_same_command_repeats_nothing_that_is_finished(comparison: Comparison) -> None:
    assert comparison.run() == 0
    assert len(comparison.called()) == 12  # three arms, two seeds, training and evaluation
    page = comparison.page()
    assert comparison.run() == 0
    assert comparison.called() == []
    assert comparison.page() == page
    comparison.run(seeds=3)
    assert sorted(comparison.called()) == sorted(
        f"{step} {arm}-2{'/evaluation' * (step == 'evaluate')}"
        for step in ("train", "evaluate")
        for arm in ARMS
    )


def test_another_limit_or_another_checkpoint_is_evaluated_anew(comparison: Comparison) -> None:
    comparison.run()
    comparison.run("--limit", "50")
    assert comparison.called() == [
        f"evaluate {arm}-{seed}/evaluation" for seed in (0, 1) for arm in ARMS
    ]
    (comparison.out / "ce-1" / "best.ckpt").write_text("trained again")
    comparison.run("--limit", "50")
    assert comparison.called() == ["evaluate ce-1/evaluation"]


def test_the_last_epochs_get_tables_of_their_own(comparison: Comparison) -> None:
    assert comparison.run("--with-last") == 0
    assert list(comparison.report()["checkpoints"]) == ["best", "last"]
    assert "## The last checkpoint of each run" in comparison.page()


def test_a_failed_run_is_named_and_holds_up_no_other(
    comparison: Comparison, capfd: pytest.CaptureFixture[str]
) -> None:
    comparison.environment.setenv("FAIL", "supcon-0")
    assert comparison.run("--jobs", "2") == 2
    assert (
        "supcon-0: train failed (captum-excon: error: the disk is full)" in capfd.readouterr().err
    )
    assert "**Missing:** supcon-0" in comparison.page()
    assert len(comparison.runs()) == 5
    comparison.environment.delenv("FAIL")
    assert comparison.run() == 0
    assert comparison.called() == ["train supcon-0", "evaluate supcon-0/evaluation"]
    assert "Missing" not in comparison.page()


def test_no_finished_run_is_an_error(
    comparison: Comparison, capfd: pytest.CaptureFixture[str]
) -> None:
    comparison.environment.setattr(runs, "PROGRAM", [sys.executable, "-c", "raise SystemExit(3)"])
    assert comparison.run() == 2
    assert "no run is finished" in capfd.readouterr().err


def test_a_folder_with_runs_of_other_settings_is_refused(
    comparison: Comparison, capfd: pytest.CaptureFixture[str]
) -> None:
    comparison.run()
    assert comparison.run("--set", "epochs=7") == 2
    assert "holds a run with other settings (epochs)" in capfd.readouterr().err
    assert comparison.called() == []


def test_a_folder_in_use_is_refused(
    comparison: Comparison, capfd: pytest.CaptureFixture[str]
) -> None:
    comparison.out.mkdir()
    with (comparison.out / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert comparison.run() == 2
    assert "is in use by another comparison" in capfd.readouterr().err
    assert comparison.run() == 0


def start(comparison: Comparison) -> subprocess.Popen[bytes]:
    """The comparison in a process of its own, once a run in it has begun to sleep."""
    code = (
        "import sys; from benchmarks.training import compare, runs; "
        f"runs.PROGRAM = {PROGRAM!r}; sys.exit(compare.main({comparison.arguments()!r}))"
    )
    comparison.calls.write_text("")
    root = Path(__file__).parents[3]
    environment = {**os.environ, "SLEEP": "supcon-0"}
    child = subprocess.Popen([sys.executable, "-c", code], cwd=root, env=environment)
    deadline = time.monotonic() + 60
    while "train supcon-0" not in comparison.called():
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.05)
    return child


def test_ctrl_c_ends_the_runs_and_the_same_command_goes_on(comparison: Comparison) -> None:
    child = start(comparison)
    child.send_signal(signal.SIGINT)
    assert child.wait(30) == 130
    assert comparison.run() == 0  # the lock is free: no run was left behind
    assert "train ce-0" not in comparison.called()
    assert "train supcon-0" in comparison.called()


def test_runs_that_a_killed_comparison_has_left_keep_the_folder(
    comparison: Comparison, capfd: pytest.CaptureFixture[str]
) -> None:
    child = start(comparison)
    orphans = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    if not orphans.exists():
        child.kill()
        pytest.skip("the children of a process cannot be listed here")
    found = _descendants(child.pid)
    child.kill()
    child.wait()
    try:
        assert comparison.run() == 2
        assert "a run that a killed one has left" in " ".join(capfd.readouterr().err.split())
    finally:
        for pid in found:
            os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    assert comparison.run() == 0


def _descendants(pid: int) -> list[int]:
    listed = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for children in listed for child in children]
