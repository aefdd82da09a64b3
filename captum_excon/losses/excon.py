"""The contrastive loss of SupCon, ExCon and ExConB."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn

from captum_excon.losses._checks import at_least_float32, check_choice, check_integers
from captum_excon.losses._gather import gather_rows, world_size

Background = Literal["exclude", "negatives", "class"]


class ExConLoss(nn.Module):
    r"""The supervised contrastive loss of SupCon, ExCon and ExConB.

    For anchors :math:`i` with positives :math:`P(i)` (the other views with the anchor's label) and
    contrasts :math:`A(i)` (all other views that count),

    .. math:: L = \operatorname{mean}_i \frac{-1}{|P(i)|} \sum_{p \in P(i)}
        \log \frac{\exp(z_i \cdot z_p / T)}{\sum_{a \in A(i)} \exp(z_i \cdot z_a / T)}

    A *background* is a masked image that the model no longer recognises. ``background`` says how it
    takes part:

    | background | anchors | positives | contrasts |
    | --- | --- | --- | --- |
    | ``exclude`` | views of real images | same label, real | views of real images |
    | ``negatives`` | views of real images | same label, real | all views |
    | ``class`` | all views | same label; backgrounds are one | all views |

    ``negatives`` is ExConB. A background counts once per view slot [as in the official code].
    Without backgrounds all three are SupCon's :math:`L_{out}`.

    Anchors without a positive (a label seen once) are left out of the mean; without any anchor the
    loss is 0, with a graph [ours; the official code gives NaN]. It is computed in float32, or
    float64 for float64 features, even under autocast, without synchronising the device.

    With ``gather_distributed``, contrasts and positives come from all processes of the default
    group. The losses are weighted so that their mean (``DistributedDataParallel`` averages the
    gradients) is the loss of one process that holds everything. Numbers of images may differ;
    exchanging them synchronises the device once.

    References: Khosla et al., *Supervised Contrastive Learning*, NeurIPS 2020,
    https://arxiv.org/abs/2004.11362; Zhang et al., *ExCon: Explanation-driven Supervised
    Contrastive Learning for Image Classification*, 2021, https://arxiv.org/abs/2111.14271.

    Args:
        temperature: :math:`T`; ExCon uses 0.1.
        background: How backgrounds take part.
        base_temperature: Multiplies the loss by ``temperature / base_temperature``. The official
            code, whose learning rate was tuned with it, uses 0.07.
        gather_distributed: Contrast with the images of all processes.

    Raises:
        ValueError: A temperature is not positive, or ``background`` is unknown.

    Example:
        >>> loss = ExConLoss(temperature=0.1, background="negatives")
        >>> angles = torch.tensor([[0.0, 0.1], [0.5, 0.4], [2.0, 2.2], [1.0, 1.0]])  # (N, 2 views)
        >>> features = torch.stack([angles.cos(), angles.sin()], dim=-1)  # unit vectors
        >>> labels = torch.tensor([0, 0, 1, 0])
        >>> loss(features, labels, torch.tensor([False, False, False, True]))
        tensor(0.8736)
    """

    def __init__(
        self,
        temperature: float = 0.1,
        background: Background = "exclude",
        base_temperature: float | None = None,
        gather_distributed: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("temperature", temperature), ("base_temperature", base_temperature)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, but found {value!r}")
        check_choice("background", background, get_args(Background))
        self.temperature = temperature
        self.background = background
        self.base_temperature = base_temperature
        self.gather_distributed = gather_distributed

    def forward(
        self, features: Tensor, labels: Tensor, is_background: Tensor | None = None
    ) -> Tensor:
        """Computes the loss of a batch, a scalar.

        Args:
            features: (N, V, D) floating point: V views of each image, of length 1 along D, which
                is not checked.
            labels: (N,) integers. A background's label is ignored.
            is_background: (N,) bool; None for no backgrounds.

        Raises:
            TypeError: An argument's dtype is wrong.
            ValueError: An argument's shape or device is wrong.
        """
        is_background = _check_batch(features, labels, is_background)
        # Half precision keeps 3 digits of a similarity that is divided by 0.1 and exponentiated.
        with torch.autocast(features.device.type, enabled=False):
            return self._compute(at_least_float32(features), labels.long(), is_background)

    def _compute(self, features: Tensor, labels: Tensor, is_background: Tensor) -> Tensor:
        processes = world_size() if self.gather_distributed else 1
        if processes > 1:
            (others, other_labels, other_background), real, first = gather_rows(
                features, labels, is_background
            )
        else:
            others, other_labels, other_background, first = features, labels, is_background, 0
            real = torch.ones_like(is_background)

        rows, views = features.shape[:2]
        labels, background = _by_view(views, labels, is_background)
        other_labels, other_background, real = _by_view(views, other_labels, other_background, real)
        own = torch.arange(rows * views, device=features.device) + first * views
        other = torch.arange(len(real), device=features.device) != own.unsqueeze(1)
        contrasts = other & (real if self.background != "exclude" else real & ~other_background)
        # Backgrounds are positives of each other or of nothing, whatever their labels say.
        alike = torch.where(
            background.unsqueeze(1) | other_background,
            background.unsqueeze(1) & other_background,
            labels.unsqueeze(1) == other_labels,
        )
        positives = contrasts & alike
        if self.background != "class":
            positives &= ~background.unsqueeze(1)

        similarity = features.flatten(0, 1) @ others.flatten(0, 1).T / self.temperature
        # A finite minimum: an anchor without any contrast must not meet inf - inf.
        masked = similarity.masked_fill(~contrasts, torch.finfo(similarity.dtype).min)
        log_ratio = masked - masked.logsumexp(1, keepdim=True)
        n_positives = positives.sum(1)
        per_anchor = -torch.where(positives, log_ratio, 0.0).sum(1) / n_positives.clamp(min=1)
        anchors = (n_positives > 0).sum()
        if processes > 1:
            dist.all_reduce(anchors)
        loss = per_anchor.sum() * processes / anchors.clamp(min=1)
        if self.base_temperature is not None:
            loss = loss * (self.temperature / self.base_temperature)
        return loss

    def extra_repr(self) -> str:
        """Returns the options, for ``repr``."""
        names = ("temperature", "background", "base_temperature", "gather_distributed")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)


def _by_view(views: int, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.repeat_interleave(views) for tensor in tensors)


def _check_batch(features: Tensor, labels: Tensor, is_background: Tensor | None) -> Tensor:
    """Checks the arguments, and returns a mask in any case."""
    if not features.is_floating_point():
        raise TypeError(f"features must be floating point, but found {features.dtype}")
    if features.dim() != 3:
        raise ValueError(
            f"features must have the shape (N, views, D), but found {tuple(features.shape)}; "
            "features.unsqueeze(1) makes (N, D) one view of each image"
        )
    check_integers("labels", labels)
    if is_background is None:
        is_background = torch.zeros_like(labels, dtype=torch.bool)
    elif is_background.dtype != torch.bool:
        raise TypeError(f"is_background must be bool, but found {is_background.dtype}")
    for name, tensor in (("labels", labels), ("is_background", is_background)):
        if tensor.shape != features.shape[:1]:
            expected = f"one value per image, ({len(features)},)"
            raise ValueError(f"{name} must have {expected}, but found {tuple(tensor.shape)}")
        if tensor.device != features.device:
            devices = f"{features.device}, but found {tensor.device}"
            raise ValueError(f"{name} must be on the device of the features, {devices}")
    return is_background
