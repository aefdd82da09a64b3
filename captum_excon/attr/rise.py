"""RISE: randomized input sampling for explanation."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from captum_excon.attr._core.captum import Inputs, Target
from captum_excon.attr._core.mask_attribution import Maps, MaskAttribution, Request, Scoring
from captum_excon.attr._core.masks import resize, weighted_sum
from captum_excon.attr._core.scoring import Batch, Score


class RISE(MaskAttribution):
    r"""Randomized Input Sampling for Explanation.

    Random binary grids, up-sampled linearly and shifted at random, mask the image; a pixel's
    saliency is the mean score of the masks that show it:
    :math:`S(\lambda) = \frac{1}{p\,M} \sum_m \Psi_c(x \odot m)\, m(\lambda)` for M masks whose
    cells are on with probability p. It needs no layer and no gradient.

    All images of a call share their masks, as in the authors' code. For 1-D and 3-D inputs the
    grid has as many cells along every dimension [ours].

    Reference: Petsiuk et al., *RISE: Randomized Input Sampling for Explanation of Black-box
    Models*, BMVC 2018, https://arxiv.org/abs/1806.07421.

    Args:
        forward_func: The model, or any function of the inputs that returns a tensor (N, ...).

    Example:
        >>> import torch
        >>> from torch import nn
        >>> rise = RISE(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5)).eval())
        >>> rise.attribute(torch.rand(2, 3, 16, 16), target=1, n_masks=20, grid=4).shape
        torch.Size([2, 3, 16, 16])
    """

    def attribute(
        self,
        inputs: Inputs,
        baselines: Any = None,
        target: Target = None,
        additional_forward_args: Any = None,
        n_masks: int = 4000,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        grid: int = 7,
        probability: float = 0.5,
        score: Score | None = None,
        generator: torch.Generator | None = None,
        autocast_dtype: torch.dtype | None = None,
    ) -> Any:
        """Computes the RISE maps of a batch.

        For the other arguments, the result and the errors see `MultiLayerSISE.attribute`.

        Args:
            n_masks: Masks, and forward rows, for each image; the paper uses 4000 to 8000.
            grid: Cells along each dimension (the paper's s).
            probability: How likely a cell is on (the paper's p), in (0, 1).
            generator: Where the masks are drawn from; by default a new one with seed 0, so that
                calls repeat and the global random state is not touched.
        """
        for name, value in (("n_masks", n_masks), ("grid", grid)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, but found {value!r}")
        if not 0 < probability < 1:
            raise ValueError(f"probability must lie between 0 and 1, but found {probability!r}")
        if generator is None:
            generator = torch.Generator().manual_seed(0)
        elif not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator or None, but found {generator!r}")
        # One draw for the call: every group of its images must meet the same masks.
        seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))

        def explain(batch: Batch) -> list[list[Maps]]:
            masks = _RandomMasks(batch, n_masks, grid, probability, seed)
            return [[maps] for maps in masks.average(batch.score(masks) / probability)]

        scoring = Scoring(score, perturbations_per_eval, show_progress, autocast_dtype)
        request = Request(inputs, baselines, target, additional_forward_args, scoring)
        return self._run(request, explain)


class _RandomMasks:
    """The same M random masks for each of N images, drawn on the CPU from a seed."""

    def __init__(self, batch: Batch, count: int, grid: int, probability: float, seed: int) -> None:
        x = batch.inputs[0]
        generator = torch.Generator().manual_seed(seed)
        dims = x.dim() - 2
        dtype = torch.promote_types(x.dtype, torch.float32)
        cells = torch.rand(count, 1, *(grid,) * dims, generator=generator) < probability
        self.cells = cells.to(x.device, dtype)
        self.shifts = torch.rand(count, dims, generator=generator).to(x.device)
        self.sizes = batch.sizes
        self.image = batch.index.repeat_interleave(count)

    def masks(self, start: int, stop: int) -> tuple[Tensor, ...]:
        rows = torch.arange(start, stop, device=self.cells.device) % len(self.cells)
        return tuple(self._draw(rows, size) for size in self.sizes)

    def _draw(self, rows: Tensor, size: tuple[int, ...]) -> Tensor:
        """Up-samples the grids to one cell more than the input and cuts the input's size out."""
        grid = self.cells.shape[2:]
        cell = [math.ceil(s / g) for s, g in zip(size, grid, strict=True)]
        masks = resize(self.cells[rows], [(g + 1) * c for g, c in zip(grid, cell, strict=True)])
        for i, (length, step) in enumerate(zip(size, cell, strict=True)):
            first = (self.shifts[rows, i] * step).long()
            at = first.unsqueeze(1) + torch.arange(length, device=first.device)
            at = at.view(len(rows), *(length if d == i + 1 else 1 for d in range(masks.dim() - 1)))
            masks = masks.gather(i + 2, at.expand(*masks.shape[: i + 2], -1, *masks.shape[i + 3 :]))
        return masks

    def average(self, scores: Tensor) -> list[Maps]:
        """Means of score times mask: (T, N M) scores -> for each target maps (N, 1, *size)."""
        targets, count = len(scores), len(self.cells)
        per_image = scores.view(targets, -1, count) / count
        maps = []
        for size in self.sizes:
            total = per_image.new_zeros(*per_image.shape[:2], math.prod(size))
            for start in range(0, count, 64):
                rows = torch.arange(start, min(start + 64, count), device=scores.device)
                total += weighted_sum(per_image[..., rows], self._draw(rows, size).flatten(1))
            maps.append(total.view(*total.shape[:2], 1, *size))
        return list(zip(*maps, strict=True))
