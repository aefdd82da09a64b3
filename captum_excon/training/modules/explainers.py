"""Explainers by name: Captum's gradient methods and the attributions of this package."""

from __future__ import annotations

from typing import Any

from captum.attr import Attribution, LayerGradCam
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from captum_excon.attr._core.layers import LayerChoice, resolve_layers
from captum_excon.methods.registry import Method, find_method
from captum_excon.transforms._undisturbed import Explainer


class WatchedExplainer:
    """Any explainer as a function, which names its network and warns of maps that are too coarse.

    Naming the network, as ``forward_func``, keeps its modes and buffers as they were.
    """

    COARSE = 4

    def __init__(self, explainer: Explainer, forward_func: nn.Module, name: str) -> None:
        self.explainer = explainer
        self.forward_func = forward_func
        self.__name__ = name
        self._seen = False

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """Returns the explainer's maps, whatever they are."""
        if isinstance(self.explainer, Attribution):
            maps: Tensor = self.explainer.attribute(images, target=targets)
        else:
            maps = self.explainer(images, targets)
        if not self._seen and isinstance(maps, Tensor) and maps.ndim == 4:
            self._seen = True
            height, width = maps.shape[2:]
            if max(height, width) <= self.COARSE < min(images.shape[2:]):
                rank_zero_warn(
                    f"the maps of {self.__name__} have {height}x{width} values for images of "
                    f"{images.shape[2]}x{images.shape[3]} pixels, too few to locate anything: "
                    "choose an earlier layer, larger images, or cifar_stem for small ones"
                )
        return maps


class DeepestLayerGradCam(LayerGradCam):
    """Captum's `LayerGradCam` on the deepest layer of `captum_excon.select_layers`.

    The layer is chosen when the first images of a size arrive, and then kept for that size.
    """

    def __init__(self, forward_func: nn.Module) -> None:
        super().__init__(forward_func, layer=None)
        self._choice = LayerChoice(forward_func, None, None, deepest=True)

    def attribute(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Computes signed Grad-CAM maps, with the arguments and errors of `LayerGradCam`."""
        (chosen,) = self._choice((inputs,))
        if chosen.reshape is not None:
            raise ValueError(
                f"the deepest layer {chosen.name!r} has its channels last, which Captum's "
                "LayerGradCam does not read; use integrated-grad-cam or another method"
            )
        self.layer = chosen.module
        return super().attribute(inputs, *args, **kwargs)


# Those of Captum's that need nothing but images and classes.
_CAPTUM = ("input-x-gradient", "integrated-gradients", "layer-grad-cam", "saliency")


def find_explainer(name: str) -> Method:
    """Returns the attribution method of this name, for Captum's also without ``captum:``.

    Raises:
        UserError: There is no such method.

    Example:
        >>> [find_explainer(name).layer_argument for name in ("layer-grad-cam", "saliency")]
        ['layer', None]
    """
    return find_method(f"captum:{name}" if name in _CAPTUM else name, _CAPTUM)


def build_explainer(
    name: str, model: nn.Module, layer: str | nn.Module | None = None
) -> Attribution:
    """Builds an attribution on a model by its name.

    ``"layer-grad-cam"`` is the explainer of ExCon's official code: Captum's `LayerGradCam`, signed.

    Args:
        name: As for `find_explainer`.
        model: From images to logits; wrappers of ``torch.compile`` and data parallelism are taken
            off by the methods.
        layer: The layer of a layer method, as a module or its name in the model. By default the
            deepest of `captum_excon.select_layers`; the SISE methods then take one in each block.

    Returns:
        The attribution with its defaults.

    Raises:
        ValueError: There is no such method or layer, or the method takes no layer.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> build_explainer("layer-grad-cam", model, "0").layer
        Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))
    """
    method = find_explainer(name)
    attribution: Any = method.attribution
    arguments: list[Any] = [*method.positional, model]
    if layer is not None:
        if method.layer_argument is None:
            raise ValueError(f"{name} explains the input and takes no layer, but found {layer!r}")
        (chosen,) = resolve_layers(model, [layer], None)
        arguments.append([chosen.module] if method.layer_argument == "layers" else chosen.module)
    elif attribution is LayerGradCam:
        attribution = DeepestLayerGradCam
    built: Attribution = attribution(*arguments)
    return built
