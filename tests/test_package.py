import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import captum_excon
import captum_excon.attr


def test_every_public_name_is_there() -> None:
    aliases = {"SISE": "MultiLayerSISE", "AdaSISE": "AdaptiveHybridCAM"}
    for name in set(captum_excon.__all__) - {"__version__"}:
        assert getattr(captum_excon, name).__name__ == aliases.get(name, name)
    assert set(dir(captum_excon)) == set(captum_excon.__all__)
    with pytest.raises(AttributeError, match="no attribute 'GradCAM'"):
        captum_excon.GradCAM  # noqa: B018


def test_the_papers_names_are_aliases_and_not_methods_of_their_own() -> None:
    methods = list(captum_excon.attr.attribution_methods().values())
    assert methods.count(captum_excon.SISE) == methods.count(captum_excon.AdaSISE) == 1
    assert captum_excon.attr.SISE is captum_excon.MultiLayerSISE
    assert captum_excon.attr.AdaSISE is captum_excon.AdaptiveHybridCAM


def test_the_version_is_the_installed_one() -> None:
    assert captum_excon.__version__ == importlib.metadata.version("captum-excon")


def test_the_extra_all_holds_everything_for_users_and_nothing_for_developers() -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]

    def packages(extra: str) -> set[str]:
        found: set[str] = set()
        for requirement in extras[extra]:
            nested = re.fullmatch(r"captum-excon\[(.*)\]", requirement)
            names = nested[1].split(",") if nested else []
            found |= set().union(*map(packages, names))
            if not nested:
                found.add(re.split(r"[<>=]", requirement)[0])
        return found

    users = packages("all")
    assert {"typer", "safetensors", "timm", "grad-cam", "lightning", "quantus"} <= users
    assert not {"pytest", "mypy", "ruff", "hypothesis", "pre-commit"} & users


def test_importing_the_package_loads_neither_torch_nor_an_extra() -> None:
    heavy = {"torch", "captum", "timm", "skimage", "pytorch_grad_cam", "typer", "safetensors"}
    code = f"import sys, captum_excon; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_methods_load_no_extra() -> None:
    heavy = {"timm", "skimage", "pytorch_grad_cam", "typer", "safetensors"}
    modules = "captum_excon.attr, captum_excon.targets, captum_excon.visualization"
    code = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
