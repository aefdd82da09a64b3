"""The processes that torchrun started, each of which does its shard."""

from __future__ import annotations

import os
from datetime import timedelta

import torch

_PATIENCE = timedelta(days=30)  # a shard may take that much longer than another


class ProcessGroup:
    """This process and those that torchrun started beside it; alone without torchrun.

    Every process ends with the same status and none before the others: torchrun ends all of them
    as soon as one has failed.

    Attributes:
        rank: Of this process.
        size: How many there are.
    """

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.size = int(os.environ.get("WORLD_SIZE", 1))
        if "LOCAL_RANK" in os.environ and torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        if self.size > 1 and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo", timeout=_PATIENCE)

    def total(self, count: int) -> int:
        """Waits for the others and returns the sum of what all say."""
        if self.size == 1:
            return count
        sums = torch.tensor(count)
        torch.distributed.all_reduce(sums)
        return int(sums)
