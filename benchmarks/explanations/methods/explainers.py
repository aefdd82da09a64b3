"""Explainers and controls, which give the raw map of one image.

All get one image at a time, the same network and the same layer, and return the map as it is:
float32, channels summed, at the method's own resolution.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from captum.attr import GradientAttribution, LayerAttribution
from torch import Tensor, nn

from benchmarks.explanations.configs.settings import Choice
from benchmarks.explanations.methods import controls
from captum_excon.attr._core.fusion import gaussian
from captum_excon.errors import UserError
from captum_excon.layers import SelectedLayer
from captum_excon.methods.registry import Method, find_method, takes

GROUND_TRUTH, OTHER_IMAGE = "ground-truth", "other-image"
CONTROLS = (*controls.CONTROLS, GROUND_TRUTH, OTHER_IMAGE)
BASELINES = ("zero", "black")


class Case(NamedTuple):
    """An item: its number, input (1, C, H, W), class, and the mask (1, H, W) of its object."""

    number: int
    image: Tensor
    target: int
    mask: Tensor | None


@dataclass(frozen=True)
class Setting:
    """What all explainers of a run share.

    Attributes:
        model: The network, from (N, C, H, W) to class scores (N, classes).
        layer: For all methods of one layer.
        layers: From shallow to deep, for methods that fuse several.
        black: Black as the network sees it, (1, C, 1, 1).
        case: Gives an item by its number.
        images: Of which image each item is.
        seed: Of the benchmark.
        rows: Rows per forward pass.
    """

    model: nn.Module
    layer: SelectedLayer
    layers: Sequence[SelectedLayer]
    black: Tensor
    case: Callable[[int], Case]
    images: Sequence[str]
    seed: int
    rows: int


class Explainer:
    """A method with its options, which can explain one item after the other.

    Args:
        choice: Of a config. Its options are those of the constructor and of `attribute`, by their
            names there; ``baselines`` is ``zero`` or ``black``. ``smooth`` is σ of a Gaussian over
            the enlarged map, in cells of the deepest layer, for methods that have no such option
            too. The control ``other-image`` has ``of``, the explainer whose map of another image it
            is, and that one's ``options``.

    Attributes:
        choice: As given.
        control: Whether it is there to be read against.

    Raises:
        UserError: There is no such explainer or option, or a package is missing.

    Example:
        >>> Explainer(Choice(name="rise", options={"n_masks": 1000})).control
        False
    """

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self.control = choice.name in CONTROLS
        self._method: Method | None = None
        self._inner: Explainer | None = None
        known: set[str] = set()
        if choice.name == OTHER_IMAGE:
            known = {"of", "options"}
            self._inner = _inner(choice)
        elif not self.control:
            self._method = find_method(choice.name, CONTROLS)
            known = self._method.constructor_options | self._method.call_options | {"smooth"}
        _check(choice, known)

    def layers(self, setting: Setting) -> list[SelectedLayer]:
        """The layers that it uses."""
        if self._inner is not None:
            return self._inner.layers(setting)
        if self._method is None or self._method.layer_argument is None:
            return []
        return list(setting.layers) if self._method.fuses else [setting.layer]

    def explain(self, case: Case, setting: Setting) -> Tensor:
        """Returns the raw map of one image, (1, h, w) float32, on the CPU.

        It depends on the item and the seed alone, whatever was explained before; the global random
        state is left as it was.
        """
        seed = (1_000_003 * setting.seed + case.number) % 2**63
        devices = [case.image.device] if case.image.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
            # Captum's remark on how guided backpropagation works, once an image.
            warnings.filterwarnings("ignore", "Setting backward hooks", UserWarning)
            torch.manual_seed(seed)
            if self._inner is not None:
                other = controls.other_item(case.number, setting.images, seed=setting.seed)
                return self._inner.explain(setting.case(other), setting)
            if self._method is None:
                maps = _control(self.choice.name, case, setting.seed)
            else:
                maps = self._run(self._method, case, setting, seed)
        if maps.dim() != 4 or len(maps) != 1:
            raise ValueError(
                f"expected one map (1, C, h, w), but {self.choice.name} gave {tuple(maps.shape)}"
            )
        return maps.detach().float().sum(1).cpu()

    def _run(self, method: Method, case: Case, setting: Setting, seed: int) -> Tensor:
        options = self.choice.options
        arguments = {k: v for k, v in options.items() if k in method.constructor_options}
        if method.layer_argument is not None:
            # Captum's own classes take nothing but modules.
            given = [x if x.channels_last else x.module for x in self.layers(setting)]
            arguments[method.layer_argument] = given if method.fuses else given[0]
        attribution = method.attribution(*method.positional, setting.model, **arguments)
        keywords = {k: _tuples(v) for k, v in options.items() if k in method.call_options}
        if "baselines" in method.call_options:
            zero = keywords.get("baselines", method.baseline) == "zero"
            keywords["baselines"] = None if zero else setting.black.expand_as(case.image)
        for name in ("perturbations_per_eval", "internal_batch_size"):
            if takes(attribution.attribute, name):
                keywords[name] = setting.rows
        if takes(attribution.attribute, "generator"):
            keywords["generator"] = torch.Generator().manual_seed(seed)
        image = case.image.detach().clone()
        # Captum warns where it has to ask for gradients itself.
        image.requires_grad_(issubclass(method.attribution, GradientAttribution))
        maps: Tensor = attribution.attribute(image, target=case.target, **keywords)
        if options.get("smooth") and "smooth" not in keywords:
            summed = maps.detach().float().sum(1, keepdim=True)
            enlarged = LayerAttribution.interpolate(summed, case.image.shape[2:], "bilinear")
            maps = gaussian(enlarged, options["smooth"], setting.layers[-1].size)
        return maps


def _inner(choice: Choice) -> Explainer:
    of = str(choice.options.get("of", "captum:layer-grad-cam"))
    inner = Explainer(Choice(name=of, options=choice.options.get("options", {})))
    if inner.control:
        raise UserError(f"explainer {choice.label!r}: 'of' must name an explainer, not a control")
    return inner


def _control(name: str, case: Case, seed: int) -> Tensor:
    if name == GROUND_TRUTH:
        if case.mask is None:
            raise ValueError("the data has no ground truth; leave out this control")
        return controls.ground_truth(case.mask.unsqueeze(0))
    control = controls.CONTROLS[name]
    options = {"seed": seed} if takes(control, "seed") else {}
    return control(case.image, [case.number], **options)


def _check(choice: Choice, known: set[str]) -> None:
    choice.check_options("explainer", known)
    baseline = choice.options.get("baselines", "zero")
    if baseline not in BASELINES:
        raise UserError(
            f"explainer {choice.label!r}: baselines must be {' or '.join(BASELINES)}, but found "
            f"{baseline!r}"
        )
    if "/" in choice.label or choice.label.startswith("."):
        raise UserError(
            f"the label {choice.label!r} names a folder: it must not start with a dot or have "
            "slashes in it"
        )


def _tuples(value: Any) -> Any:
    # YAML has lists where Captum wants tuples.
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
