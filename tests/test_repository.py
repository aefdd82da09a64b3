"""The files for people who join say what is true of the tree that they come with."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml", reason="needs the cli extra")

ROOT = Path(__file__).parents[1]
PAPERS = {"2010.00672", "2102.07799", "2102.07805", "2111.14271", "2105.14162"}
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_every_file_that_contributing_names_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w./-]+(?:/|\.(?:py|md|cff|toml|yaml|yml)|/run))`", text))
    assert len(named) > 20
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_citation_holds_the_package_and_the_five_papers() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    references = citation["references"]
    assert {
        reference["url"].removeprefix("https://arxiv.org/abs/") for reference in references
    } == PAPERS
    for reference in references:
        assert {"type", "title", "authors", "year"} <= reference.keys()
        assert all(
            set(author) == {"given-names", "family-names"} for author in reference["authors"]
        )


def test_the_workflows_are_three_and_well_formed() -> None:
    assert [path.stem for path in WORKFLOWS] == ["docs", "release", "tests"]
    for path in WORKFLOWS:
        workflow = read(path)
        assert workflow[True], path  # YAML 1.1 reads the key "on" as true
        for job in workflow["jobs"].values():
            assert job["runs-on"]
            assert all(("uses" in step) != ("run" in step) for step in job["steps"])


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib comes with Python 3.11")
def test_classifiers_and_workflow_name_the_same_versions_of_python() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    classified = [
        found[1]
        for classifier in project["classifiers"]
        if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", classifier))
    ]
    jobs = read(ROOT / ".github" / "workflows" / "tests.yml")["jobs"]
    assert jobs["tests"]["strategy"]["matrix"]["python-version"] == classified
    assert project["requires-python"] == f">={classified[0]}"
    assert all(url.startswith("https://") for url in project["urls"].values())


def test_no_two_test_modules_share_a_name() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)


def test_the_other_yaml_files_parse() -> None:
    hooks = {
        hook["id"]
        for repo in read(ROOT / ".pre-commit-config.yaml")["repos"]
        for hook in repo["hooks"]
    }
    assert {"trailing-whitespace", "check-added-large-files", "codespell", "mypy"} <= hooks
    for path in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")):
        form = read(path)
        assert path.stem == "config" or {"name", "description", "body"} <= form.keys()
