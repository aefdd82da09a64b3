"""What is written beside figures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from captum_excon import _provenance
from captum_excon._provenance import provenance, versions, weights_hash

ROOT = Path(__file__).parents[1]


def test_provenance_is_plain_json_with_all_that_a_figure_depends_on() -> None:
    found = json.loads(json.dumps(provenance(torch.device("cpu"), "pytest")))
    assert set(found) == {"command", "versions", "hardware"}
    assert {"python", "torch", "captum", "captum-excon", "pytest"} <= set(found["versions"])
    assert found["hardware"]["threads"] == torch.get_num_threads()
    assert found["hardware"]["device"]


def test_a_package_that_is_not_installed_has_no_version() -> None:
    assert set(versions(["torch", "no-such-package"])) == {"python", "torch"}


def test_the_command_of_a_module_can_be_typed_again(tmp_path: Path) -> None:
    (tmp_path / "measure.py").write_text(
        "from captum_excon._provenance import command_line\nprint(command_line())"
    )
    command = [sys.executable, "-m", "measure", "--out", "two words"]
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "python -m measure --out 'two words'\n"


def test_the_command_of_a_program_leaves_out_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/captum-excon", "train", "--seed=1"])
    assert _provenance.command_line() == "captum-excon train --seed=1"


def test_the_hash_of_weights_is_the_one_that_earlier_runs_were_planned_with() -> None:
    model = nn.BatchNorm2d(2)
    assert weights_hash(model)[:16] == "86c5620420eac6a4"
