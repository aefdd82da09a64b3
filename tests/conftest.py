import signal

import pytest
import torch
from helpers.workplace import workplace  # noqa: F401 (a fixture of several folders)

# Small networks gain nothing from threads, and parallel test runs lose by them.
torch.set_num_threads(1)

# A shell's background jobs, and their children, ignore Ctrl-C, which some tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
