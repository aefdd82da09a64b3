"""torchvision v2 transforms and modules that augment images by their explanations.

All raise TypeError for images to explain that are not floating point, and ValueError for options
out of range and for shapes that do not belong together.
"""

from captum_excon.transforms._fill import Fill
from captum_excon.transforms._undisturbed import Explainer, undisturbed
from captum_excon.transforms.edda import EDDA, EDDABatch
from captum_excon.transforms.excon import ExConBatch, ExConViews
from captum_excon.transforms.explanation_mask import ExplanationMask, RandomOcclusion
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
