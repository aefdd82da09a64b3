"""What the README and the pages in docs/ show runs as it stands there, on small images."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)

Names = dict[str, Any]


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def run_blocks(page: Path, names: Names, smaller: dict[str, str]) -> None:
    """Runs all Python blocks of a page in one namespace; errors name the page's lines."""
    text = text_of(page)
    for block in BLOCK.finditer(text):
        code = "\n" * text.count("\n", 0, block.start(1)) + block[1]
        for large, small in smaller.items():
            code = code.replace(large, small)
        exec(compile(code, str(page), "exec"), names)


def training_names(folder: Path) -> Names:
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 2)):
        for label in ("daisy", "tulip"):
            (folder / "flowers" / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "flowers" / split / label / f"{i}.png")
    return {"loader": [(torch.randn(8, 3, 32, 32), torch.arange(8) % 4)]}


def check_readme(names: Names) -> None:
    assert Path("espresso.png").stat().st_size > 1000


def check_training(names: Names) -> None:
    assert torch.isfinite(names["contrast"])
    assert names["image"].shape == (3, 32, 32)
    hidden = (names["masked"] == 0).all(1).flatten(1).sum(1)
    assert (hidden == 32 * 32 - round(0.15 * 32 * 32)).all()
    assert names["maps"].shape[:2] == (1, 1)


# What a page expects to be there, what is made smaller, and what must come of it.
BEFORE: dict[str, Callable[[Path], Names]] = {"training.md": training_names}
SMALLER = {"README.md": {"resnet50": "resnet18", "224": "64"}}
AFTER: dict[str, Callable[[Names], None]] = {
    "README.md": check_readme,
    "training.md": check_training,
}


@pytest.mark.filterwarnings("ignore:.*maps are all zero")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*number of training batches")
@pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`")
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")  # Lightning's
@pytest.mark.parametrize(
    "page", [page for page in PAGES if BLOCK.search(text_of(page))], ids=lambda page: page.name
)
def test_the_python_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = BEFORE[page.name](tmp_path) if page.name in BEFORE else {}
    run_blocks(page, names, SMALLER.get(page.name, {}))
    if page.name in AFTER:
        AFTER[page.name](names)


def test_the_pages_with_code_are_those_that_are_prepared() -> None:
    shown = {page.name: len(BLOCK.findall(text_of(page))) for page in PAGES}
    assert shown["README.md"] > 0
    assert shown["training.md"] > 0
    assert {*BEFORE, *SMALLER, *AFTER} <= shown.keys()


def test_the_training_loop_of_the_page_is_short() -> None:
    first = BLOCK.findall(text_of(ROOT / "docs" / "training.md"))[0]
    assert len(first.split("make_views =")[1].strip().splitlines()) <= 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = text_of(page)
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
