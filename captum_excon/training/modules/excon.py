"""ExCon, ExConB and SupCon: contrastive training of an encoder, and a linear classifier on it."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from captum_excon.losses import ExConLoss
from captum_excon.models.classifier import Classifier, ProjectionHead
from captum_excon.training.data.views import ViewBatch
from captum_excon.training.methods.contrastive import ContrastiveSettings
from captum_excon.training.modules.base import ExplainedModule
from captum_excon.training.modules.optimization import idle, optimizer_with_schedule
from captum_excon.transforms import ExConBatch, ExConViews
from captum_excon.transforms._undisturbed import Explainer


class ExConModule(ExplainedModule):
    r"""Supervised contrastive training on views that explanations have masked.

    The encoder and a projection head learn from `ExConLoss` on the two views of `ExConViews`; a
    linear classifier learns from the cross-entropy on detached features of a random view, and
    explains. As in the official code these alternate, an epoch each: of Lightning's epochs 2k and
    2k + 1, the first trains encoder and projection, the second the classifier, with the encoder
    frozen in evaluation mode. With ``classifier_schedule="step"`` [ours] both learn in every step,
    the classifier from the features of the encoder's own pass.

    Logged beside what `ExplainedModule` names: ``train/classifier_loss``.

    Before round ``start_epoch``, and always with ``method="supcon"``, the views are two random
    ones.

    Ours, not the official code's: explaining in evaluation mode, the back-up view for constant
    maps, a learning-rate schedule for the classifier (that of the encoder), defaults.

    Reference: Zhang et al., *ExCon: Explanation-driven Supervised Contrastive Learning for Image
    Classification*, https://arxiv.org/abs/2111.14271.

    Args:
        encoder: See `ExplainedModule`.
        num_classes: Number of classes.
        method: "excon"; "exconb", which contrasts rejected masked images as backgrounds; or
            "supcon".
        **arguments: Those of `ExplainedModule`, and settings of `ContrastiveSettings`.

    Raises:
        TypeError: A classifier is given, which has no features to project.
        ValueError: Settings that are unknown, out of range, or that do not go together.

    Example:
        >>> encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> encoder.feature_dim = 4
        >>> module = ExConModule(encoder, num_classes=5, layer="0", start_epoch=2).eval()
        >>> module(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 5])
    """

    settings_class = ContrastiveSettings
    settings: ContrastiveSettings

    def __init__(
        self, encoder: str | nn.Module, num_classes: int, *, method: str = "excon", **arguments: Any
    ) -> None:
        if arguments.get("classifier") is not None:
            raise TypeError("ExConModule needs an encoder, whose features it projects")
        super().__init__(encoder, num_classes, method=method, **arguments)
        settings = self.settings
        self.alternates = settings.classifier_schedule == "alternate"
        features = cast(nn.Linear, self.network.head).in_features
        self.projection = ProjectionHead(
            features, settings.projection_hidden, settings.projection_dim
        )
        # SupCon and ExCon have no backgrounds.
        self.loss = ExConLoss(
            settings.temperature,
            settings.background if method == "exconb" else "exclude",
            settings.base_temperature,
            settings.gather_distributed,
        )
        self.automatic_optimization = False
        self._modes: list[tuple[nn.Module, bool]] = []

    @property
    def epochs_per_round(self) -> int:
        """Two where encoder and classifier take turns."""
        return 2 if self.alternates else 1

    @property
    def trains_encoder(self) -> bool:
        """Whether this epoch trains encoder and projection."""
        return not self.alternates or self.current_epoch % 2 == 0

    @property
    def trains_classifier(self) -> bool:
        """Whether this epoch trains the linear classifier."""
        return not self.alternates or self.current_epoch % 2 == 1

    @property
    def explains(self) -> bool:
        """Whether this epoch's training images are explained."""
        due = self.round >= self.settings.start_epoch
        return self.method != "supcon" and self.trains_encoder and due

    def make_augment(self, model: Classifier, explainer: Explainer, **options: Any) -> ExConViews:
        """Builds the views. Whatever explains, it is the current network that accepts."""
        return ExConViews(
            self.network,
            explainer,
            threshold=self.settings.threshold,
            keep_ratio=self.settings.keep_ratio,
            background=self.method == "exconb",
            **options,
        )

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[LRScheduler]]:
        """An optimizer for each of encoder and classifier; one for both if they step as one."""
        settings = self.settings
        steps, epoch = self.scheduled_steps()
        encoder: dict[str, Any] = {
            "params": [*self.network.encoder.parameters(), *self.projection.parameters()]
        }
        classifier: dict[str, Any] = {
            "params": self.network.head.parameters(),
            "lr": settings.classifier_lr or settings.rate,
        }
        # One optimizer for both in "step": a gradient scaler cannot serve two in one backward pass.
        jobs = [([encoder, classifier], steps)]
        if self.alternates:
            pairs, rest = divmod(steps, 2 * epoch)
            of_encoder = pairs * epoch + min(rest, epoch)
            jobs = [([encoder], of_encoder), ([classifier], steps - of_encoder)]
        built = [optimizer_with_schedule(part, settings, count, epoch) for part, count in jobs]
        return [optimizer for optimizer, _ in built], [schedule for _, schedule in built]

    def on_train_epoch_start(self) -> None:
        """Freezes the encoder in evaluation mode where only the classifier learns."""
        super().on_train_epoch_start()
        if not self.trains_encoder:
            self._modes = [(part, part.training) for part in self.network.encoder.modules()]
            self.network.encoder.eval()

    def on_train_epoch_end(self) -> None:
        """Gives the encoder's parts the modes they had."""
        super().on_train_epoch_end()
        for part, training in self._modes:
            part.training = training
        self._modes = []

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Turns a training batch into the views to learn from, (M, 2 or 1, C, H, W)."""
        if not self.trainer.training:
            return batch
        given: ViewBatch = batch
        view1 = self.normalize(given.view("view1"))
        if not self.trains_encoder:
            return _as_they_are(given.labels, view1)
        view2 = self.normalize(given.view("view2"))
        if not self.explains:
            return _as_they_are(given.labels, view2, view1)
        standard = self.normalize(given.standard)
        return self.explained(given, standard, view1, view2, given.labels)

    def training_step(self, batch: ExConBatch, batch_idx: int) -> None:
        """Makes a step of the encoder, of the classifier, or of both."""
        loss = self._encoder_loss(batch) if self.trains_encoder else self._classifier_loss(batch)
        optimizers: Any = self.optimizers()
        schedules: Any = self.lr_schedulers()
        if self.alternates:
            active = 0 if self.trains_encoder else 1
            optimizer, schedule = optimizers[active], schedules[active]
            if self.trainer.world_size > 1:
                others = optimizers[1 - active].param_groups
                loss = loss + idle(p for group in others for p in group["params"])
        else:
            optimizer, schedule = optimizers, schedules
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        schedule.step()

    def _encoder_loss(self, batch: ExConBatch) -> Tensor:
        size = len(batch.accepted)
        features = self.encode(batch.views.flatten(0, 1))
        projections = self.projection(features).view(-1, 2, self.projection.output.out_features)
        loss: Tensor = self.loss(projections, batch.labels, batch.background)
        base = self.settings.base_temperature or self.settings.temperature
        guess = self.settings.temperature / base * math.log(max(2, 2 * size - 1))
        self.watch(loss, batch.statistics, size, guess)
        if self.trains_classifier:
            # Every other row is a random view; backgrounds follow those of the images.
            random = features.detach()[1 : 2 * size : 2]
            loss = loss + self._cross_entropy(random, batch.labels[:size])
        return loss

    def _classifier_loss(self, batch: ExConBatch) -> Tensor:
        with torch.no_grad():
            features = self.encode(batch.views.flatten(0, 1))
        return self._cross_entropy(features, batch.labels)

    def _cross_entropy(self, features: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(self.network.head(features).float(), labels)
        self.watch(loss, {}, len(labels), self.guessing_loss, "train/classifier_loss")
        return loss


def _as_they_are(labels: Tensor, *views: Tensor) -> ExConBatch:
    """A batch without explanations."""
    none = torch.zeros_like(labels, dtype=torch.bool)
    return ExConBatch(torch.stack(views, 1), labels, none, none, {})
