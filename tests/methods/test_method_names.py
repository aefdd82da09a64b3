"""Attribution methods by name."""

import pytest

from captum_excon.errors import UserError
from captum_excon.methods.registry import ALIASES, find_method, method_names


@pytest.mark.parametrize(
    ("alias", "title"),
    [("sise", "MultiLayerSISE"), ("ada-sise", "AdaptiveHybridCAM"), ("grad-cam", "LayerGradCam")],
)
def test_the_papers_names_are_aliases(alias: str, title: str) -> None:
    method = find_method(alias)
    assert method.title == title
    assert method == find_method(method.name)
    assert method.name == ALIASES[alias]


def test_every_listed_name_is_found() -> None:
    for name in method_names():
        assert find_method(name).name == name


@pytest.mark.parametrize(
    ("name", "hint"),
    [("sisee", "did you mean 'sise'"), ("captum:salency", "did you mean 'captum:saliency'")],
)
def test_a_misspelt_name_gets_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        find_method(name)
