"""The documentation as it is built: every public name, no asset from elsewhere, current tables."""

import importlib.util
import re
import subprocess
import sys
import zlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / "_build" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    for name in ("mkdocs", "mkdocstrings", "latex2mathml"):
        pytest.importorskip(name, reason="needs the docs extra")
    return load("hooks")


@pytest.fixture(scope="module")
def site(hooks: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


def inventory(site: Path) -> set[str]:
    """The names that have an anchor on some page, as Sphinx and mkdocstrings exchange them."""
    lines = (site / "objects.inv").read_bytes().split(b"\n", 4)
    return {line.split()[0] for line in zlib.decompress(lines[4]).decode().splitlines() if line}


@pytest.mark.slow
def test_every_public_name_has_an_entry_in_the_reference(hooks: ModuleType, site: Path) -> None:
    known = inventory(site)
    assert len(known) > 150
    missing = [
        f"{module}.{name}"
        for module in hooks.MODULES
        for name in hooks.public_names(module)
        if f"{module}.{name}" not in known and hooks.documented()[name] not in known
    ]
    assert missing == []


def test_the_reference_covers_every_public_package(hooks: ModuleType) -> None:
    packages = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "captum_excon").rglob("__init__.py")
        if "__all__" in path.read_text(encoding="utf-8")
    }
    assert packages - {"captum_excon.training.methods"} <= set(hooks.MODULES)  # found by file
    assert len(packages) > 10
    assert "UserError" in hooks.public_names("captum_excon.errors")


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    loads = re.compile(r"""<(?:script|img|iframe|source)[^>]*\ssrc=["']?(https?:[^"'\s>]+)""")
    links = re.compile(r"""<link[^>]*rel=["']?(?:stylesheet|preconnect|icon)[^>]*https?:[^>]*>""")
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert loads.findall(text) == links.findall(text) == [], page


@pytest.mark.slow
def test_formulas_and_references_of_docstrings_are_rendered(site: Path) -> None:
    sise = (site / "api/attr/index.html").read_text(encoding="utf-8")
    assert sise.count("<math ") > 20
    assert 'href="../layers/#captum_excon.layers.select_layers"' in sise
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r":math:|\.\. math::|arithmatex|:func:|:class:", text), page


@pytest.mark.slow
def test_llms_txt_lists_the_pages_and_their_markdown_is_there(site: Path) -> None:
    text = (site / "llms.txt").read_text(encoding="utf-8")
    assert text.startswith("# captum-excon\n\n> ")
    targets = re.findall(r"^- \[[^]]+\]\(([^)]+)\)", text, re.MULTILINE)
    assert len(targets) > 30
    assert [target for target in targets if not (site / target).is_file()] == []


def test_broken_metrics_and_papers_are_those_of_the_repository() -> None:
    tables = load("tables")
    for page, part in zip(tables.PAGES, ("`quantus.ROAD`", "@article{"), strict=True):
        text = page.read_text(encoding="utf-8")
        assert part in text
        assert tables.filled_in(text) == text, "run python docs/_build/tables.py"


def test_the_decision_table_quotes_the_results() -> None:
    def cells(text: str) -> list[list[str]]:
        lines = [line for line in text.splitlines() if line.startswith("|")]
        return [[cell.strip("* ") for cell in line.strip("|").split("|")] for line in lines]

    table = {row[0]: row[1:] for row in cells((DOCS / "which-method.md").read_text("utf-8"))}
    results = (DOCS / "results.md").read_text(encoding="utf-8")
    mosaics, fused = results.split("## The fused methods")
    quoted = 0
    for method, ebpg, bbox, *_, rows, seconds in cells(mosaics.split("## Localization")[1])[2:]:
        if method in table:
            quoted += 1
            assert table[method][:4] == [ebpg, bbox, rows, seconds], method
    assert quoted == 9
    for _, method, ebpg, bbox, *_, rows in cells(fused)[2:7]:
        if method in table and method.startswith("`Fused"):
            quoted += 1
            assert table[method][:3] == [ebpg, bbox, rows], method
    assert quoted == 11
