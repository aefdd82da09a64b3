"""What a training method declares."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from captum_excon.training.methods._settings import ModuleSettings


@dataclass(frozen=True)
class Method:
    """A way of training, named by ``--method``.

    Attributes:
        name: The name.
        summary: What it does, for ``--help``.
        settings: All settings of its module.
        module: Where the `ExplainedModule` is, "package.module:Class".
        defaults: Values of shared settings whose default is None, the method's own.
        views: The views of each image that it trains on, as in `ExplanationDataModule`.
    """

    name: str
    summary: str
    settings: type[ModuleSettings]
    module: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    views: Literal["one", "excon"] = "one"

    def module_class(self) -> Any:
        """Imports the class of the training module."""
        path, _, name = self.module.partition(":")
        return getattr(importlib.import_module(path), name)

    def with_defaults(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Fills in the method's own defaults; a threshold or ratio that is given replaces both."""
        defaults = dict(self.defaults)
        if any(options.get(name) is not None for name in ("threshold", "keep_ratio")):
            defaults = {n: v for n, v in defaults.items() if n not in ("threshold", "keep_ratio")}
        return {**options, **{n: v for n, v in defaults.items() if options.get(n) is None}}
