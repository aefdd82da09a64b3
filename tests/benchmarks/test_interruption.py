"""Runs that are killed again and again, and what they leave."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from helpers.tiny_runs import (
    MEASURED,
    finished,
    lines,
    maps,
    planned,
    records,
    stages,
    stages_in_chunks,
    tiny_config,
)

from benchmarks.explanations.report import write_report
from benchmarks.explanations.stages import common as stage
from benchmarks.explanations.stages.records import key, read_records

pytestmark = pytest.mark.slow

# Imports torch once, for all processes that are killed. The fork server looks for modules in the
# current folder and not in this process's `sys.path`.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["benchmarks.explanations.stages.explain", "benchmarks.explanations.stages.score"]
)


def start(folder, chunk_seconds=0.0):
    child = CONTEXT.Process(target=stages_in_chunks, args=(folder, chunk_seconds))
    child.start()
    return child


def wait(child, folder, name, count):
    """Until a stage has so many lines or files, or the child has ended."""
    while child.is_alive() and progress(folder, name) < count:
        time.sleep(0.002)


def progress(folder, name):
    if name == "maps":
        return len(list((folder / "maps").glob(".configs/*/*.npy")))
    return sum(path.read_text().count("\n") for path in (folder / "records").glob(f"{name}.*"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("whole"))


@pytest.mark.slow
def test_a_run_that_is_killed_at_many_moments_loses_and_repeats_nothing(whole, tmp_path):
    planned(tmp_path)
    kept: list[str] = []
    moments = [("maps", 1), ("maps", 5), ("explain", 8), ("score", 1), ("score", 12), ("score", 20)]
    killed = 0
    for name, count in moments:
        child = start(tmp_path)
        wait(child, tmp_path, name, count)
        child.kill()
        child.join()
        killed += child.exitcode == -signal.SIGKILL
        whole_lines = [line for line in lines(tmp_path) if line.endswith("}")]
        assert set(kept) <= set(whole_lines)
        kept = whole_lines
    assert killed == len(moments)
    child = start(tmp_path)
    child.join()
    assert child.exitcode == 0
    assert set(kept) <= set(lines(tmp_path))
    assert len(lines(tmp_path)) == len({key(json.loads(line)) for line in lines(tmp_path)})
    assert records(tmp_path) == records(whole)
    assert maps(tmp_path) == maps(whole)
    assert reports(tmp_path) == reports(whole)


@pytest.mark.slow
def test_records_that_were_not_yet_written_are_made_again(whole, tmp_path):
    planned(tmp_path)
    child = start(tmp_path, chunk_seconds=3600)
    wait(child, tmp_path, "maps", 4)
    child.kill()
    child.join()
    assert lines(tmp_path) == []
    stages(tmp_path)
    assert records(tmp_path) == records(whole)


@pytest.mark.slow
def test_ctrl_c_writes_what_is_finished(tmp_path):
    planned(tmp_path, tiny_config(count=40))
    child = start(tmp_path, chunk_seconds=3600)
    wait(child, tmp_path, "maps", 4)
    os.kill(child.pid, signal.SIGINT)
    child.join()
    assert child.exitcode != 0
    assert len(lines(tmp_path)) >= 4 - 1


def reports(folder):
    """The files of a report on records that the clock had no part in."""
    copy = Path(f"{folder}-timeless") / "run"
    (copy / "records").mkdir(parents=True)
    for name in ("plan.json", "config.yaml"):
        (copy / name).write_bytes((folder / name).read_bytes())
    timeless = [{**r, **dict.fromkeys(MEASURED, 1.0)} for r in read_records(folder / "records")]
    with stage.RecordWriter(copy / "records" / "all.0of1.jsonl") as writer:
        writer.append(timeless)
    report = write_report(copy).parent
    return {path.name: path.read_bytes() for path in report.iterdir()}
