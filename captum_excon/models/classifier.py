"""What is trained and explained: an encoder with a linear head, on normalised images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
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


class ProjectionHead(nn.Module):
    """Projects features onto the unit sphere where views are compared.

        z = W2 relu(W1 h + b1) + b2,    output z / ||z||

    The official code has 2048-2048-128. The division is done in float32 at least.

    Args:
        in_dim: Size of the features.
        hidden_dim: Of the hidden layer, ``in_dim`` by default.
        out_dim: Of the output.

    Shape:
        (N, in_dim) -> (N, out_dim), each row of length 1.

    Example:
        >>> projected = ProjectionHead(8, out_dim=3)(torch.ones(2, 8))
        >>> projected.shape, bool(torch.allclose(projected.norm(dim=1), torch.ones(2)))
        (torch.Size([2, 3]), True)
    """

    def __init__(self, in_dim: int, hidden_dim: int | None = None, out_dim: int = 128) -> None:
        super().__init__()
        hidden_dim = in_dim if hidden_dim is None else hidden_dim
        self.hidden = nn.Linear(in_dim, hidden_dim)
        self.output = nn.Linear(hidden_dim, out_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Projects features, (N, in_dim) -> (N, out_dim)."""
        projected = self.output(F.relu(self.hidden(features)))
        return F.normalize(projected.to(torch.promote_types(projected.dtype, torch.float32)), dim=1)
