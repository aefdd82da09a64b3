from pathlib import Path

import pytest
from helpers.training_toys import QUIET


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            for mark in QUIET:
                item.add_marker(mark)
