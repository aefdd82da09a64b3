"""The base of the modules that augment batches with explanations."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from captum_excon.attr._core.captum import ForwardFunc
from captum_excon.transforms._fill import Fill, check_fill
from captum_excon.transforms._undisturbed import (
    Explainer,
    Mode,
    check_floating,
    explain,
    explained_module,
    to_maps,
    undisturbed,
)


class ExplainingModule(nn.Module):
    """Holds a classifier and its explainer without registering them, and runs them undisturbed."""

    classifier: ForwardFunc
    explainer: Explainer
    fill: Fill

    def __init__(
        self,
        classifier: ForwardFunc,
        explainer: Explainer,
        fill: Fill,
        explain_mode: Mode,
        autocast_dtype: torch.dtype | None,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        check_fill(fill)
        if explain_mode not in ("eval", "train"):
            raise ValueError(f'explain_mode must be "eval" or "train", but found {explain_mode!r}')
        if not callable(classifier):
            raise TypeError(f"classifier must be a module or a function, but found {classifier!r}")
        # Past nn.Module's own __setattr__, which would register modules and their parameters.
        object.__setattr__(self, "classifier", classifier)
        object.__setattr__(self, "explainer", explainer)
        object.__setattr__(self, "fill", fill)
        self.explain_mode = explain_mode
        self.autocast_dtype = autocast_dtype
        self.generator = generator

    def check_images(self, *batches: Tensor) -> None:
        """Raises ValueError or TypeError unless the batches are (N, C, H, W) and floating point."""
        for images in batches:
            if images.ndim != 4:
                raise ValueError(f"images must be (N, C, H, W), but found {tuple(images.shape)}")
            check_floating(images)

    def check_labels(self, labels: Tensor, images: Tensor) -> None:
        """Raises ValueError unless there is one class index for each image."""
        if labels.shape != images.shape[:1] or labels.is_floating_point():
            raise ValueError(
                f"labels must be class indices of shape ({len(images)},), one for each image, but "
                f"found {labels.dtype} of shape {tuple(labels.shape)}"
            )

    def explain(self, images: Tensor, targets: Tensor, maps: Tensor | None) -> Tensor:
        """Returns maps (N, 1, H, W), explained or ready-made; call it within `undisturbed`."""
        if maps is None:
            return explain(self.explainer, images, targets)
        return to_maps(maps.to(images.device), len(images), (images.shape[-2], images.shape[-1]))

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Returns the predicted classes, (N,) int64; call it within `undisturbed`."""
        if not len(images):
            return torch.zeros(0, dtype=torch.int64, device=images.device)
        predictions: Tensor = self.classifier(images).argmax(1)
        return predictions

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Protects the classifier and, if it is another module, the one that is explained."""
        explained = explained_module(self.explainer)
        protect = functools.partial(
            undisturbed, mode=self.explain_mode, autocast_dtype=self.autocast_dtype
        )
        with protect(self.classifier), contextlib.ExitStack() as stack:
            if explained is not None and explained is not self.classifier:
                stack.enter_context(protect(explained))
            yield
