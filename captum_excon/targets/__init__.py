"""Any function of a model's output as the target of any Captum attribution."""

from captum_excon.targets.wrapper import CallableTargets, callable_targets, split_rows

__all__ = ["CallableTargets", "callable_targets", "split_rows"]
