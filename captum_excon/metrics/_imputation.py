"""What removed pixels become: a constant, a blur, or noisy linear imputation."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

# `fill` of a soft mask, which fades to values, and of a binary one, which removes pixels.
FadeTo = float | Tensor | Literal["blur"]
Imputation = FadeTo | Literal["noisy-linear"]

# From the rows' images, (R,), and the pixels to keep, (R, H, W), to rows (R, C, H, W).
Remove = Callable[[Tensor, Tensor], Tensor]

_KERNEL, _SIGMA = 11, 5.0  # of RISE's code


def remover(images: Tensor, fill: Imputation, seed: int, noise: float = 0.01) -> Remove:
    """Returns a function that makes rows of images whose other pixels are filled."""
    if isinstance(fill, str) and fill == "noisy-linear":
        return _noisy_linear(images, seed, noise)
    values = fill_values(images, fill)

    def remove(image: Tensor, keep: Tensor) -> Tensor:
        return torch.where(keep.unsqueeze(1), images[image], values[image])

    return remove


def fill_values(images: Tensor, fill: FadeTo | Imputation) -> Tensor:
    """Expands a number, or a tensor of one or N rows, to the images' shape, or blurs them."""
    if isinstance(fill, str):
        if fill != "blur":
            raise ValueError(
                f"fill must be a number, a tensor, 'blur' or, for binary masks, 'noisy-linear', "
                f"but found {fill!r}"
            )
        return _blurred(images)
    values = torch.as_tensor(fill, dtype=images.dtype, device=images.device).detach()
    values = values.reshape((1,) * (4 - values.dim()) + tuple(values.shape))
    if values.dim() != 4 or any(
        s not in (1, t) for s, t in zip(values.shape, images.shape, strict=True)
    ):
        raise ValueError(
            f"fill of shape {tuple(values.shape)} does not fit images of shape "
            f"{tuple(images.shape)}; pass a number, a tensor of the images' shape, or one of shape "
            "(1, C, 1, 1) such as (0 - mean) / std for black"
        )
    if not bool(values.isfinite().all()):
        raise ValueError("fill contains NaN or infinite values; pass finite ones")
    return values.expand_as(images)


def _blurred(images: Tensor) -> Tensor:
    if min(images.shape[2:]) <= _KERNEL // 2:
        raise ValueError(
            f"fill='blur' needs images of at least {_KERNEL // 2 + 1} pixels a side, but found "
            f"{tuple(images.shape[2:])}; fill with a number instead"
        )
    if len(images) == 0:
        return images
    # A convolution, which an ambient autocast would run in half precision.
    with torch.autocast(images.device.type, enabled=False):
        blurred: Tensor = functional.gaussian_blur(images, [_KERNEL, _KERNEL], [_SIGMA, _SIGMA])
    return blurred


def _noisy_linear(images: Tensor, seed: int, noise: float) -> Remove:
    imputer = noisy_linear_imputer(noise)

    def impute(image: Tensor, keep: Tensor) -> Tensor:
        rows = images[image].float().cpu()
        masks = keep.float().cpu()
        for row, mask in zip(rows, masks, strict=True):
            missing = int((mask == 0).sum())
            if missing == 0:
                continue
            # The noise comes from torch's global generator; images share it, so that none depends
            # on the others.
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                torch.default_generator.manual_seed(seed + missing)
                # np.argwhere of a tensor: the imputer's own business.
                warnings.filterwarnings("ignore", "__array_wrap__", DeprecationWarning)
                row.copy_(imputer(row, mask))
        return rows.to(images)

    return impute


def noisy_linear_imputer(noise: float) -> Any:
    """Returns pytorch-grad-cam's imputer, which takes an image (C, H, W) and a mask (H, W)."""
    try:
        road = importlib.import_module("pytorch_grad_cam.metrics.road")
    except ImportError as error:
        raise ImportError(
            'noisy linear imputation is that of pytorch-grad-cam: pip install "captum-excon[bench]"'
        ) from error
    return road.NoisyLinearImputer(noise=noise)
