"""Attributions drawn on photographs, and figures made of them."""

from captum_excon.visualization._grid import grid
from captum_excon.visualization._overlay import overlay
from captum_excon.visualization._pixels import save_png, to_uint8

__all__ = ["grid", "overlay", "save_png", "to_uint8"]
