"""Attributions drawn on photographs, and figures made of them."""

from captum_excon.visualization.pictures import grid, overlay, save_png, to_uint8

__all__ = ["grid", "overlay", "save_png", "to_uint8"]
