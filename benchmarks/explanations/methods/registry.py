"""Attribution classes by name: this package's, Captum's and pytorch-grad-cam's."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import captum.attr
from captum.attr import Attribution

from captum_excon._messages import close_names
from captum_excon.attr import attribution_methods
from captum_excon.errors import UserError

CAPTUM = {
    "guided-grad-cam": captum.attr.GuidedGradCam,
    "input-x-gradient": captum.attr.InputXGradient,
    "integrated-gradients": captum.attr.IntegratedGradients,
    "layer-grad-cam": captum.attr.LayerGradCam,
    "occlusion": captum.attr.Occlusion,
    "saliency": captum.attr.Saliency,
}

# What the benchmark sets itself.
_OURS = {
    *("self", "model", "forward_func", "layer", "layers", "target_layers", "device_ids"),
    *("cam_class", "cam_options", "reshape_transform", "inputs", "target", "output"),
    *("additional_forward_args", "attr_dim_summation", "grad_kwargs", "autocast_dtype"),
    *("show_progress", "generator", "perturbations_per_eval", "internal_batch_size"),
    *("return_convergence_delta", "return_layer_maps", "args", "kwargs", "call_options"),
}


@dataclass(frozen=True)
class Method:
    """An attribution class and what can be said to it.

    Attributes:
        attribution: The class.
        positional: What its constructor takes before the network.
        layer_argument: What its constructor calls its layers, None if it has none.
        fuses: Whether it takes several layers and makes one map of them.
    """

    attribution: type[Attribution]
    positional: tuple[Any, ...] = ()
    layer_argument: str | None = None
    fuses: bool = False

    @property
    def constructor_options(self) -> set[str]:
        """Of the constructor; for pytorch-grad-cam those of its own class."""
        source = self.positional[0] if self.positional else self.attribution
        return set(inspect.signature(source).parameters) - _OURS

    @property
    def call_options(self) -> set[str]:
        """Of `attribute`."""
        names = set(inspect.signature(self.attribution.attribute).parameters) - _OURS
        return names | ({"eigen_smooth"} if self.positional else set())

    @property
    def baseline(self) -> str:
        """What absent pixels are by default.

        A path starts at black, which is not zero after normalisation; masks put zeros, the data
        set's mean colour, as the papers do.
        """
        return "black" if "n_steps" in self.call_options else "zero"


def find_method(name: str, others: Sequence[str] = ()) -> Method:
    """Looks up an explainer that asks the network.

    Args:
        name: Of a module of `captum_excon.attr` (``rise``), ``captum:NAME`` or ``grad-cam:CLASS``.
        others: More names that could have been meant.

    Raises:
        UserError: There is none of this name, or its package is missing.

    Example:
        >>> find_method("captum:saliency").layer_argument is None
        True
    """
    scheme, colon, rest = name.partition(":")
    if scheme == "grad-cam" and colon:
        try:
            module = importlib.import_module("pytorch_grad_cam")
        except ImportError as error:
            raise UserError(f'{name} needs: pip install "captum-excon[bench]"') from error
        from captum_excon.grad_cam import GradCamAttribution

        found = getattr(module, rest, None)
        if isinstance(found, type) and rest.endswith(("CAM", "GradCAMPlusPlus", "FullGrad", "FEM")):
            layers = None if rest == "FullGrad" else "layers"
            return Method(GradCamAttribution, (found,), layers)
    elif scheme == "captum" and rest in CAPTUM:
        return _of_class(CAPTUM[rest])
    elif name in (own := attribution_methods()):
        return _of_class(own[name])
    known = sorted([*method_names(), *others])
    hint = close_names(name, known) or f"; explainers are {', '.join(known)}"
    raise UserError(f"there is no explainer {name!r}{hint}")


def method_names() -> list[str]:
    """The names of this package's methods and Captum's, and pytorch-grad-cam's if it is there."""
    names = [*attribution_methods(), *(f"captum:{name}" for name in CAPTUM)]
    try:
        module = importlib.import_module("pytorch_grad_cam")
    except ImportError:
        return sorted(names)
    return sorted([*names, *(f"grad-cam:{name}" for name in vars(module) if "CAM" in name)])


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function or class has a parameter of this name."""
    return name in inspect.signature(function).parameters


def _of_class(attribution: type[Attribution]) -> Method:
    argument = next((name for name in ("layer", "layers") if takes(attribution, name)), None)
    return Method(attribution, (), argument, argument == "layers")
