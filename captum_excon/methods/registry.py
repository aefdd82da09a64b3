"""Attribution methods by name: this package's, Captum's and pytorch-grad-cam's."""

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
# The papers' names.
ALIASES = {
    "ada-sise": "adaptive-hybrid-cam",
    "grad-cam": "captum:layer-grad-cam",
    "sise": "multi-layer-sise",
}

# Set by whoever calls the method, never by its user.
_RESERVED = {
    *("self", "model", "forward_func", "layer", "layers", "target_layers", "device_ids"),
    *("cam_class", "cam_options", "reshape_transform", "inputs", "target", "output"),
    *("additional_forward_args", "attr_dim_summation", "grad_kwargs", "autocast_dtype"),
    *("show_progress", "generator", "perturbations_per_eval", "internal_batch_size"),
    *("return_convergence_delta", "return_layer_maps", "args", "kwargs", "call_options"),
}


@dataclass(frozen=True)
class Method:
    """An attribution class and the options it takes.

    Attributes:
        name: The full name, never an alias.
        attribution: The class.
        positional: What its constructor takes before the network.
        layer_argument: What its constructor calls its layers, None if it has none.
        fuses: Whether it takes several layers and makes one map of them.
    """

    name: str
    attribution: type[Attribution]
    positional: tuple[Any, ...] = ()
    layer_argument: str | None = None
    fuses: bool = False

    @property
    def title(self) -> str:
        """The name of the class, for captions."""
        found: str = (self.positional[0] if self.positional else self.attribution).__name__
        return found

    @property
    def constructor_options(self) -> set[str]:
        """Options of the constructor; for pytorch-grad-cam those of its own class."""
        source = self.positional[0] if self.positional else self.attribution
        return set(inspect.signature(source).parameters) - _RESERVED

    @property
    def call_options(self) -> set[str]:
        """Options of `attribute`."""
        names = set(inspect.signature(self.attribution.attribute).parameters) - _RESERVED
        return names | ({"eigen_smooth"} if self.positional else set())

    @property
    def baseline(self) -> str:
        """What absent pixels are by default.

        A path starts at black, which is not zero after normalisation; masks put zeros, the data
        set's mean colour, as the papers do.
        """
        return "black" if "n_steps" in self.call_options else "zero"

    def accepts(self, option: str) -> bool:
        """Whether `attribute` has a parameter of this name."""
        return takes(self.attribution.attribute, option)


def find_method(name: str, others: Sequence[str] = ()) -> Method:
    """Returns the method of this name.

    Args:
        name: The name of a module of `captum_excon.attr` (``rise``), ``captum:NAME``,
            ``grad-cam:CLASS`` or one of `ALIASES`.
        others: Further names to suggest after a misspelling.

    Raises:
        UserError: There is no such method, or its package is missing.

    Example:
        >>> find_method("captum:saliency").layer_argument is None
        True
        >>> find_method("sise").name
        'multi-layer-sise'
    """
    name = ALIASES.get(name, name)
    scheme, colon, rest = name.partition(":")
    if scheme == "grad-cam" and colon:
        try:
            module = importlib.import_module("pytorch_grad_cam")
        except ImportError as error:
            raise UserError(f'{name} needs pytorch-grad-cam: pip install "grad-cam"') from error
        from captum_excon.grad_cam import GradCamAttribution

        found = getattr(module, rest, None)
        if _is_cam(found):
            layers = None if rest == "FullGrad" else "layers"
            return Method(name, GradCamAttribution, (found,), layers)
    elif scheme == "captum" and rest in CAPTUM:
        return _of_class(name, CAPTUM[rest])
    elif name in (own := attribution_methods()):
        return _of_class(name, own[name])
    known = sorted([*method_names(), *others])
    hint = close_names(name, [*known, *ALIASES]) or f"; methods are {', '.join(known)}"
    raise UserError(f"unknown method {name!r}{hint}")


def method_names() -> list[str]:
    """Returns the names of all methods whose packages are installed."""
    names = [*attribution_methods(), *(f"captum:{name}" for name in CAPTUM)]
    try:
        module = importlib.import_module("pytorch_grad_cam")
    except ImportError:
        return sorted(names)
    return sorted(
        [*names, *(f"grad-cam:{k}" for k, value in vars(module).items() if _is_cam(value))]
    )


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function or class has a parameter of this name."""
    return name in inspect.signature(function).parameters


def _of_class(name: str, attribution: type[Attribution]) -> Method:
    argument = next((name for name in ("layer", "layers") if takes(attribution, name)), None)
    return Method(name, attribution, (), argument, argument == "layers")


def _is_cam(found: Any) -> bool:
    # By name: FinerCAM and RefineCAM wrap another method and have no base class.
    return isinstance(found, type) and (
        "CAM" in found.__name__ or found.__name__ in ("FEM", "FullGrad")
    )
