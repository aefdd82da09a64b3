"""What all training modules share: network, explainer, optimisation, guards and evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from captum.attr import Attribution
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics.classification import MulticlassAccuracy

from captum_excon._provenance import weights_hash
from captum_excon.errors import ExplainerError
from captum_excon.models.classifier import Classifier, Normalize
from captum_excon.training.data.sampling import derive_seed
from captum_excon.training.data.views import ViewBatch
from captum_excon.training.modules.cache import CachedExplainer, ExplanationCache
from captum_excon.training.modules.checks import FiniteLoss, Stopwatch
from captum_excon.training.modules.explainers import ExplainerOn, build_explainer, takes_layer
from captum_excon.training.modules.optimization import clip_groups
from captum_excon.training.modules.options import (
    ExplainerFactory,
    Refresh,
    check_options,
    first_teacher,
    not_plain,
    submodule,
)
from captum_excon.transforms._base import ExplainingModule
from captum_excon.transforms._fill import Fill
from captum_excon.transforms._undisturbed import Explainer, Mode


class ExplainedModule(L.LightningModule):
    r"""A classifier that is trained with explanations of itself.

    ``module(images)`` maps pixels in [0, 1], (N, C, H, W), to logits (N, num_classes);
    normalisation is inside. `explainable` maps normalised images to the same logits.

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
        network: Encoder and head.
        given: What the encoder was made from: a name, or a module. One that is compiled is used
            in training and validation, while explanations are made on the plain one.
        mean: Of each channel, for normalisation.
        std: Deviation of each channel.
        explainer: A name of `explainers.explainer_methods`, or a function that takes
            `explainable` and returns an explainer on it: a Captum attribution, or a function of
            images and classes that returns maps.
        layer: The layer of a named layer method, as its name in the encoder ("layer4.1.conv2");
            None for the deepest.
        threshold: Salient is what lies strictly above it in maps scaled to [0, 1].
        keep_ratio: If given, replaces the threshold: the salient share of pixels.
        fill: What occluded pixels become, in normalised space: see `ExplanationMask`.
        explain_mode: The network's mode for explaining: "eval", or "train" as in ExCon's official
            code, where a map depends on the other images of the batch.
        start_epoch: Rounds of plain training before explanations start. A round is an epoch, or a
            pair of them where encoder and classifier alternate.
        refresh: Which weights explain: "step" for those of the current step; n for a copy, made
            every n rounds; "teacher" for a frozen copy made when explanations start.
        teacher: With ``refresh="teacher"``, the network that explains in place of the copy, from
            normalised images to logits.
        cache: A folder for explanations, see `ExplanationCache`; None for no cache. It needs a
            copy or a teacher, explaining in evaluation mode, and views that are not random.
        lr: Learning rate at the end of the warm-up, followed by a half cosine to 0.
        momentum: Of SGD.
        weight_decay: Of SGD.
        warmup_epochs: Epochs (of each optimizer) over which the learning rate rises linearly.
        gradient_clip: Largest norm of the gradient, for encoder and classifier each; None for
            no clipping. Lightning's own ``gradient_clip_val`` works with automatic optimisation
            only and is refused by it for ExCon.
        compile: Compile the encoder with ``torch.compile``; True, or the name of a backend.
        seed: Of model randomness, noise and random places.

    Raises:
        ValueError: Options out of range, or that do not go together.
    """

    def __init__(
        self,
        network: Classifier,
        given: str | nn.Module,
        *,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
        explainer: str | ExplainerFactory = "layer-grad-cam",
        layer: str | None = None,
        threshold: float | None = None,
        keep_ratio: float | None = None,
        fill: Fill = 0.0,
        explain_mode: Mode = "eval",
        start_epoch: int = 0,
        refresh: Refresh = "step",
        teacher: nn.Module | None = None,
        cache: str | None = None,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        warmup_epochs: int = 0,
        gradient_clip: float | None = None,
        compile: bool | str = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_options(
            refresh, teacher, explain_mode, cache, start_epoch, warmup_epochs, gradient_clip
        )
        self.save_hyperparameters(ignore=not_plain(given, explainer, fill))
        self.normalize = Normalize(mean, std)
        self.network = network
        # A tuple hides a compiled wrapper from nn.Module: its parameters are the network's.
        self._encode: tuple[Any] = (given if isinstance(given, nn.Module) else network.encoder,)
        self._compile = compile
        self.teacher = first_teacher(network, teacher, refresh)
        self._own_teacher = teacher is not None
        self.explainer, self.layer = explainer, layer
        self.threshold, self.keep_ratio, self.fill = threshold, keep_ratio, fill
        self.explain_mode: Mode = explain_mode
        self.start_epoch, self.refresh, self.cache = start_epoch, refresh, cache
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.warmup_epochs, self.gradient_clip = warmup_epochs, gradient_clip
        self.seed = seed
        self.accuracies = nn.ModuleDict(
            {
                stage: MulticlassAccuracy(network.num_classes, average="micro", validate_args=False)
                for stage in ("val", "test")
            }
        )
        self._augment: ExplainingModule | None = None
        self._cached: CachedExplainer | None = None
        self._finite = FiniteLoss()
        self._watch = Stopwatch(torch.device("cpu"))
        if isinstance(explainer, str):
            self.make_explainer()  # so that a wrong name fails now and not after the warm-up

    # --- the network ---

    @property
    def explainable(self) -> Classifier:
        """The plain network, from normalised images (N, C, H, W) to logits (N, num_classes)."""
        return self.network

    def forward(self, images: Tensor) -> Tensor:
        """Maps pixels in [0, 1], (N, C, H, W), to logits (N, num_classes)."""
        logits: Tensor = self.network.head(self.encode(self.normalize(images)))
        return logits[:, : self.network.num_classes]

    def encode(self, images: Tensor) -> Tensor:
        """Maps normalised images to features, through compiled code if there is any."""
        features: Tensor = self._encode[0](images)
        return features

    def make_explainer(self, name: str | None = None, model: Classifier | None = None) -> Any:
        """Builds an explainer on the network.

        Args:
            name: One of `explainers.explainer_methods`; by default the explainer of the training.
            model: A copy of `explainable` to explain instead.

        Returns:
            A Captum attribution for a name, on the layer of the training if it explains a layer;
            for an explainer that was given as a function, what that returns.
        """
        model = model or self.network
        chosen = self.explainer if name is None else name
        if not isinstance(chosen, str):
            return chosen(model)
        layer = None
        if self.layer is not None and (takes_layer(chosen) or name is None):
            layer = submodule(model.encoder, self.layer)
        return build_explainer(chosen, model, layer)

    # --- explanations ---

    @property
    def explainer_name(self) -> str:
        """The explainer of the training, for messages and manifests."""
        if isinstance(self.explainer, str):
            return self.explainer
        return str(getattr(self.explainer, "__qualname__", type(self.explainer).__qualname__))

    @property
    def explains(self) -> bool:
        """Whether this epoch's training images are explained."""
        raise NotImplementedError

    @property
    def round(self) -> int:
        """The number of rounds before this epoch."""
        return int(self.current_epoch)

    def make_augment(
        self, model: Classifier, explainer: Explainer, **options: Any
    ) -> ExplainingModule:
        """Builds what turns batches and their explanations into training images.

        Args:
            model: The network that explains.
            explainer: The explainer on it.
            **options: Options that all `ExplainingModule` take.
        """
        raise NotImplementedError

    def explained(self, batch: ViewBatch, *args: Tensor) -> Any:
        """Calls the augmentation for a batch, on the clock.

        Raises:
            ExplainerError: The explainer, or its network, raised an error.
        """
        if self._augment is None:
            raise RuntimeError("no explanations are due in this epoch")
        if self._cached is not None:
            self._cached.indices = batch.indices
        with self._watch.measure():
            try:
                return self._augment(*args)
            except Exception as error:
                raise ExplainerError(
                    f"the explainer {self.explainer_name} failed in epoch {self.current_epoch} "
                    f"({type(error).__name__}: {error}). Checkpoints written before are intact."
                ) from error

    def _prepare_explanations(self) -> None:
        model = self._explaining_network()
        explainer = self.make_explainer(model=model)
        if not isinstance(explainer, Attribution):
            explainer = ExplainerOn(explainer, model)
        self._cached = None
        if self.cache is not None:
            self._cached = CachedExplainer(explainer, model, self._open_cache(model))
        seed = derive_seed(self.seed, self.current_epoch, self.global_rank, 1)
        half = str(self.trainer.precision) == "bf16-mixed"
        self._augment = self.make_augment(
            model,
            explainer if self._cached is None else self._cached,
            fill=self.fill,
            explain_mode=self.explain_mode,
            autocast_dtype=torch.bfloat16 if half else None,
            generator=torch.Generator(self.device).manual_seed(seed),
        )

    def _explaining_network(self) -> Classifier:
        if self.teacher is None:
            return self.network
        since = self.round - self.start_epoch
        due = since % self.refresh == 0 if isinstance(self.refresh, int) else since == 0
        if due and not self._own_teacher:
            self.teacher.load_state_dict(self.network.state_dict())
        return self.teacher

    def _open_cache(self, model: Classifier) -> ExplanationCache:
        name = self.explainer_name
        method = name if self.layer is None else f"{name} at {self.layer}"
        loader: Any = self.trainer.train_dataloader
        found = (str(self.cache), method, weights_hash(model), len(loader.dataset))
        if self.trainer.is_global_zero:
            ExplanationCache(*found)  # removes what is stale, before others look
        self.trainer.strategy.barrier()
        return ExplanationCache(*found)

    # --- hooks of Lightning ---

    def setup(self, stage: str) -> None:
        """Compiles the encoder, if that is asked for."""
        if self._compile and self._encode[0] is self.network.encoder:
            backend = self._compile if isinstance(self._compile, str) else "inductor"
            self._encode = (torch.compile(self.network.encoder, backend=backend),)

    def on_train_epoch_start(self) -> None:
        """Seeds the epoch and prepares its explanations."""
        torch.manual_seed(derive_seed(self.seed, self.current_epoch, self.global_rank))
        self._watch = Stopwatch(self.device)
        self._augment = None
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
        self.log("train/explain_seconds", self._watch.seconds(), sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Notes what explaining needs beside the hyper-parameters; refuses broken weights."""
        self._check_loss()
        data: Any = getattr(self._trainer, "datamodule", None)
        if hasattr(data, "class_names"):
            checkpoint["class_names"] = list(data.class_names)
            checkpoint["image_size"] = data.image_size

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the number of the epoch before the first batches are asked for.

        The learning-rate schedule asks for the loader, whose workers at once begin with the epoch
        that the trainer knows, which Lightning restores later only.
        """
        if self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING:
            self._trainer.fit_loop.load_state_dict(checkpoint["loops"]["fit_loop"])

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clips gradients; mixed precision has unscaled them here."""
        if self.gradient_clip is not None:
            clip_groups(optimizer, self.gradient_clip)

    def _check_loss(self) -> None:
        self._finite.check(lambda flag: self.trainer.strategy.reduce(flag, reduce_op="sum"))

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

    def watch(
        self,
        loss: Tensor,
        statistics: Mapping[str, Tensor],
        batch_size: int,
        name: str = "train/loss",
    ) -> None:
        """Logs a step without waiting for it: the loss, and what was counted while explaining."""
        self._finite.watch(loss)
        options: dict[str, Any] = {
            "on_step": False,
            "on_epoch": True,
            "batch_size": batch_size,
            "sync_dist": True,
        }
        self.log(name, loss.detach(), prog_bar=True, **options)
        for key, value in statistics.items():
            reduce_fx = "sum" if key in ("backgrounds", "constant_maps") else "mean"
            self.log(f"train/{key}", value.float(), reduce_fx=reduce_fx, **options)

    def scheduled_epochs(self) -> tuple[int, int]:
        """Returns the epochs of this run, and the optimisation steps of each.

        Raises:
            ValueError: The trainer does not say when it ends.
        """
        epochs, steps = self.trainer.max_epochs, self.trainer.estimated_stepping_batches
        if epochs is None or epochs < 1 or steps == float("inf"):
            raise ValueError(
                "the learning rate follows a cosine to the end of the training: give the Trainer "
                "a max_epochs"
            )
        return epochs, max(1, round(steps / epochs))
