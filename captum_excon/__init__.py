"""Integrated Grad-CAM, SISE and Ada-SISE as Captum attributions."""

from captum_excon._version import __version__

__all__ = ["__version__"]
