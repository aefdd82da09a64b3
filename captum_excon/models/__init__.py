"""Models by name: the network, its preprocessing and its classes."""

from captum_excon._files import load_image
from captum_excon.models.encoders import build_encoder
from captum_excon.models.factory import load_model, pick_device
from captum_excon.models.model import Model

__all__ = ["Model", "build_encoder", "load_image", "load_model", "pick_device"]
