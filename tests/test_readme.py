"""What the README shows runs as it stands there, on a smaller network and smaller images."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.filterwarnings("ignore:.*maps are all zero")
def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    code = "\n".join(blocks).replace("resnet50", "resnet18").replace("224", "64")
    exec(compile(code, str(README), "exec"), {})
    assert Path("maps.png").stat().st_size > 1000


def test_the_readmes_picture_and_links_exist() -> None:
    text = README.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    assert links
    for link in links:
        assert (README.parent / link).exists(), link
