"""Models by name: the network, its preprocessing and its classes."""

from captum_excon.models.factory import Model, load_model, pick_device

__all__ = ["Model", "load_model", "pick_device"]
