"""Another name of `captum_excon.metrics.quantus`."""

from captum_excon.metrics.quantus import *  # noqa: F403
from captum_excon.metrics.quantus import __all__ as __all__
