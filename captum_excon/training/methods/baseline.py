"""Plain cross-entropy, which `EDDAModule` computes without copies."""

from __future__ import annotations

from captum_excon.training.methods._method import Method
from captum_excon.training.methods.edda import EDDASettings

METHODS = [
    Method("ce", "cross-entropy", EDDASettings, "captum_excon.training.modules.edda:EDDAModule")
]
