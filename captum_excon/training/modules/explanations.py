"""The explanations of a training run: whose they are, when they are renewed, what they cost."""

from __future__ import annotations

import copy
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from captum_excon._messages import close_names
from captum_excon._provenance import versions, weights_hash
from captum_excon.layers import unwrap
from captum_excon.models.classifier import Classifier
from captum_excon.training.methods._settings import ExplanationSettings
from captum_excon.training.modules.cache import CachedExplainer, ExplanationCache
from captum_excon.training.modules.explainers import (
    WatchedExplainer,
    build_explainer,
    find_explainer,
)
from captum_excon.training.modules.monitoring import Stopwatch
from captum_excon.transforms._base import ExplainingModule
from captum_excon.transforms._undisturbed import Explainer


class Explanations:
    """Owns the explainer, the teacher, the cache and the stopwatch of a training module.

    A given teacher explains, with ``refresh="teacher"``, in place of a copy of the network.

    Raises:
        ValueError: Settings that do not go together, or an unknown explainer or layer.
    """

    def __init__(
        self, network: Classifier, settings: ExplanationSettings, teacher: nn.Module | None = None
    ) -> None:
        self.settings = settings
        self._network = network
        self._given = teacher is not None
        self.teacher = self._first_teacher(teacher)
        self._check_cache()
        self.begin_epoch(torch.device("cpu"))
        if isinstance(settings.explainer, str):
            self.explainer()  # so that a wrong name fails now and not after the warm-up

    @property
    def name(self) -> str:
        """The explainer's name, for messages and manifests."""
        chosen = self.settings.explainer
        if isinstance(chosen, str):
            return chosen
        return str(getattr(chosen, "__qualname__", type(chosen).__qualname__))

    @property
    def seconds(self) -> float:
        """The time spent on explanations in this epoch; waits for the device."""
        return self._watch.seconds()

    def explainer(self, name: str | None = None, model: Classifier | None = None) -> Any:
        """Builds an explainer, by default that of the training, on a network or the trained one."""
        model = model or self._network
        chosen = self.settings.explainer if name is None else name
        if not isinstance(chosen, str):
            return chosen(model)
        layer = None
        if self.settings.layer is not None and (
            name is None or find_explainer(chosen).layer_argument
        ):
            layer = _submodule(model.encoder, self.settings.layer)
        return build_explainer(chosen, model, layer)

    def begin_epoch(self, device: torch.device) -> None:
        """Starts the clock, and forgets what explained in the epoch before."""
        self._watch = Stopwatch(device)
        self.augmentation: ExplainingModule | None = None
        self._cached: CachedExplainer | None = None

    def prepare(
        self, since: int, trainer: L.Trainer, precision: torch.dtype | None
    ) -> tuple[Classifier, Explainer]:
        """Returns the network that explains in this epoch, and the explainer on it.

        ``since`` is the number of rounds since the first explanation, ``precision`` that in which
        the network is explained, None for that of its weights.
        """
        model = self._explaining_network(since)
        watched = WatchedExplainer(self.explainer(model=model), model, self.name)
        if self.settings.cache is None:
            return model, watched
        cache = self._open_cache(self.settings.cache, model, trainer, precision)
        self._cached = CachedExplainer(watched, model, cache)
        return model, self._cached

    def augment(self, indices: Tensor, *batch: Tensor) -> Any:
        """Explains and augments a batch of images with these indices, on the clock."""
        if self.augmentation is None:
            raise RuntimeError("no explanations are due in this epoch")
        if self._cached is not None:
            self._cached.indices = indices
        with self._watch.measure():
            return self.augmentation(*batch)

    def _first_teacher(self, given: nn.Module | None) -> Classifier | None:
        if given is not None:
            if self.settings.refresh != "teacher":
                raise ValueError('a teacher explains only with refresh="teacher"')
            copied = Classifier(unwrap(given), nn.Identity(), self._network.num_classes)
        elif self.settings.refresh != "step":
            copied = copy.deepcopy(self._network)
        else:
            return None
        return copied.requires_grad_(False)

    def _explaining_network(self, since: int) -> Classifier:
        if self.teacher is None:
            return self._network
        refresh = self.settings.refresh
        due = since % refresh == 0 if isinstance(refresh, int) else since == 0
        if due and not self._given:
            self.teacher.load_state_dict(self._network.state_dict())
        return self.teacher

    def _check_cache(self) -> None:
        settings = self.settings
        if settings.cache is None:
            return
        if settings.refresh == "step" or settings.explain_mode == "train":
            raise ValueError(
                "a cache holds maps of fixed weights that depend on one image each: set refresh to "
                '"teacher" or a number of epochs, and explain_mode to "eval", but found '
                f"{settings.refresh!r} and {settings.explain_mode!r}"
            )
        self._identity()

    def _open_cache(
        self, folder: str, model: Classifier, trainer: L.Trainer, precision: torch.dtype | None
    ) -> ExplanationCache:
        manifest = {
            "explainer": self._identity(),
            "model": weights_hash(model),
            "precision": str(precision),
            **versions(("captum", "captum-excon", "torch")),
        }
        loader: Any = trainer.train_dataloader
        if trainer.is_global_zero:
            ExplanationCache(folder, manifest, len(loader.dataset))  # removes what is stale,
        trainer.strategy.barrier()  # before others look
        return ExplanationCache(folder, manifest, len(loader.dataset))

    def _identity(self) -> str:
        """What tells this explainer's maps from those of others."""
        chosen = self.settings.explainer
        if isinstance(chosen, str):
            layer = self.settings.layer
            return chosen if layer is None else f"{chosen} at {layer}"
        key = getattr(chosen, "cache_key", None)
        if not isinstance(key, str):
            raise ValueError(
                f"the cache cannot tell the maps of the function {self.name} from those of another "
                "one: give it an attribute cache_key, a text that changes with all that its maps "
                "depend on, or do without a cache"
            )
        return f"{self.name} {key}"


def _submodule(module: nn.Module, name: str) -> nn.Module:
    known: dict[str, nn.Module] = dict(module.named_modules())
    if name not in known:
        raise ValueError(
            f"the encoder has no layer {name!r}{close_names(name, known)}; names are those of its "
            "named_modules()"
        )
    return known[name]
