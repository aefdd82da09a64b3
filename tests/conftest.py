import pytest
import torch

# Small networks gain nothing from threads, and parallel test runs lose by them.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
