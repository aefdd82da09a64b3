"""Quantus's own metrics, where `captum_excon.metrics.TRUSTED` lists them as right."""

from __future__ import annotations

import importlib
import inspect
import warnings
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.explanations.configs.settings import Choice
from captum_excon._messages import close_names
from captum_excon.errors import UserError
from captum_excon.metrics import REFUSED, TRUSTED, refusal

# They give something else than one number for a map.
_OTHER_RESULT = {
    "MPRT": "explains other networks than the one under test; call it with "
    "captum_excon.metrics.as_explain_func",
    "PixelFlipping": "gives curves and no number; use deletion",
}
_SET_HERE = {
    *("self", "kwargs", "return_aggregate", "aggregate_func", "default_plot_func"),
    *("disable_warnings", "display_progressbar", "similarity_func", "normalise_func"),
    *("perturb_func", "normalise_func_kwargs", "perturb_func_kwargs"),
}

Direction = Literal["higher", "lower"]


class QuantusMetric:
    """One of Quantus's metrics, for one map at a time.

    Args:
        name: Of its class.
        choice: Of a config; its options are those of the constructor.

    Attributes:
        direction: Which values are better.
        truth: Whether it compares maps with the ground truth.

    Raises:
        UserError: The metric is not to be used, and why; or it has no such option.
    """

    def __init__(self, name: str, choice: Choice) -> None:
        kind = _class(name)
        choice.check_options("metric", set(inspect.signature(kind).parameters) - _SET_HERE)
        self._metric = kind(
            **{"abs": False, "normalise": False, **choice.options},
            return_aggregate=False,
            disable_warnings=True,
            display_progressbar=False,
        )
        self.direction: Direction = "lower" if kind.score_direction.value == "lower" else "higher"
        self.truth = kind.evaluation_category.name == "LOCALISATION"

    def __call__(
        self, model: nn.Module, image: Tensor, target: int, saliency: Tensor, mask: Tensor | None,
        seed: int,
    ) -> float:  # fmt: skip
        """Returns the score of one map.

        Quantus draws from NumPy's global random state, which is seeded here and put back.

        Args:
            model: The network.
            image: (1, C, H, W).
            target: The class that was explained.
            saliency: (1, 1, H, W), not constant.
            mask: (1, H, W), or None.
            seed: Of the draws.
        """
        state = np.random.get_state()  # noqa: NPY002 - the generator that Quantus draws from
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            with warnings.catch_warnings():
                # Its remarks on NumPy and on its own defaults, once a map.
                warnings.simplefilter("ignore")
                found = self._metric(
                    model=model,
                    x_batch=image.cpu().numpy(),
                    y_batch=np.array([target]),
                    a_batch=saliency.cpu().numpy(),
                    s_batch=None if mask is None else mask.unsqueeze(0).cpu().numpy(),
                    channel_first=True,
                    softmax=True,
                    device=str(image.device),
                    batch_size=1,
                )
        finally:
            np.random.set_state(state)  # noqa: NPY002
        return float(torch.as_tensor(np.asarray(found, dtype=float)).reshape(()))


def _class(name: str) -> Any:
    full = f"quantus.{name}"
    if name in _OTHER_RESULT:
        raise UserError(f"{full} {_OTHER_RESULT[name]}")
    try:
        module = importlib.import_module("quantus")
        refused = refusal(full)
    except ImportError as error:
        raise UserError(f'quantus:{name} needs: pip install "captum-excon[bench]"') from error
    except ValueError as error:
        known = [k.removeprefix("quantus.") for k in (*TRUSTED, *REFUSED) if "quantus." in k]
        raise UserError(
            f"quantus:{name} has not been examined{close_names(name, known)}"
        ) from error
    if refused is not None:
        raise UserError(f"{full} {refused.reason}; use {refused.instead}")
    found = getattr(module, name)
    if not isinstance(found, type):
        raise UserError(f"{full} is not a metric")
    return found
