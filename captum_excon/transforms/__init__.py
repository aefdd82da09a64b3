"""torchvision v2 transforms and modules that augment images by their explanations."""

from captum_excon.transforms._fill import Fill
from captum_excon.transforms._undisturbed import Explainer, undisturbed
from captum_excon.transforms.edda import EDDA, EDDABatch
from captum_excon.transforms.excon import ExConBatch, ExConViews
from captum_excon.transforms.explanation_mask import ExplanationMask
from captum_excon.transforms.random_occlusion import RandomOcclusion
from captum_excon.transforms.saliency import Saliency

__all__ = [
    "EDDA",
    "EDDABatch",
    "ExConBatch",
    "ExConViews",
    "Explainer",
    "ExplanationMask",
    "Fill",
    "RandomOcclusion",
    "Saliency",
    "undisturbed",
]
