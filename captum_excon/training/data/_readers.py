"""Where the pixels of a dataset come from: files, an array, or decoded copies in memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from captum_excon._files import read_image
from captum_excon.errors import UserError

Pixels: TypeAlias = npt.NDArray[np.uint8]
Indices: TypeAlias = npt.NDArray[np.int64]

# Images per task of a thread: handing over a task costs as much as decoding a small image.
_CHUNK = 64


class DataError(UserError):
    """Data that cannot be used as they are; the message names the remedy."""


class CorruptImageError(DataError):
    """An image that cannot be read; the message names it."""

    def __init__(self, message: str) -> None:
        # A loader's worker passes an error on as the text of its traceback, with the message last.
        super().__init__(message.rsplit(f"{type(self).__name__}: ", 1)[-1].strip())


class Reader(Protocol):
    """RGB images by number, each with a name that tells its source."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def read(self, index: int) -> Image.Image: ...  # raises CorruptImageError

    def take(self, indices: Indices) -> Reader: ...


class FileReader:
    """Images in files, given relative to a folder."""

    def __init__(self, root: Path, files: Sequence[str] | npt.NDArray[np.bytes_]) -> None:
        self.root = root
        # One array, not a list: touching a million Python strings in each worker copies them.
        self._files = np.array([os.fsencode(file) for file in files], dtype=np.bytes_)

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        return os.path.join(self.root, os.fsdecode(self._files[index]))

    def read(self, index: int) -> Image.Image:
        path = self.name(index)
        try:
            return read_image(Path(path))
        except UserError as error:
            raise CorruptImageError(
                f"{path}: {error}; mend or remove this file, or leave such files out with "
                'on_corrupt="skip"'
            ) from error

    def take(self, indices: Indices) -> FileReader:
        return FileReader(self.root, self._files[indices])


class ArrayReader:
    """Images of one size in an array (N, H, W, 3), which may lie on disk; by default all rows."""

    def __init__(self, pixels: Pixels, label: str, rows: Indices | None = None) -> None:
        self._pixels, self._label = pixels, label
        self._rows = np.arange(len(pixels)) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        return f"{self._label}[{self._rows[index]}]"

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(np.asarray(self._pixels[self._rows[index]]))

    def take(self, indices: Indices) -> ArrayReader:
        return ArrayReader(self._pixels, self._label, self._rows[indices])


class MemoryReader:
    """Decoded copies of images of any size, in one block of memory.

    The block is a tensor, since forked workers share its memory, and spawned ones too.
    """

    def __init__(self, source: Reader, block: Tensor, sizes: Indices) -> None:
        self._source, self._block, self._sizes = source, block, sizes
        self._starts = np.concatenate([[0], np.cumsum(sizes.prod(1) * 3)])

    def __len__(self) -> int:
        return len(self._sizes)

    def name(self, index: int) -> str:
        return self._source.name(index)

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self._pixels(index).numpy().reshape(*self._sizes[index], 3))

    def take(self, indices: Indices) -> MemoryReader:
        parts = [self._pixels(int(index)) for index in indices]
        block = torch.cat(parts) if parts else self._block[:0]
        return MemoryReader(self._source.take(indices), block, self._sizes[indices])

    def _pixels(self, index: int) -> Tensor:
        return self._block[self._starts[index] : self._starts[index + 1]]


def decoded_bytes(reader: Reader, sample: int = 64) -> float:
    """Estimates the size of all images decoded, from a few that can be read."""
    sizes = []
    for index in np.linspace(0, len(reader) - 1, min(sample, len(reader))).astype(int):
        try:
            width, height = reader.read(int(index)).size
        except CorruptImageError:
            continue
        sizes.append(3 * width * height)
    return float(np.mean(sizes)) * len(reader) if sizes else 0.0


def decode_all(reader: Reader, *, keep: bool, skip: bool) -> tuple[Reader, Indices]:
    """Decodes every image once, to hold them in memory or to skip those that cannot be read.

    Returns a reader of the readable images, and their numbers in ``reader``.
    """

    def decode(start: int) -> list[Pixels | None]:
        return [read(index) for index in range(start, min(start + _CHUNK, len(reader)))]

    def read(index: int) -> Pixels | None:
        try:
            return np.asarray(reader.read(index))
        except CorruptImageError:
            if not skip:
                raise
            return None

    block, sizes, readable = bytearray(), [], []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            chunks = pool.map(decode, range(0, len(reader), _CHUNK))
            images = chain.from_iterable(chunks)
            bar = tqdm(images, "decoding", len(reader), leave=False, unit="image", disable=None)
            for index, pixels in enumerate(bar):
                if pixels is not None:
                    readable.append(index)
                    if keep:
                        block += pixels.tobytes()
                        sizes.append(pixels.shape[:2])
        except BaseException:
            # The error would otherwise wait for all images to be decoded.
            pool.shutdown(cancel_futures=True)
            raise
    numbers = np.array(readable, dtype=np.int64)
    rest = reader if len(numbers) == len(reader) else reader.take(numbers)
    if not keep:
        return rest, numbers
    memory = torch.frombuffer(block, dtype=torch.uint8) if block else torch.empty(0)
    return MemoryReader(rest, memory, np.array(sizes, dtype=np.int64).reshape(-1, 2)), numbers
