"""Explanations kept on disk, for weights that do not change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from captum_excon._files import written_whole

_MANIFEST = "manifest.json"

# Fibonacci hashing's multiplier, 2 ** 64 divided by the golden ratio, as a signed number.
_ODD = 0x9E3779B97F4A7C15 - 2**64
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def image_keys(images: Tensor, classes: Tensor) -> Tensor:
    """Keys of images (N, C, H, W) and their classes (N,): (N,) int64, on the images' device.

    A key depends on the shape, on the bits of every pixel and on the class, so that a map is not
    found for an image of another split, size or normalisation under the same index.

    Example:
        >>> images = torch.zeros(3, 1, 2, 2)
        >>> images[2, 0, 1, 1] = 1e-9
        >>> len(set(image_keys(images, torch.tensor([0, 1, 1])).tolist()))
        3
    """
    bits = images.detach().contiguous().view(_INTEGERS[images.element_size()]).flatten(1)
    # A product with odd pseudo-random numbers, modulo 2 ** 64.
    factors = torch.arange(1, 2 * bits.shape[1], 2, device=images.device) * _ODD
    factors = (factors ^ (factors >> 29)) * _ODD | 1
    # Image by image, since eight bytes for each value of a batch may not fit.
    sums = torch.stack([(row.long() * factors).sum() for row in bits])
    sums = (sums + hash(images.shape[1:])) * _ODD + classes.to(images.device) + 1
    keys = (sums ^ (sums >> 31)) * _ODD
    return torch.where(keys == 0, 1, keys)  # zero stands for no map


class ExplanationCache:
    r"""Maps of training images, found again by the image and the explained class.

    One map is kept for each index and map size, that of the latest image and class, in half
    precision. Before rounding it is divided by its largest magnitude, which the scaling to [0, 1]
    that follows, or the choice of a top share, takes away again. Several processes may use a folder
    at once.

    Args:
        folder: Where the maps are; made if it does not exist.
        manifest: What maps depend on beside image and class, as plain values: the explainer, the
            weights and so on. Where it differs from that of the folder, all maps are removed.
        images: The number of images; indices lie below.

    Raises:
        FileExistsError: The folder holds something else.

    Example:
        >>> import tempfile
        >>> cache = ExplanationCache(tempfile.mkdtemp(), {"explainer": "layer-grad-cam"}, images=10)
        >>> keys = image_keys(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))
        >>> cache.put(torch.tensor([7]), keys[:1], torch.tensor([[[[0.0, 4.0]]]]))
        >>> maps, found = cache.get(torch.tensor([7, 7]), keys)
        >>> maps[found], found
        (tensor([[[[0., 1.]]]]), tensor([ True, False]))
    """

    def __init__(self, folder: str | Path, manifest: Mapping[str, Any], images: int) -> None:
        self.folder = Path(folder)
        self.images = images
        manifest = {**manifest, "images": images, "format": 2}
        path = self.folder / _MANIFEST
        if not path.exists() and self.folder.exists() and any(self.folder.iterdir()):
            raise FileExistsError(
                f"{folder} is not a cache of explanations and is not empty: name another folder"
            )
        if not path.exists() or json.loads(path.read_text()) != manifest:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            with written_whole(path) as temporary:
                temporary.write_text(json.dumps(manifest))

    def get(self, indices: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Looks maps up by indices (N,) and keys (N,), see `image_keys`.

        Returns:
            (N, 1, h, w) float32, and (N,) bool for those that were found, both on the CPU; h and
            w are 0 if there is none.
        """
        rows, wanted = self._rows(indices), keys.cpu().numpy()
        for path in sorted(self.folder.glob("maps-*x*.f16")):
            height, width = map(int, path.stem.removeprefix("maps-").split("x"))
            maps, known = self._open(height, width)
            found = known[rows] == wanted
            if found.any():  # images of one size have maps of one size
                stored = torch.from_numpy(maps[rows].astype(np.float32)).unsqueeze(1)
                return stored, torch.from_numpy(found)
        return torch.zeros(len(rows), 1, 0, 0), torch.zeros(len(rows), dtype=torch.bool)

    def put(self, indices: Tensor, keys: Tensor, maps: Tensor) -> None:
        """Keeps maps (N, 1, h, w), all of one size."""
        rows = self._rows(indices)
        stored, known = self._open(*maps.shape[2:])
        peak = maps.abs().amax((2, 3), keepdim=True)
        scaled = maps / torch.where(peak > 0, peak, 1)
        # A map that is half written has no key.
        known[rows] = 0
        stored[rows] = scaled.squeeze(1).half().cpu().numpy()
        known[rows] = keys.cpu().numpy()

    def _rows(self, indices: Tensor) -> np.ndarray[Any, Any]:
        rows: np.ndarray[Any, Any] = indices.cpu().numpy()
        if rows.size and not 0 <= rows.min() <= rows.max() < self.images:
            raise IndexError(
                f"the cache is for {self.images} images, but an index is "
                f"{rows.max() if rows.min() >= 0 else rows.min()}"
            )
        return rows

    def _open(self, height: int, width: int) -> tuple[Any, Any]:
        """The maps (images, h, w) and their keys, as memory that the files share."""
        size, count = f"{height}x{width}", self.images
        maps = _shared(self.folder / f"maps-{size}.f16", np.float16, (count, height, width))
        return maps, _shared(self.folder / f"keys-{size}.i64", np.int64, (count,))


def _shared(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    # Zeros at first, and idempotent: processes may do this at once.
    with path.open("ab") as file:
        file.truncate(int(np.prod(shape)) * np.dtype(dtype).itemsize)
    return np.memmap(path, dtype, "r+", shape=shape)


class CachedExplainer:
    """An explainer that looks maps up first; set ``indices`` before each batch.

    What it returns has gone through the cache's half precision the first time too, so that
    results do not depend on what was found. ``forward_func`` is the network that it explains.
    """

    def __init__(
        self,
        explainer: Callable[[Tensor, Tensor], Tensor],
        forward_func: nn.Module,
        cache: ExplanationCache,
    ) -> None:
        self.explainer = explainer
        self.forward_func = forward_func
        self.cache = cache
        self.indices = torch.zeros(0, dtype=torch.long)

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """Returns maps (N, 1, h, w) for images (N, C, H, W) and classes (N,)."""
        keys = image_keys(images, targets)
        _, found = self.cache.get(self.indices, keys)
        missing = (~found).nonzero().squeeze(1)
        if len(missing):
            rows = missing.to(images.device)
            maps = self.explainer(images[rows], targets[rows])
            summed = maps.detach().float().sum(1, keepdim=True)
            self.cache.put(self.indices.cpu()[missing], keys[rows], summed)
        return self.cache.get(self.indices, keys)[0].to(images.device)
