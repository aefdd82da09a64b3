"""What the README and the pages in docs/ show runs as it stands there, on small images."""

import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import SwinTransformer

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)

Names = dict[str, Any]


def name_of(page: Path) -> str:
    return page.relative_to(DOCS if page.is_relative_to(DOCS) else ROOT).as_posix()


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


class SmallResNet(nn.Sequential):
    """Has the names of torchvision's ResNets, and an eighth of their channels."""

    def __init__(self, weights: None = None, num_classes: int = 1000) -> None:
        layers: dict[str, nn.Module] = {"conv1": nn.Conv2d(3, 8, 3, 2, 1), "relu": nn.ReLU()}
        for i in range(1, 5):
            inputs, stride = (8, 1) if i == 1 else (4 << (i - 1), 2)
            layers[f"layer{i}"] = nn.Sequential(
                nn.Conv2d(inputs, 4 << i, 3, stride, 1), nn.BatchNorm2d(4 << i), nn.ReLU()
            )
        layers |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        super().__init__(OrderedDict(layers, fc=nn.Linear(64, num_classes)))


def small_swin(weights: None) -> nn.Module:
    return SwinTransformer([4, 4], 8, [1, 1, 1, 1], [1, 2, 4, 8], [2, 2])


SMALL = {"resnet18": SmallResNet, "resnet50": SmallResNet, "swin_t": small_swin}


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
    assert names["maps"].shape[:2] == (1, 1)


def check_augmentation(names: Names) -> None:
    assert names["image"].shape == (3, 32, 32)
    changed = (names["masked"] != names["images"]).any(1).flatten(1).sum(1)
    assert (changed <= 32 * 32 - round(0.15 * 32 * 32)).all()
    assert (changed > 0).all()


# What a page expects to be there, what is made smaller, and what must come of it.
BEFORE: dict[str, Callable[[Path], Names]] = {"training.md": training_names}
RESNET18 = {"from torchvision.models import resnet18\n": "\n"}
RESNET50 = {"from torchvision.models import resnet50\n": "\n"}
DEMO = {'load_model("demo")': 'load_model("demo", size=96)'}
SMALLER = {
    "README.md": {**DEMO, **RESNET50, "224": "64"},
    "howto/detection.md": {
        "240, 320": "48, 64",
        "num_classes=5": "num_classes=5, min_size=64, max_size=96",
        "n_masks=1000": "n_masks=8",
    },
    "howto/embeddings.md": {**RESNET18, "512": "64"},
    "howto/memory-and-speed.md": RESNET18,
    "howto/other-libraries.md": RESNET18,
    "howto/segmentation.md": {"96, 128": "48, 64"},
    "howto/vision-transformers.md": {"from torchvision.models import swin_t\n": "\n"},
    "index.md": DEMO,
    "metrics.md": RESNET18,
    "troubleshooting.md": RESNET18,
    "which-method.md": {**RESNET50, "224": "64"},
}
AFTER: dict[str, Callable[[Names], None]] = {
    "README.md": check_readme,
    "augmentation.md": check_augmentation,
    "training.md": check_training,
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*maps are all zero")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*number of training batches")
@pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`")
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")  # Lightning's
@pytest.mark.parametrize(
    "page", [page for page in PAGES if BLOCK.search(text_of(page))], ids=name_of
)
def test_the_python_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = name_of(page)
    names = {**SMALL, **(BEFORE[name](tmp_path) if name in BEFORE else {})}
    run_blocks(page, names, SMALLER.get(name, {}))
    if name in AFTER:
        AFTER[name](names)


def test_the_pages_with_code_are_those_that_are_prepared() -> None:
    shown = {name_of(page): len(BLOCK.findall(text_of(page))) for page in PAGES}
    assert shown["README.md"] > 0
    assert shown["training.md"] > 0
    assert {*BEFORE, *SMALLER, *AFTER} <= shown.keys()
    for page in PAGES:
        for large in SMALLER.get(name_of(page), {}):
            assert large in text_of(page), f"{name_of(page)} no longer has {large!r}"


def test_the_training_loop_of_the_page_is_short() -> None:
    first = BLOCK.findall(text_of(ROOT / "docs" / "training.md"))[0]
    assert len(first.split("make_views =")[1].strip().splitlines()) <= 30


def test_the_commands_of_the_pages_exist_with_their_options() -> None:
    typer = pytest.importorskip("typer", reason="needs the cli extra")
    from benchmarks.explanations.cli import app as benchmark
    from captum_excon.cli.app import app

    groups = {
        "captum-excon": typer.main.get_command(app).commands,
        "-m benchmarks.explanations": typer.main.get_command(benchmark).commands,
    }
    found = 0
    for page in PAGES:
        text = text_of(page).replace("\\\n", " ")
        for line in re.findall(r"^    .*", text, re.MULTILINE):
            call = rf" ({'|'.join(groups)}) ([a-z][\w-]*)([^|&'`]*)"
            for program, command, rest in re.findall(call, line):
                known = {
                    option
                    for parameter in groups[program][command].params
                    for option in (*parameter.opts, *parameter.secondary_opts)
                }
                used = {word.split("=")[0] for word in re.findall(r"(?<= )--?[a-z]\S*", rest)}
                assert used <= known, f"{name_of(page)}: {line.strip()}"
                found += 1
    assert found > 25


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = text_of(page)
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        generated = target.parent == DOCS / "api" and page.parent in (DOCS, *DOCS.glob("*/"))
        assert generated or target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
