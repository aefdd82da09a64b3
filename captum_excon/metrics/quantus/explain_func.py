"""Any Captum attribution as what Quantus calls an ``explain_func``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from captum.attr import Attribution, LayerAttribution
from torch import Tensor, nn

ExplainFunc = Callable[..., "np.ndarray[Any, np.dtype[Any]]"]


def as_explain_func(
    attribution: Attribution | Callable[[nn.Module], Attribution], **options: Any
) -> ExplainFunc:
    """Makes a Captum attribution callable by Quantus: ``f(model, inputs, targets) -> maps``.

    Maps are the attributions summed over channels; those of a layer are up-sampled linearly to the
    inputs' size.

    Args:
        attribution: An attribution of the model under test, or, for metrics that explain others
            (MPRT), a function such as ``lambda model: LayerGradCam(model, model.layer4)``.
        **options: For `attribute`, such as ``n_steps=50``.

    Returns:
        A function of ``model``, ``inputs`` (N, C, H, W) and ``targets`` (N,), NumPy arrays or
        tensors, that returns float32 maps (N, 1, H, W). It takes further options for `attribute`,
        and ignores Quantus's ``device`` and ``method``.

    Example:
        >>> from captum.attr import Saliency
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> as_explain_func(Saliency)(model, torch.ones(1, 3, 2, 2), torch.tensor([1])).shape
        (1, 1, 2, 2)
    """
    if not callable(attribution) and not isinstance(attribution, Attribution):
        raise TypeError(
            "attribution must be a captum.attr.Attribution or a function that makes one from a "
            f"model, but found {type(attribution).__name__}"
        )

    def explain(
        model: nn.Module,
        inputs: Any,
        targets: Any,
        *,
        device: Any = None,
        method: Any = None,
        **more: Any,
    ) -> np.ndarray[Any, np.dtype[Any]]:
        explainer = _bound(attribution, model)
        parameter = next(model.parameters(), torch.zeros(()))
        # Captum warns where it has to ask for gradients itself; the caller's tensor is left alone.
        images = torch.as_tensor(inputs).detach().to(parameter, copy=True).requires_grad_()
        classes = torch.as_tensor(targets, device=parameter.device).long()
        maps: Tensor = explainer.attribute(images, target=classes, **{**options, **more})
        maps = maps.detach().sum(1, keepdim=True)
        if maps.shape[2:] != images.shape[2:]:
            maps = LayerAttribution.interpolate(maps, tuple(images.shape[2:]), "bilinear")
        return maps.float().cpu().numpy()

    return explain


def _bound(
    attribution: Attribution | Callable[[nn.Module], Attribution], model: nn.Module
) -> Attribution:
    if not isinstance(attribution, Attribution):
        return attribution(model)
    owner = getattr(attribution, "forward_func", None) or getattr(attribution, "model", None)
    if isinstance(owner, nn.Module) and owner is not model:
        raise ValueError(
            f"this {type(attribution).__name__} explains another model than the one under test; "
            "pass a function that makes it from a model, for instance "
            f"as_explain_func(lambda model: {type(attribution).__name__}(model))"
        )
    return attribution
