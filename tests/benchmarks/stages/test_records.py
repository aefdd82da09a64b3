import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.explanations.stages.records import RecordWriter, key, read_records


def record(item: int, **more: object) -> dict[str, object]:
    return {
        "stage": "score",
        "item": item,
        "explainer": "a",
        "metric": "m",
        "seed": 0,
        "config": "c",
        **more,
    }


def test_records_come_back_in_the_order_of_their_keys(tmp_path):
    with RecordWriter(tmp_path / "1of2.jsonl") as writer:
        writer.append([record(3, value=0.5), record(1, value=0.25)])
    with RecordWriter(tmp_path / "0of2.jsonl") as writer:
        writer.append([record(2, value=1.0)])
    assert [(r["item"], r["value"]) for r in read_records(tmp_path)] == [
        (1, 0.25),
        (2, 1.0),
        (3, 0.5),
    ]


def test_items_are_ordered_as_numbers_and_the_first_of_a_key_counts(tmp_path):
    with RecordWriter(tmp_path / "a.jsonl") as writer:
        writer.append([record(10), record(9), record(9, value=7.0)])
    assert [r["item"] for r in read_records(tmp_path)] == [9, 10]
    assert "value" not in read_records(tmp_path)[0]


def test_fields_of_several_types_have_an_order_too(tmp_path):
    with RecordWriter(tmp_path / "a.jsonl") as writer:
        writer.append([record("b"), record(0), record(0, seed=None), record("a")])
    assert [r["item"] for r in read_records(tmp_path)] == [0, 0, "a", "b"]


def test_nan_is_written_as_null_and_read_as_nan(tmp_path):
    path = tmp_path / "a.jsonl"
    with RecordWriter(path) as writer:
        writer.append([record(0, value=math.nan, curve=[1.0, math.inf])])
    assert json.loads(path.read_text())["value"] is None
    assert math.isnan(read_records(tmp_path)[0]["value"])


def test_a_torn_last_line_is_passed_over_and_cut_before_the_next_append(tmp_path):
    path = tmp_path / "a.jsonl"
    with RecordWriter(path) as writer:
        writer.append([record(0)])
    with path.open("a") as file:
        file.write('{"item": 1, "sta')
    assert len(read_records(tmp_path)) == 1
    with RecordWriter(path) as writer:
        writer.append([record(1)])
    assert [r["item"] for r in read_records(tmp_path)] == [0, 1]


def test_a_foreign_line_is_an_error_that_names_it(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(record(0)) + "\nhello\n" + '{"item": 2}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2, is not a record"):
        read_records(tmp_path)


def test_the_key_holds_what_tells_records_apart():
    assert key(record(1)) != key(record(2))
    assert key(record(1, value=1)) == key(record(1, value=2))


def test_a_killed_writer_loses_nothing_that_it_had_appended(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from benchmarks.explanations.stages.records import RecordWriter\n"
        "with RecordWriter(Path(sys.argv[1])) as writer:\n"
        "    for item in range(10**9):\n"
        "        writer.append([{'item': item}]); print(item, flush=True)\n"
    )
    path = tmp_path / "a.jsonl"
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    for _ in range(20):
        child.stdout.readline()
    time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    told = 19 + len(child.stdout.read().splitlines())
    child.wait()
    child.stdout.close()
    assert {r["item"] for r in read_records(tmp_path)} >= set(range(told + 1))
