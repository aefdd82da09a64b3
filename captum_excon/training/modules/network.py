"""What is trained and explained: an encoder with a linear head, on normalised images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Subtracts the mean and divides by the deviation of each channel, without leaving the device.

    Example:
        >>> Normalize((0.5,), (0.25,))(torch.ones(1, 1, 1, 1))
        tensor([[[[2.]]]])
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(s > 0 for s in std):
            raise ValueError(
                "mean and std must have one value for each channel, and std positive ones, but "
                f"found {tuple(mean)} and {tuple(std)}"
            )
        # Not persistent: they are hyper-parameters.
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalises (N, C, H, W) or (N, V, C, H, W)."""
        mean: Tensor = self.get_buffer("mean")
        std: Tensor = self.get_buffer("std")
        return (images - mean.to(images.dtype)) / std.to(images.dtype)


class Classifier(nn.Module):
    """The logits of the first ``num_classes`` outputs of a head on an encoder.

    A head may have one more output, for images without an object, which counts in training only.

    Example:
        >>> model = Classifier(nn.Flatten(), nn.Linear(4, 3), num_classes=2)
        >>> model(torch.rand(5, 1, 2, 2)).shape
        torch.Size([5, 2])
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.num_classes = num_classes

    def forward(self, images: Tensor) -> Tensor:
        """Maps normalised images (N, C, H, W) to logits (N, num_classes)."""
        logits: Tensor = self.head(self.encoder(images))
        return logits[:, : self.num_classes]
