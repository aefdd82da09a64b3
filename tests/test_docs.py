"""What the pages in docs/ show runs as it stands there, on a few small images."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def folder_of_images(root: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 2)):
        for label in ("daisy", "tulip"):
            (root / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{i}.png")


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*number of training batches")
@pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`")
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")  # Lightning's
def test_the_training_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder_of_images(tmp_path / "flowers")
    code = blocks("training.md")
    assert len(code) == 4
    images = torch.randn(8, 3, 32, 32)
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    names = {"loader": [(images, labels)]}
    loop = code[0].split("make_views =")[1].strip().splitlines()
    assert len(loop) <= 30
    for block in code:
        exec(compile(block, "training.md", "exec"), names)
    assert torch.isfinite(names["contrast"])
    assert names["image"].shape == (3, 32, 32)
    hidden = (names["masked"] == 0).all(1).flatten(1).sum(1)
    assert (hidden == 32 * 32 - round(0.15 * 32 * 32)).all()
    assert names["maps"].shape[:2] == (1, 1)


def test_links_between_pages_lead_somewhere() -> None:
    for page in DOCS.glob("*.md"):
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
