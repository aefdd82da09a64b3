"""The metrics as `quantus.Metric` classes: another name of `captum_excon.metrics.quantus`."""

from captum_excon.metrics.quantus.classes import *  # noqa: F403
from captum_excon.metrics.quantus.classes import __all__ as __all__
