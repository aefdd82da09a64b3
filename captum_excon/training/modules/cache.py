"""Explanations kept on disk, for weights that do not change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import Attribution
from torch import Tensor, nn

from captum_excon._files import written_whole
from captum_excon.transforms._undisturbed import Explainer

_MANIFEST = "manifest.json"


class ExplanationCache:
    r"""Maps of training images, found again by the image's index and the explained class.

    One map is kept for each image, that of its latest class, at the explainer's resolution and in
    half precision. Before rounding it is divided by its largest magnitude, which the scaling to
    [0, 1] that follows, or the choice of a top share, takes away again.

    A manifest names the method, a hash of the weights and the number of images. Where it does not
    fit, all maps are removed. Several processes may use a folder at once.

    Args:
        folder: Where the maps are; made if it does not exist.
        method: What made the maps.
        model: `weights_hash` of the network that is explained.
        images: The number of images; indices lie below.

    Raises:
        FileExistsError: The folder holds something else.

    Example:
        >>> import tempfile
        >>> cache = ExplanationCache(tempfile.mkdtemp(), "layer-grad-cam", "c0ffee", images=10)
        >>> cache.put(torch.tensor([7]), torch.tensor([2]), torch.tensor([[[[0.0, 4.0]]]]))
        >>> maps, found = cache.get(torch.tensor([7, 7]), torch.tensor([2, 3]))
        >>> maps[found], found
        (tensor([[[[0., 1.]]]]), tensor([ True, False]))
    """

    def __init__(self, folder: str | Path, method: str, model: str, images: int) -> None:
        self.folder = Path(folder)
        self.images = images
        manifest = {"method": method, "model": model, "images": images}
        path = self.folder / _MANIFEST
        if not path.exists() and self.folder.exists() and any(self.folder.iterdir()):
            raise FileExistsError(
                f"{folder} is no cache of explanations, and is not empty: name another folder"
            )
        if not path.exists() or json.loads(path.read_text()) != manifest:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            with written_whole(path) as temporary:
                temporary.write_text(json.dumps(manifest))

    def get(self, indices: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Looks maps up.

        Args:
            indices: (N,) of the images.
            classes: (N,) that are explained.

        Returns:
            (N, 1, h, w) float32, and (N,) bool for those that were found, both on the CPU; h and
            w are 0 while there is no map at all.
        """
        rows, wanted = self._rows(indices), classes.cpu().numpy()
        stored = self._open(None)
        if stored is None:
            return torch.zeros(len(rows), 1, 0, 0), torch.zeros(len(rows), dtype=torch.bool)
        maps, known = stored
        found = known[rows] == wanted + 1
        return torch.from_numpy(maps[rows].astype(np.float32)).unsqueeze(1), torch.from_numpy(found)

    def put(self, indices: Tensor, classes: Tensor, maps: Tensor) -> None:
        """Keeps maps (N, 1, h, w), all of one size."""
        rows = self._rows(indices)
        stored = self._open((maps.shape[-2], maps.shape[-1]))
        if stored is None:
            raise ValueError(f"maps must be (N, 1, h, w), but found {tuple(maps.shape)}")
        peak = maps.abs().amax((2, 3), keepdim=True)
        scaled = maps / torch.where(peak > 0, peak, 1)
        stored[0][rows] = scaled.squeeze(1).half().cpu().numpy()
        # Afterwards, so that a map that is half written is not found.
        stored[1][rows] = classes.cpu().numpy() + 1

    def _rows(self, indices: Tensor) -> np.ndarray[Any, Any]:
        rows: np.ndarray[Any, Any] = indices.cpu().numpy()
        if rows.size and not 0 <= rows.min() <= rows.max() < self.images:
            raise IndexError(
                f"the cache is for {self.images} images, but an index is "
                f"{rows.max() if rows.min() >= 0 else rows.min()}"
            )
        return rows

    def _open(self, size: tuple[int, int] | None) -> tuple[Any, Any] | None:
        """The maps (images, h, w) and their classes + 1, as memory that the files share."""
        if size is None:
            known = sorted(self.folder.glob("maps-*x*.f16"))
            if not known:
                return None
            height, width = known[0].stem.removeprefix("maps-").split("x")
            size = int(height), int(width)
        shape = (self.images, *size)
        return (
            _shared(self.folder / f"maps-{size[0]}x{size[1]}.f16", np.float16, shape),
            _shared(self.folder / "classes.i64", np.int64, shape[:1]),
        )


def _shared(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    # Zeros at first, and idempotent: processes may do this at once.
    with path.open("ab") as file:
        file.truncate(int(np.prod(shape)) * np.dtype(dtype).itemsize)
    return np.memmap(path, dtype, "r+", shape=shape)


class CachedExplainer:
    """An explainer that looks maps up first; set ``indices`` before each batch.

    What it returns has gone through the cache's half precision the first time too, so that
    results do not depend on what was found.

    Args:
        explainer: The explainer that is asked for maps that are not found.
        forward_func: The network that it explains.
        cache: Where maps are kept.
    """

    def __init__(
        self, explainer: Explainer, forward_func: nn.Module, cache: ExplanationCache
    ) -> None:
        self.explainer = explainer
        self.forward_func = forward_func
        self.cache = cache
        self.indices = torch.zeros(0, dtype=torch.long)

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """Returns maps (N, 1, h, w) for images (N, C, H, W) and classes (N,)."""
        _, found = self.cache.get(self.indices, targets)
        missing = (~found).nonzero().squeeze(1)
        if len(missing):
            rows = missing.to(images.device)
            if isinstance(self.explainer, Attribution):
                maps = self.explainer.attribute(images[rows], target=targets[rows])
            else:
                maps = self.explainer(images[rows], targets[rows])
            summed = maps.detach().float().sum(1, keepdim=True)
            self.cache.put(self.indices.cpu()[missing], targets[rows], summed)
        return self.cache.get(self.indices, targets)[0].to(images.device)
