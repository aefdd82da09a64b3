"""pytorch-grad-cam's methods as Captum attributions, and Captum's attributions behind its call.

grad-cam itself comes with ``pip install "captum-excon[bench]"``.
"""

from captum_excon.grad_cam.attribution import GradCamAttribution
from captum_excon.grad_cam.captum_cam import CaptumCam

__all__ = ["CaptumCam", "GradCamAttribution"]
