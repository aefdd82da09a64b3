"""Two processes with gloo must train as one process that holds both batches."""

from __future__ import annotations

import time
from datetime import timedelta
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from captum_excon.losses import ExConLoss

MODES = ("exclude", "negatives", "class")
CASES = {
    # For each process, the labels of its images and which of them are backgrounds.
    "uneven backgrounds": [([0, 1, 2, 0, 5], [0, 0, 0, 0, 1]), ([1, 1, 0, 2], [0, 0, 0, 0])],
    "several more": [([0, 1, 0, 0], [0, 0, 1, 1]), ([1, 1, 0, 2, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1])],
    "uneven images": [([0, 1, 2, 0], [0, 0, 0, 0]), ([1], [0])],
    "one process without a real image": [([0, 1, 0], [0, 0, 0]), ([1, 1], [1, 1])],
    "one process without any image": [([0, 1, 0], [0, 0, 1]), ([], [])],
    "no positive pair at all": [([0], [1]), ([1, 2], [1, 1])],
}


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(self.layers(x), dim=-1)


def batches(case: str) -> list[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(len(labels), 2, 6, generator=generator, dtype=torch.float64),
            torch.tensor(labels, dtype=torch.long),
            torch.tensor(background, dtype=torch.bool),
        )
        for labels, background in CASES[case]
    ]


def gradients(encoder: nn.Module, loss: ExConLoss, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
    x, labels, background = batch
    encoder.zero_grad()
    value = loss(encoder(x), labels, background)
    value.backward()
    inner = encoder.module if isinstance(encoder, nn.parallel.DistributedDataParallel) else encoder
    found = {name: p.grad.clone() for name, p in inner.named_parameters() if p.grad is not None}
    return {"loss": value.detach(), **found}


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    try:
        encoder = nn.parallel.DistributedDataParallel(Encoder())
        results = {}
        for case, mode in product(CASES, MODES):
            loss = ExConLoss(0.2, mode, base_temperature=0.07, gather_distributed=True)
            results[case, mode] = gradients(encoder, loss, batches(case)[rank])
        # Gathering takes no gradients where none are asked for.
        with torch.no_grad():
            x, labels, background = batches("uneven backgrounds")[rank]
            loss = ExConLoss(gather_distributed=True)(encoder(x), labels, background)
            assert not loss.requires_grad
        torch.save(results, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = Path(tmp_path_factory.mktemp("gloo"))
    context = mp.start_processes(work, (str(folder),), nprocs=2, join=False, start_method="spawn")
    try:
        # Each join returns when one process ends, and raises the error of one that failed.
        deadline = time.monotonic() + 90
        while not context.join(timeout=5):
            assert time.monotonic() < deadline, "the processes wait for each other"
    finally:
        for process in context.processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_two_processes_have_the_gradients_of_one(two_processes, case, mode):
    parts = batches(case)
    whole = tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))
    expected = gradients(Encoder(), ExConLoss(0.2, mode, base_temperature=0.07), whole)
    found = [process[case, mode] for process in two_processes]
    mean = (found[0].pop("loss") + found[1].pop("loss")) / 2
    torch.testing.assert_close(mean, expected.pop("loss"), atol=1e-5, rtol=0)
    has_pairs = case != "no positive pair at all" or mode == "class"
    assert (sum(g.abs().sum() for g in expected.values()) > 0) == has_pairs
    assert len(expected) == 4
    for process in found:
        torch.testing.assert_close(process, expected, atol=1e-5, rtol=0)


def test_the_local_loss_would_differ():
    parts = batches("uneven backgrounds")
    whole = tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))
    loss = ExConLoss(0.2, "negatives")
    one = gradients(Encoder(), loss, whole)["layers.0.weight"]
    local = [gradients(Encoder(), loss, part)["layers.0.weight"] for part in parts]
    assert ((local[0] + local[1]) / 2 - one).abs().max() > 1e-3
