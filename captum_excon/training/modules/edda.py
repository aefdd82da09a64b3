"""EDDA, its random control, and plain cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_excon.losses import drop_loss
from captum_excon.models.classifier import Classifier
from captum_excon.training.data.views import ViewBatch
from captum_excon.training.methods.edda import EDDASettings
from captum_excon.training.modules.base import ExplainedModule
from captum_excon.training.modules.optimization import optimizer_with_schedule
from captum_excon.transforms import EDDA, EDDABatch
from captum_excon.transforms._undisturbed import Explainer


class CopiesBatch(NamedTuple):
    """What a training step of EDDA learns from.

    Attributes:
        images: (N, C, H, W) or, with their copies, (3N, C, H, W): images, kept, dropped.
        labels: (N,) int64.
        explained: The class that was explained, (N,) int64; None without copies.
        counts: For which images the copies count, (N,) bool; None without copies.
        statistics: What was counted while explaining.
    """

    images: Tensor
    labels: Tensor
    explained: Tensor | None = None
    counts: Tensor | None = None
    statistics: Mapping[str, Tensor] = {}


class EDDAModule(ExplainedModule):
    r"""Cross-entropy on images, and on copies that keep or drop what the prediction rests on.

    With the region S that is salient for the predicted class c of an image x with label y:

    .. math:: L = \mathrm{CE}(x, y) + \lambda_{keep}\, \mathrm{CE}(x_{keep}, y)
              + \lambda_{drop}\, L_{drop}(x_{drop}, c), \qquad
              x_{keep} = \mathrm{fill}(x, \bar S), \; x_{drop} = \mathrm{fill}(x, S)

    averaged over the images of the batch. For images whose map says nothing (constant or not
    finite), and with ``only_correct`` for those that are not classified right, the two terms on
    copies are zero. The three images go through the network in one batch, so that batch norm's
    running statistics are those of what it was trained on.

    The paper establishes occlusion by explanations of the model's prediction as augmentation, for
    any model and explainer, against none and against random occlusion. The losses on copies,
    their weights, region and fill here are ours.

    ``method="random-occlusion"`` is the control that claims about explanations need: regions of
    the same areas at random places, with the same targets, at the same cost. ``method="ce"`` is
    training without copies.

    Reference: *EDDA: Explanation-driven Data Augmentation to Improve Explanation Faithfulness*,
    https://arxiv.org/abs/2105.14162.

    Args:
        encoder: See `ExplainedModule`.
        num_classes: Number of classes C.
        method: "edda", "random-occlusion" or "ce".
        **arguments: Those of `ExplainedModule`, and settings of `EDDASettings`. A ``classifier``
            needs C + 1 outputs with ``drop_target="background"``.

    Raises:
        TypeError: Not exactly one of encoder and classifier is given.
        ValueError: Settings that are unknown, out of range, or that do not go together.

    Example:
        >>> classifier = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> module = EDDAModule(None, num_classes=5, classifier=classifier, layer="0").eval()
        >>> module(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 5])
    """

    settings_class = EDDASettings
    settings: EDDASettings

    def __init__(
        self,
        encoder: str | nn.Module | None,
        num_classes: int,
        *,
        method: str = "edda",
        **arguments: Any,
    ) -> None:
        super().__init__(encoder, num_classes, method=method, **arguments)
        if self.settings.cache is not None and self.settings.view != "standard":
            raise ValueError(
                "a cache needs the same image under an index each time: EDDA explains the random "
                'view1, so set view="standard", or do without a cache'
            )

    @property
    def outputs(self) -> int:
        """Outputs of the head: the classes, and perhaps a background.

        The control has the same head, so that it differs in the occlusions alone.
        """
        background = self.settings.drop_target == "background" and self.method != "ce"
        return self.num_classes + background

    @property
    def explains(self) -> bool:
        """Whether this epoch's training images are explained."""
        return self.method != "ce" and self.round >= self.settings.start_epoch

    def make_augment(self, model: Classifier, explainer: Explainer, **options: Any) -> EDDA:
        """Builds the copies, by the network that explains."""
        settings = self.settings
        return EDDA(
            model,
            explainer,
            keep_ratio=settings.keep_ratio,
            threshold=settings.threshold if settings.keep_ratio is None else None,
            target=settings.target,
            placement=settings.placement if self.method == "random-occlusion" else None,
            **options,
        )

    def configure_optimizers(self) -> Any:
        """One optimizer, whose schedule steps with it."""
        optimizer, schedule = optimizer_with_schedule(
            [{"params": self.network.parameters()}], self.settings, *self.scheduled_steps()
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Adds copies to a training batch: images (N or 3N, C, H, W), the N themselves first."""
        if not self.trainer.training:
            return batch
        given: ViewBatch = batch
        images, labels = self.normalize(given.view(self.settings.view)), given.labels
        if not self.explains:
            return CopiesBatch(images, labels)
        made: EDDABatch = self.explained(given, images, labels)
        counts = ~made.constant
        if self.settings.only_correct:
            counts = counts & made.correct
        copies = torch.cat([images, made.keep, made.drop])
        return CopiesBatch(copies, labels, made.explained, counts, made.statistics)

    def training_step(self, batch: CopiesBatch, batch_idx: int) -> Tensor:
        """Returns the loss of a batch."""
        labels, explained, counts = batch.labels, batch.explained, batch.counts
        settings = self.settings
        logits = self.network.head(self.encode(batch.images)).float()
        self._check_outputs(logits)
        if explained is None or counts is None:
            loss = F.cross_entropy(logits, labels)
            self.watch(loss, {}, len(labels), self.guessing_loss)
            return loss
        original, keep, drop = logits.chunk(3)
        kept = F.cross_entropy(keep, labels, reduction="none")
        dropped = drop_loss(
            settings.drop_target, drop, explained, logits=original, margin=settings.margin
        )
        copies = settings.keep_weight * kept + settings.drop_weight * dropped
        # Selected, not multiplied: what does not count may be infinite.
        copies = torch.where(counts, copies, 0.0)
        loss = F.cross_entropy(original, labels) + copies.mean()
        terms = 1 + settings.keep_weight + settings.drop_weight
        self.watch(loss, batch.statistics, len(labels), terms * self.guessing_loss)
        return loss

    def _check_outputs(self, logits: Tensor) -> None:
        if logits.shape[1] != self.outputs:
            raise ValueError(
                f"the classifier has {logits.shape[1]} outputs, where {self.outputs} are needed "
                f'(num_classes is {self.num_classes}; drop_target="background" needs one '
                "more)"
            )
