import time

import pytest
import torch

from captum_excon.attr._core.batching import check_batch_size, first_batch_size, run_in_batches

IMAGE = (torch.zeros(1, 3, 8, 8),)


class Clock:
    """Time that passes as the batches say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


def batches(rows: int, batch_size: int | None = None, **options: int) -> list[tuple[int, int]]:
    seen: list[tuple[int, int]] = []
    run_in_batches(rows, lambda a, b: seen.append((a, b)), IMAGE, batch_size, **options)
    return seen


def test_a_given_batch_size_is_kept_and_every_row_is_done_once() -> None:
    assert batches(10, 4) == [(0, 4), (4, 8), (8, 10)]
    assert batches(0, 4) == []


@pytest.mark.parametrize(
    ("seconds_a_row", "sizes"),
    [
        # 8 rows at once are twice as fast as 4, 16 are no faster than 8: stay at 16, not slower.
        ({4: 2.0, 8: 1.0, 16: 1.0}, [4, 4, 8, 8, 16, 16, 16]),
        # 8 are slower than 4: go back.
        ({4: 1.0, 8: 2.0}, [4, 4, 8, 8, 4, 4, 4]),
    ],
)
def test_the_automatic_size_follows_the_rows_a_second(
    monkeypatch: pytest.MonkeyPatch, seconds_a_row: dict[int, float], sizes: list[int]
) -> None:
    clock = Clock(monkeypatch)
    seen: list[int] = []

    def step(start: int, stop: int) -> None:
        clock.now += seconds_a_row[stop - start] * (stop - start)
        seen.append(stop - start)

    run_in_batches(sum(sizes), step, IMAGE)
    assert seen == sizes


def test_the_first_batch_of_large_inputs_is_small() -> None:
    assert first_batch_size((torch.empty(1, 3, 224, 224, device="meta"),), 16) == 16
    assert first_batch_size((torch.empty(1, 1, 128, 128, 128, device="meta"),), 16) == 2
    assert first_batch_size((torch.empty(1, 1, 512, 512, 512, device="meta"),), 16) == 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_batch_that_does_not_fit_is_halved_and_done_again(error: BaseException) -> None:
    seen: list[tuple[int, int]] = []

    def step(start: int, stop: int) -> None:
        if stop - start > 3:
            raise error
        seen.append((start, stop))

    run_in_batches(11, step, IMAGE, 8)
    assert seen == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10), (10, 11)]


def test_a_single_row_that_does_not_fit_raises() -> None:
    def step(start: int, stop: int) -> None:
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        run_in_batches(4, step, IMAGE, 4)


def test_other_errors_are_not_tried_again() -> None:
    calls = 0

    def step(start: int, stop: int) -> None:
        nonlocal calls
        calls += 1
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        run_in_batches(4, step, IMAGE, 4)
    assert calls == 1


@pytest.mark.parametrize("size", [0, -1, 2.5, "8"])
def test_a_batch_size_that_is_no_positive_integer_is_refused(size: object) -> None:
    with pytest.raises(ValueError, match="positive integer"):
        check_batch_size("internal_batch_size", size)  # type: ignore[arg-type]
