"""Base classes of the metrics for Quantus: its arguments in, one value per image out."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from captum_excon.metrics._maps import nan_reasons
from captum_excon.metrics.drop import DropIncrease
from captum_excon.metrics.localization import ebpg

try:
    from quantus.helpers.enums import DataType, EvaluationCategory, ModelType, ScoreDirection
    from quantus.metrics.base import Metric
except ImportError as error:
    raise ImportError(
        "captum_excon.metrics.quantus needs Quantus: pip install 'captum-excon[bench]'"
    ) from error

_FROM_QUANTUS = {"forward_func", "images", "maps", "masks", "scoring"}


class ExplanationMetric(Metric[Any]):
    """Base class of all metrics here, made of the function that a subclass names.

    Attributes:
        reasons: Of the last call, for each image: why its score is NaN, or None.
    """

    data_applicability: ClassVar = {DataType.IMAGE}
    model_applicability: ClassVar = {ModelType.TORCH}
    function: ClassVar[Callable[..., Any]]

    def __init_subclass__(
        cls, name: str = "", function: Callable[..., Any] | None = None, lower: bool = False
    ) -> None:
        super().__init_subclass__()
        if function is not None:
            cls.name, cls.function = name, staticmethod(function)
            cls.score_direction = ScoreDirection.LOWER if lower else ScoreDirection.HIGHER

    def __init__(
        self,
        abs: bool = False,
        normalise: bool = False,
        normalise_func: Callable[[Any], Any] | None = None,
        normalise_func_kwargs: dict[str, Any] | None = None,
        return_aggregate: bool = False,
        aggregate_func: Callable[[Any], Any] | None = None,
        default_plot_func: Callable[..., None] | None = None,
        disable_warnings: bool = False,
        display_progressbar: bool = False,
        **options: Any,
    ) -> None:
        """Sets the metric up, with Quantus's arguments and the function's ``options``.

        Maps are not normalised, nor their absolute values taken, unless asked for;
        ``disable_warnings`` has no effect. Any other option raises TypeError.
        """
        known = self._known_options()
        if unknown := sorted(options.keys() - known):
            has = ", ".join(sorted(known)) or "none"
            raise TypeError(
                f"{type(self).__name__} has no option {', '.join(unknown)}; it has {has}"
            )
        super().__init__(
            abs=abs,
            normalise=normalise,
            normalise_func=normalise_func,
            normalise_func_kwargs=normalise_func_kwargs,
            return_aggregate=return_aggregate,
            aggregate_func=aggregate_func or np.mean,
            default_plot_func=default_plot_func,
            disable_warnings=disable_warnings,
            display_progressbar=display_progressbar,
        )
        self.options = options
        self.reasons: list[str | None] = []

    @classmethod
    def _known_options(cls) -> set[str]:
        parameters = set(inspect.signature(cls.function).parameters)
        # A scorer's other options are Quantus's y_batch, softmax and model_predict_kwargs.
        return parameters - _FROM_QUANTUS | ({"batch_size"} if "scoring" in parameters else set())

    def __call__(
        self,
        model: Any,
        x_batch: Any,
        y_batch: Any,
        a_batch: Any = None,
        s_batch: Any = None,
        channel_first: bool | None = True,
        explain_func: Callable[..., Any] | None = None,
        explain_func_kwargs: dict[str, Any] | None = None,
        model_predict_kwargs: dict[str, Any] | None = None,
        softmax: bool | None = True,
        device: str | None = None,
        batch_size: int = 64,
        **kwargs: Any,
    ) -> Any:
        """Evaluates explanations, with Quantus's arguments.

        ``x_batch`` are images (N, C, H, W); ``y_batch`` the classes to explain, (N,), the predicted
        ones for what the papers do; ``a_batch`` maps, (N, 1, H, W) or (N, C, H, W), or None to have
        ``explain_func`` make them (`captum_excon.metrics.as_explain_func`); ``s_batch`` objects,
        (N, 1, H, W), for localization metrics, which need no model. The model is in evaluation
        mode; without ``softmax`` its output itself is the score. ``batch_size`` counts images: rows
        per forward pass are an option of the metric.

        Returns:
            A list with a number for each image (sweeps: a list), NaN where it is undefined.
        """
        self.reasons = []
        return super().__call__(
            model=model,
            x_batch=x_batch,
            y_batch=y_batch,
            a_batch=a_batch,
            s_batch=s_batch,
            channel_first=channel_first,
            explain_func=explain_func,
            explain_func_kwargs=explain_func_kwargs,
            model_predict_kwargs=model_predict_kwargs,
            softmax=softmax,
            device=device,
            batch_size=batch_size,
            **kwargs,
        )


class Faithfulness(ExplanationMetric):
    """A metric that asks the model about perturbed images."""

    evaluation_category = EvaluationCategory.FAITHFULNESS

    def evaluate_batch(self, model: Any, x_batch: Any, y_batch: Any, a_batch: Any, **_: Any) -> Any:
        """Scores one batch."""
        module = model.get_model()
        if not isinstance(module, nn.Module):
            raise TypeError(f"the model must be a torch.nn.Module, but is a {type(module)}")
        parameter = next(module.parameters(), torch.zeros(()))
        given = model.model_predict_kwargs
        maps = torch.as_tensor(a_batch)
        self.reasons += nan_reasons(maps)
        found = type(self).function(
            functools.partial(module, **given) if given else module,
            torch.as_tensor(x_batch).to(parameter),
            maps,
            target=torch.as_tensor(y_batch, device=parameter.device).long(),
            score="softmax" if model.softmax else "identity",
            **self.options,
        )
        if isinstance(found, DropIncrease):
            lower = self.score_direction == ScoreDirection.LOWER
            found = found.drop if lower else found.increase
        return found.tolist()


class Localization(ExplanationMetric):
    """A metric that compares maps with objects."""

    evaluation_category = EvaluationCategory.LOCALISATION

    def evaluate_batch(self, a_batch: Any, s_batch: Any = None, **_: Any) -> Any:
        """Scores one batch."""
        if s_batch is None:
            raise ValueError(f"{type(self).__name__} compares maps with objects: pass s_batch")
        maps, masks = torch.as_tensor(a_batch), torch.as_tensor(s_batch)
        self.reasons += nan_reasons(maps, masks, mass=type(self).function is ebpg)
        return type(self).function(maps, masks, **self.options).tolist()
