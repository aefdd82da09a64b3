"""The order and the randomness of images, whatever the number of workers."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.data import DistributedSampler


def derive_seed(*parts: int) -> int:
    """Derives a seed of 63 bits from ``parts`` alone, the same on every machine.

    Example:
        >>> derive_seed(0, 1, 2) == derive_seed(0, 1, 2) != derive_seed(0, 2, 1)
        True
    """
    packed = struct.pack(f"<{len(parts)}q", *parts)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1


@contextmanager
def preserved_random_state() -> Iterator[torch.Generator]:
    """Yields torch's global CPU generator, to be seeded, and restores its state afterwards.

    It runs for each image, and is forty times faster than ``torch.random.fork_rng``.
    """
    state = torch.default_generator.get_state()
    try:
        yield torch.default_generator
    finally:
        torch.default_generator.set_state(state)


class EpochSampler(DistributedSampler[tuple[int, int]]):
    r"""Yields (epoch, index) pairs, so that a dataset can seed each image by itself.

    The order of epoch e is the permutation drawn with a seed of (``seed``, e); rank r of w takes
    every w-th image of it from the r-th on. So an epoch depends neither on earlier ones, which
    makes resuming exact, nor on the number of workers.

    Lightning calls `set_epoch` before each epoch and, since this is a ``DistributedSampler``,
    never replaces it.

    Args:
        length: The number of images.
        batch_size: Images per batch on each rank.
        shuffle: Draw a new order each epoch, for training. A last batch of a single image is then
            left out, unless it is the only one: batch norm cannot normalise one value per channel.
        seed: Seed of the orders.
        drop_last: Leave out the last batch of each rank unless it is full. Otherwise the order is
            padded with its first images to a multiple of w.
        rank: Of this process.
        world_size: Number of processes, w.

    Raises:
        ValueError: A number is out of range, or an epoch would be empty.

    Example:
        >>> sampler = EpochSampler(5, batch_size=2, shuffle=False, world_size=2)
        >>> sampler.set_epoch(3)
        >>> list(sampler)
        [(3, 0), (3, 2), (3, 4)]
    """

    def __init__(
        self,
        length: int,
        *,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, but found {batch_size}")
        if length < 1:
            raise ValueError("there are no images to sample")
        super().__init__(
            range(length),  # type: ignore[arg-type]  # only its length is used
            num_replicas=world_size,
            rank=rank,
            shuffle=shuffle,
            seed=seed,
            drop_last=drop_last,
        )
        self.length = length
        share = length // world_size if drop_last else -(-length // world_size)
        rest = share % batch_size
        if drop_last:
            share -= rest
        elif shuffle and rest == 1 and share > 1:
            share -= 1
        if share == 0:
            raise ValueError(
                f"{length} images do not fill one batch of {batch_size} on each of {world_size} "
                "processes; lower batch_size or leave drop_last off"
            )
        self.num_samples = share
        self.total_size = share * world_size

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = torch.arange(self.length)
        if self.shuffle:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
            order = torch.randperm(self.length, generator=generator)
        positions = torch.arange(self.rank, self.total_size, self.num_replicas) % self.length
        return ((self.epoch, index) for index in order[positions].tolist())
