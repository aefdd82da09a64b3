"""Captum's attributions behind the call of pytorch-grad-cam's classes."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from captum.attr import Attribution, GradientAttribution
from numpy.typing import NDArray
from torch import Tensor, nn

from captum_excon.attr._core.captum import Target, format_args, run_forward
from captum_excon.attr._core.masks import resize
from captum_excon.attr._core.modes import preserved_state
from captum_excon.targets import callable_targets

CamTarget = Callable[[Any], Tensor]


class CaptumCam:
    """A Captum attribution that is called like a CAM of pytorch-grad-cam.

    .. code-block:: python

        with CaptumCam(AdaptiveHybridCAM(model)) as cam:
            grayscale = cam(input_tensor=images, targets=[ClassifierOutputTarget(281)])
        picture = show_cam_on_image(rgb_image, grayscale[0], use_rgb=True)

    A map is made of an attribution as grad-cam makes it: summed over channels, rectified, scaled
    to [0, 1] by its own minimum and maximum, resized bilinearly to the input's size, averaged over
    the layers if there are several, and scaled again; unlike in grad-cam, maps of tiny values reach
    1, too. A constant map becomes 0.

    The model's mode is left as it is: call ``model.eval()`` as for Captum.

    Args:
        attribution: Any Captum attribution whose maps are (N, C, *spatial): those of this package,
            Captum's, a `NoiseTunnel` around one, or a `GradCamAttribution`.
        **options: More arguments of its ``attribute``, such as ``n_steps`` or ``show_progress``.

    Raises:
        TypeError: ``attribution`` is not a Captum attribution.

    Example:
        >>> from captum_excon import IntegratedGradCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        ...                       nn.Flatten(), nn.Linear(8, 5)).eval()
        >>> cam = CaptumCam(IntegratedGradCAM(model, model[1]), n_steps=10)
        >>> maps = cam(input_tensor=torch.rand(2, 3, 17, 17))  # of the predicted classes
        >>> maps.shape, maps.dtype
        ((2, 17, 17), dtype('float32'))
    """

    def __init__(self, attribution: Attribution, **options: Any) -> None:
        if not isinstance(attribution, Attribution):
            raise TypeError(
                f"attribution must be a Captum attribution, not {type(attribution).__name__}"
            )
        self.attribution = attribution
        self.options = options

    def __call__(
        self,
        input_tensor: Tensor,
        targets: Sequence[CamTarget] | None = None,
        aug_smooth: bool = False,
        eigen_smooth: bool = False,
    ) -> NDArray[np.float32]:
        """Computes the maps of a batch.

        Args:
            input_tensor: (N, C, H, W), or another number of spatial dimensions where the
                attribution takes it; moved to the model's device.
            targets: One for each image. `ClassifierOutputTarget` becomes Captum's class index; any
                other callable gets the model's output for its image and returns a scalar, which is
                the score (see `captum_excon.callable_targets`). None explains the predicted
                classes, or the output itself where it is one number for each image.
            aug_smooth: Only False; put a `captum.attr.NoiseTunnel` around the attribution.
            eigen_smooth: Only False.

        Returns:
            Maps (N, H, W) in [0, 1]; NaN where the attribution is.

        Raises:
            TypeError: A target cannot be called, or the attribution does not return maps.
            ValueError: Smoothing, targets that are not one for each image, or none although the
                output has no classes.
        """
        if aug_smooth or eigen_smooth:
            raise ValueError(
                "aug_smooth and eigen_smooth belong to grad-cam's own classes; put a "
                "captum.attr.NoiseTunnel around the attribution to smooth its maps"
            )
        input_tensor = self._own_input(input_tensor)
        if targets is not None and len(targets) != len(input_tensor):
            raise ValueError(
                f"targets must be one for each image, but there are {len(targets)} for "
                f"{len(input_tensor)} images"
            )
        attribution, target = self.attribution, None
        if targets is None:
            target = self._predicted(input_tensor)
        elif all(_is_class(t) for t in targets):
            target = [int(t.category) for t in targets]  # type: ignore[attr-defined]
        else:
            attribution, target = self._with_callables(targets)
        result = attribution.attribute(input_tensor, target=target, **self.options)
        return _as_grad_cam(result, tuple(input_tensor.shape[2:]))

    def __enter__(self) -> CaptumCam:
        return self

    def __exit__(self, *_: object) -> None:
        """Does nothing, since nothing is kept between calls; errors are not swallowed."""

    def _own_input(self, images: Tensor) -> Tensor:
        model = self.attribution.forward_func
        like = next(model.parameters(), images) if isinstance(model, nn.Module) else images
        images = images.detach().to(like.device, copy=True)
        # Captum's gradient methods warn of inputs that do not require gradients, and change them.
        return images.requires_grad_(isinstance(self.attribution, GradientAttribution))

    def _predicted(self, images: Tensor) -> Target:
        forward_func = self.attribution.forward_func
        args = format_args(self.options.get("additional_forward_args"), len(images))
        with torch.no_grad(), preserved_state(forward_func):
            output = run_forward(forward_func, (images,), args.values)
        if output.numel() == len(images):
            return None if output.dim() == 1 else (0,) * (output.dim() - 1)
        if output.dim() != 2:
            raise ValueError(
                f"the model's output has shape {tuple(output.shape)} and no predicted class; pass "
                "targets, functions of the output for one image"
            )
        classes: list[int] = output.argmax(1).tolist()
        return classes

    def _with_callables(self, targets: Sequence[CamTarget]) -> tuple[Attribution, list[int]]:
        wrapped = callable_targets(self.attribution.forward_func, list(targets))
        score = self.options.get("score", "identity")
        if score != "identity":
            raise ValueError(
                f"score={score!r} has no meaning for callable targets; leave it out, "
                "and apply it inside of the targets"
            )
        return _on_model(self.attribution, wrapped), list(range(len(targets)))


def _is_class(target: CamTarget) -> bool:
    # Without importing grad-cam: who has one of its targets has imported it.
    module = sys.modules.get("pytorch_grad_cam.utils.model_targets")
    return module is not None and type(target) is module.ClassifierOutputTarget


def _on_model(attribution: Attribution, model: nn.Module) -> Attribution:
    """The same attribution on another model, with those that it is made of."""
    changed = copy.copy(attribution)
    for name, value in vars(attribution).items():
        if isinstance(value, Attribution):
            setattr(changed, name, _on_model(value, model))
        elif value is attribution.forward_func:
            setattr(changed, name, model)
    return changed


def _as_grad_cam(result: Any, size: tuple[int, ...]) -> NDArray[np.float32]:
    parts = result if isinstance(result, list) else [result]
    scaled = []
    for maps in parts:
        if not isinstance(maps, Tensor) or maps.dim() != len(size) + 2:
            found = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            raise TypeError(
                f"the attribution must return maps (N, C, *spatial) with {len(size)} spatial "
                f"dimensions, but returned {found}"
            )
        maps = maps.detach().to(torch.promote_types(maps.dtype, torch.float32))
        scaled.append(resize(_min_max(maps.sum(1, keepdim=True).relu()), size))
    aggregated = _min_max(torch.stack(scaled).mean(0)).squeeze(1)
    array: NDArray[np.float32] = aggregated.float().cpu().numpy()
    return array


def _min_max(maps: Tensor) -> Tensor:
    if not len(maps):
        return maps
    low, high = (v.view(-1, *[1] * (maps.dim() - 1)) for v in maps.flatten(1).aminmax(dim=1))
    return (maps - low) / torch.where(high == low, 1, high - low)
