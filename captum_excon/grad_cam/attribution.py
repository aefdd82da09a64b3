"""pytorch-grad-cam's methods as Captum attributions."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from captum.attr import LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn

from captum_excon.attr._core.batching import check_batch_size
from captum_excon.attr._core.captum import (
    ForwardArgs,
    Inputs,
    Target,
    check_targets,
    format_args,
    format_inputs,
)
from captum_excon.attr._core.capture import HookedLayer, Reshape
from captum_excon.attr._core.layers import Layer, LayerChoice, listed
from captum_excon.attr._core.masks import resize
from captum_excon.grad_cam._call import CamCall, is_subclass
from captum_excon.layers import unwrap
from captum_excon.targets import callable_targets

Output = Literal["layer", "input", "scaled"]


class GradCamAttribution(LayerAttribution):
    r"""A CAM class of pytorch-grad-cam as a Captum attribution.

    The computation is grad-cam's own; targets, dtypes and devices are handled as in Captum. Each
    call works on a copy of the model's modules in evaluation mode, which shares the weights'
    memory, so modes, gradients and hooks of the model itself are never touched.

    Differences from a direct call, all deliberate: half-precision models are computed in float32;
    frozen weights, ``no_grad`` and ``inference_mode`` do no harm; an in-place operation behind a
    layer does not change the activations that grad-cam has seen; RandomCAM draws from
    ``generator``; of a module called several times the last call counts, as in Captum, at the cost
    of one more forward pass. Calls from several threads take turns.

    The classes:

    - ``GradCAM``, ``GradCAMPlusPlus``, ``XGradCAM``, ``HiResCAM``, ``GradCAMElementWise``,
      ``LayerCAM``, ``EigenCAM``, ``EigenGradCAM``, ``SegEigenCAM``, ``KPCA_CAM``, ``FEM``,
      ``ShapleyCAM``, ``ScoreCAM``, ``AblationCAM`` and ``RandomCAM`` do all there is.
    - ``FinerCAM`` needs one class index for each image, and explains them one by one.
    - ``FullGrad`` takes all biases of the model and no ``layers``; its raw map, the sum of its
      scaled parts, has the inputs' size.
    - ``RefineCAM`` and ``SESS`` combine scaled maps and have no raw one: ``output="scaled"`` only.

    Rounding decides the sign of EigenCAM's and EigenGradCAM's maps; SegEigenCAM settles it.

    Args:
        cam_class: The class.
        model: The network, from one tensor (N, C, H, W) or (N, C, D, H, W), and perhaps more
            arguments, to a tensor (N, ...). For other outputs use `captum_excon.callable_targets`.
        layers: The layer, as a module, a name or a `SelectedLayer`, or a list of them; by default
            the deepest of `captum_excon.select_layers`.
        device_ids: As in Captum; a data-parallel model runs on its module.
        reshape_transform: Turns a captured tensor into (N, C, \*spatial), for token layers; see
            `captum_excon.tokens_to_map`.
        **cam_options: More arguments of the class, such as AblationCAM's
            ``ratio_channels_to_ablate``.

    Raises:
        TypeError: ``cam_class`` is not a CAM class or does not take the options, or ``model`` is
            not a module.
        ValueError: A layer cannot be found, or FullGrad is given layers.

    Reference: Gildenblat et al., https://github.com/jacobgil/pytorch-grad-cam.

    Example:
        >>> from pytorch_grad_cam import LayerCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        ...                       nn.Flatten(), nn.Linear(8, 5))
        >>> cam = GradCamAttribution(LayerCAM, model, model[1])
        >>> cam.attribute(torch.rand(2, 3, 17, 17), target=[0, 3]).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        cam_class: type,
        model: nn.Module,
        layers: Layer | Sequence[Layer] | None = None,
        device_ids: list[int] | None = None,
        *,
        reshape_transform: Reshape | None = None,
        **cam_options: Any,
    ) -> None:
        _check_cam_class(cam_class, cam_options)
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"model must be a torch.nn.Module, not {type(model).__name__}: grad-cam's classes "
                "look for modules in it"
            )
        LayerAttribution.__init__(self, model, layers, device_ids)
        self.cam_class = cam_class
        self.cam_options = cam_options
        given = None if layers is None else listed(layers)
        self._single = given is None or given == [layers]
        self._layers: LayerChoice | None = None
        if not is_subclass(cam_class, "FullGrad"):
            self._layers = LayerChoice(model, given, reshape_transform, deepest=True)
        elif layers is not None:
            raise ValueError("FullGrad uses all biases of the model; leave out layers")

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        output: Output = "layer",
        generator: torch.Generator | None = None,
        **call_options: Any,
    ) -> Any:
        r"""Computes the maps of a batch.

        Args:
            inputs: Tensor (N, C, \*spatial), or a tuple of one.
            target: The output, in any form that Captum takes.
            additional_forward_args: As in Captum. Where one of them has a row for each image, the
                images are explained one by one.
            perturbations_per_eval: Rows per forward pass in the classes that score many (ScoreCAM,
                AblationCAM, SESS), whose ``batch_size`` it is; by default theirs.
            show_progress: Let grad-cam show its bars and print what it prints.
            output: ``"layer"`` is the raw map, neither rectified nor scaled, at the layer's
                resolution; ``"input"`` the same, up-sampled (bilinear) to the inputs' size;
                ``"scaled"`` is what a direct call returns: maps rectified, scaled to [0, 1],
                resized, averaged over the layers and scaled again.
            generator: Where RandomCAM's weights come from; by default the same in every call.
            **call_options: More arguments of the CAM object's call: ``eigen_smooth``,
                ``aug_smooth`` (with ``output="scaled"``), FinerCAM's ``alpha`` and
                ``comparison_categories``.

        Returns:
            With ``"layer"`` (N, 1, \*spatial of the layer), otherwise the inputs' shape, equal in
            all channels; of the inputs' dtype and device. A tuple of that one map for a tuple of
            inputs. For a list of layers a list of these in its order, except that ``"scaled"``
            aggregates them into one.

        Raises:
            AssertionError: A target that does not fit the output, as in Captum.
            RuntimeError: The output does not depend on a layer.
            TypeError: A model whose modules cannot be copied, or an unknown call option.
            ValueError: NaN in inputs, wrong shapes, options or layers, or a class without raw maps.
        """
        if output not in ("layer", "input", "scaled"):
            raise ValueError(f"output must be 'layer', 'input' or 'scaled', but found {output!r}")
        check_batch_size("perturbations_per_eval", perturbations_per_eval)
        formatted = format_inputs(inputs, spatial=True)
        images = formatted[0]
        if len(formatted) > 1 or images.dim() == 3:
            raise ValueError(
                "grad-cam explains one tensor (N, C, H, W) or (N, C, D, H, W), but found "
                f"{[tuple(x.shape) for x in formatted]}; pass further inputs as "
                "additional_forward_args"
            )
        args = format_args(additional_forward_args, len(images))
        check_targets([target], len(images))
        scaled, rows, seed = output == "scaled", perturbations_per_eval, _seed(generator)
        call = CamCall(
            self.cam_class, self.cam_options, call_options, scaled, rows, seed, show_progress
        )
        layers = [] if self._layers is None else self._layers((images,), args)
        if any(layer.call is not None for layer in layers):
            raise ValueError(
                "grad-cam sees the last call of a layer, which works on another image; explain "
                "that one, or use IntegratedGradCAM"
            )
        groups = [layers] if scaled or not layers else [[layer] for layer in layers]
        maps = [self._maps(call, group, images, target, args) for group in groups]
        if output != "layer":
            maps = [resize(m, images.shape[2:]).expand(images.shape).contiguous() for m in maps]
        results = [(m,) for m in maps] if isinstance(inputs, tuple) else maps
        return results[0] if self._single or scaled else results

    def _maps(
        self,
        call: CamCall,
        layers: list[HookedLayer],
        images: Tensor,
        target: Target,
        args: ForwardArgs,
    ) -> Tensor:
        model, rows = unwrap(self.forward_func), len(images)
        if rows == 0:
            # A row of zeros tells the shape of the maps that no image has.
            model, target = callable_targets(model, [torch.sum, torch.mean]), 0
            images = images.new_zeros(1, *images.shape[1:])
            args = args.of_one_row()
        with contextlib.nullcontext() if rows else np.errstate(all="ignore"):
            maps = call.maps(model, layers, images, target, args)[:rows]
        return torch.from_numpy(maps).unsqueeze(1).to(images)


def _check_cam_class(cam_class: Any, options: dict[str, Any]) -> None:
    name = getattr(cam_class, "__name__", repr(cam_class))
    if not isinstance(cam_class, type) or not (
        is_subclass(cam_class, "BaseCAM")
        or "base_method" in inspect.signature(cam_class).parameters
    ):
        raise TypeError(
            f"{name} is no CAM class of pytorch-grad-cam; pass a class such as GradCAMPlusPlus, "
            "made from its BaseCAM or, like FinerCAM, around a base_method"
        )
    try:
        inspect.signature(cam_class).bind(
            model=None, target_layers=None, reshape_transform=None, **options
        )
    except TypeError as error:
        raise TypeError(
            f"{name} is called with model, target_layers, reshape_transform and the cam_options "
            f"{sorted(options)}: {error}"
        ) from None


def _seed(generator: torch.Generator | None) -> int:
    if generator is None:
        return 0
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, but found {generator!r}")
    return int(torch.randint(2**32, (1,), generator=generator, device=generator.device))
