"""What all training modules share: network, explanations, optimisation, checks and evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, cast

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics.classification import MulticlassAccuracy

from captum_excon._settings import validated
from captum_excon.errors import ExplainerError
from captum_excon.layers import unwrap
from captum_excon.models.classifier import Classifier, Normalize
from captum_excon.models.encoders import build_encoder
from captum_excon.training.data.sampling import derive_seed
from captum_excon.training.data.views import ViewBatch
from captum_excon.training.methods import METHODS, find_method
from captum_excon.training.methods._settings import ModuleSettings
from captum_excon.training.modules.explanations import Explanations
from captum_excon.training.modules.monitoring import LossWatch
from captum_excon.transforms._base import ExplainingModule
from captum_excon.transforms._undisturbed import Explainer


class ExplainedModule(L.LightningModule):
    r"""A classifier that is trained with explanations of itself.

    ``module(images)`` maps pixels in [0, 1], (N, C, H, W), to logits (N, num_classes).

    Explanations are computed in ``on_after_batch_transfer``, outside the distributed wrapper, the
    compiled graph and the training step's autocast region. They leave modes, buffers, gradients
    and the random state as they were. With ``precision="bf16-mixed"`` they run in bfloat16, else
    in the weights' precision: half precision would need a loss scaler for their gradients.

    At the start of each epoch torch's global generator is seeded from (``seed``, epoch, rank), so
    that dropout and the like in a resumed run are those of an uninterrupted one.

    Logged, each over an epoch: ``train/loss``, ``train/acceptance_rate`` and ``train/kept_area``
    (means), ``train/backgrounds`` and ``train/constant_maps`` (numbers of images),
    ``train/explain_seconds`` (for each process), ``val/loss`` and ``val/accuracy``.

    Args:
        encoder: A name for `build_encoder`, or a module with an attribute ``feature_dim``, from
            normalised images (N, C, H, W) to features (N, feature_dim); a linear head is put on
            it. One that is compiled is used in training and validation, while explanations are
            made on the plain one. None if there is a ``classifier``.
        num_classes: Number of classes C.
        method: The name of a method whose settings are `settings_class`.
        classifier: In place of an encoder, where the method has no projection: any network from
            normalised images to logits (N, C).
        encoder_args: Further arguments of `build_encoder`.
        mean: Mean of each channel, for normalisation.
        std: Standard deviation of each channel.
        teacher: With ``refresh="teacher"``, the network that explains in place of the copy, from
            normalised images to logits.
        **options: Settings of `settings_class`; the method's own defaults are filled in.

    Raises:
        TypeError: Not exactly one of encoder and classifier is given.
        ValueError: The method is another class's, or settings are unknown, out of range, or do
            not go together.
    """

    settings_class: ClassVar[type[ModuleSettings]] = ModuleSettings
    settings: ModuleSettings

    def __init__(
        self,
        encoder: str | nn.Module | None,
        num_classes: int,
        *,
        method: str,
        classifier: nn.Module | None = None,
        encoder_args: dict[str, Any] | None = None,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
        teacher: nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        found = find_method(method)
        if found.settings is not self.settings_class:
            own = [m.name for m in METHODS.values() if m.settings is self.settings_class]
            raise ValueError(
                f"method must be {' or '.join(map(repr, own))}, but found {method!r}; "
                "build_module knows the others"
            )
        self.method, self.num_classes = method, num_classes
        self.settings = settings = validated(found.settings, found.with_defaults(options))
        given = encoder if classifier is None else classifier
        if given is None or (encoder is not None and classifier is not None):
            raise TypeError("give either an encoder or a classifier")
        arguments = {
            **{"method": method, "encoder": encoder, "encoder_args": encoder_args},
            **{"num_classes": num_classes, "mean": mean, "std": std},
            **settings.model_dump(),
        }
        # Modules and functions would keep a checkpoint from loading with weights_only=True.
        self.save_hyperparameters({n: v for n, v in arguments.items() if not callable(v)})
        self.normalize = Normalize(mean, std)
        plain = unwrap(given) if isinstance(given, nn.Module) else given
        if encoder is None:
            self.network = Classifier(cast(nn.Module, plain), nn.Identity(), num_classes)
        else:
            built: Any = build_encoder(plain, **(encoder_args or {}))
            head = nn.Linear(int(built.feature_dim), self.outputs)
            self.network = Classifier(built, head, num_classes)
        # A tuple hides a compiled wrapper from nn.Module: its parameters are the network's.
        self._encode: tuple[Any] = (
            given if isinstance(given, nn.Module) else self.network.encoder,
        )
        self.explanations = Explanations(self.network, settings, teacher)
        self.teacher = self.explanations.teacher
        accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.accuracies = nn.ModuleDict({"val": accuracy, "test": accuracy.clone()})
        self._losses = LossWatch()

    # --- the network ---

    @property
    def outputs(self) -> int:
        """Outputs of the head, the classes first."""
        return self.num_classes

    @property
    def explainable(self) -> Classifier:
        """The plain network, from normalised images (N, C, H, W) to logits (N, num_classes)."""
        return self.network

    def forward(self, images: Tensor) -> Tensor:
        """Maps pixels in [0, 1], (N, C, H, W), to logits (N, num_classes)."""
        logits: Tensor = self.network.head(self.encode(self.normalize(images)))
        return logits[:, : self.num_classes]

    def encode(self, images: Tensor) -> Tensor:
        """Maps normalised images to features, through compiled code if there is any."""
        features: Tensor = self._encode[0](images)
        return features

    def make_explainer(self, name: str | None = None, model: Classifier | None = None) -> Any:
        """Builds an explainer on the network, or on a copy of it.

        ``name`` is as for `explainers.find_explainer`, by default that of the training. Returns a
        Captum attribution, on the layer of the training if it explains a layer; for an explainer
        that was given as a function, what that returns.
        """
        return self.explanations.explainer(name, model)

    # --- explanations ---

    @property
    def explains(self) -> bool:
        """Whether this epoch's training images are explained."""
        raise NotImplementedError

    @property
    def epochs_per_round(self) -> int:
        """Epochs of Lightning that make one of ``epochs``: two where parts take turns."""
        return 1

    @property
    def round(self) -> int:
        """The number of rounds before this epoch."""
        return int(self.current_epoch) // self.epochs_per_round

    def make_augment(
        self, model: Classifier, explainer: Explainer, **options: Any
    ) -> ExplainingModule:
        """Builds what turns batches into training images, by the network that explains.

        ``options`` are those that all `ExplainingModule` take.
        """
        raise NotImplementedError

    def explained(self, batch: ViewBatch, *args: Tensor) -> Any:
        """Calls the augmentation for a batch.

        Raises:
            ExplainerError: The explainer, or its network, raised an error.
        """
        try:
            return self.explanations.augment(batch.indices, *args)
        except Exception as error:
            raise ExplainerError(
                f"the explainer {self.explanations.name} failed in epoch {self.current_epoch} "
                f"({type(error).__name__}: {error}). Checkpoints written before are intact."
            ) from error

    def _prepare_explanations(self) -> None:
        seed = derive_seed(self.settings.seed, self.current_epoch, self.global_rank, 1)
        half = torch.bfloat16 if str(self.trainer.precision) == "bf16-mixed" else None
        since = self.round - self.settings.start_epoch
        model, explainer = self.explanations.prepare(since, self.trainer, half)
        self.explanations.augmentation = self.make_augment(
            model,
            explainer,
            fill=self.settings.fill,
            explain_mode=self.settings.explain_mode,
            autocast_dtype=half,
            generator=torch.Generator(self.device).manual_seed(seed),
        )

    # --- hooks of Lightning ---

    def setup(self, stage: str) -> None:
        """Compiles the encoder, if that is asked for."""
        wanted = self.settings.compile
        if wanted and self._encode[0] is self.network.encoder:
            backend = wanted if isinstance(wanted, str) else "inductor"
            self._encode = (torch.compile(self.network.encoder, backend=backend),)

    def on_train_epoch_start(self) -> None:
        """Seeds the epoch and prepares its explanations."""
        torch.manual_seed(derive_seed(self.settings.seed, self.current_epoch, self.global_rank))
        self.explanations.begin_epoch(self.device)
        if self.explains:
            self._prepare_explanations()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Checks the loss where Lightning logs, since that waits for the device anyway."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (batch_idx + 1) % every == 0:
            self._check_loss()

    def on_train_epoch_end(self) -> None:
        """Checks the loss before anything is written, and logs the time spent explaining."""
        self._check_loss()
        self._losses.end_epoch()
        self.log("train/explain_seconds", self.explanations.seconds, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Warns of a validation loss far above that of guessing."""
        loss = self.trainer.callback_metrics.get("val/loss")
        if loss is not None and not self.trainer.sanity_checking:
            self._losses.end_validation(float(loss), self.guessing_loss)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Notes what explaining needs beside the hyper-parameters; refuses broken weights."""
        self._check_loss()
        data: Any = getattr(self._trainer, "datamodule", None)
        if hasattr(data, "class_names"):
            checkpoint["class_names"] = list(data.class_names)
            checkpoint["image_size"] = data.image_size

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the number of the epoch before the first batches are asked for.

        The learning-rate schedule asks for them, which is before Lightning restores the epoch.
        """
        if self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING:
            self._trainer.fit_loop.load_state_dict(checkpoint["loops"]["fit_loop"])

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clips the gradients of each group; mixed precision has unscaled them here."""
        if self.settings.gradient_clip is not None:
            for group in optimizer.param_groups:
                nn.utils.clip_grad_norm_(group["params"], self.settings.gradient_clip)

    def _check_loss(self) -> None:
        self._losses.check(lambda flag: self.trainer.strategy.reduce(flag, reduce_op="sum"))

    def validation_step(self, batch: ViewBatch, batch_idx: int) -> None:
        """Logs val/loss and val/accuracy."""
        self._evaluate("val", batch)

    def test_step(self, batch: ViewBatch, batch_idx: int) -> None:
        """Logs test/loss and test/accuracy."""
        self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: ViewBatch) -> None:
        logits, labels = self(batch.standard), batch.labels
        loss = F.cross_entropy(logits.float(), labels)
        accuracy: Any = self.accuracies[stage]
        accuracy.update(logits, labels)
        self.log(f"{stage}/loss", loss, batch_size=len(labels), sync_dist=True)
        self.log(f"{stage}/accuracy", accuracy, batch_size=len(labels), prog_bar=True)

    # --- for the training steps ---

    @property
    def guessing_loss(self) -> float:
        """The cross-entropy of equal probabilities."""
        return math.log(max(2, self.num_classes))

    def watch(
        self,
        loss: Tensor,
        statistics: Mapping[str, Tensor],
        batch_size: int,
        guess: float,
        name: str = "train/loss",
    ) -> None:
        """Logs a step without waiting for it.

        ``statistics`` is what was counted while explaining; ``guess`` is about the loss of a
        network that knows nothing.
        """
        self._losses.watch(name, loss, guess)
        log = partial(self.log, on_step=False, on_epoch=True, batch_size=batch_size, sync_dist=True)
        log(name, loss.detach(), prog_bar=True)
        for key, value in statistics.items():
            reduce_fx = "sum" if key in ("backgrounds", "constant_maps") else "mean"
            log(f"train/{key}", value.float(), reduce_fx=reduce_fx)

    def scheduled_steps(self) -> tuple[int, int]:
        """Returns the optimisation steps of the whole training, and those of an epoch.

        Raises:
            ValueError: The trainer does not say when it ends.
        """
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ValueError(
                "the learning rate follows a cosine to the end of the training: give the Trainer "
                "max_epochs or max_steps"
            )
        self.trainer.fit_loop.setup_data()  # with max_steps alone nothing has counted the batches
        batches = self.trainer.num_training_batches / self.trainer.accumulate_grad_batches
        return int(steps), max(1, math.ceil(min(batches, steps)))
