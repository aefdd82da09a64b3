"""EDDA's losses for images whose salient region was occluded."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_excon.losses._checks import at_least_float32, check_choice, check_integers

EDDA_DROP = Literal["uniform", "background", "hinge", "suppress"]


def drop_loss(
    kind: EDDA_DROP,
    dropped_logits: Tensor,
    classes: Tensor,
    *,
    logits: Tensor | None = None,
    margin: float = 0.0,
    multilabel: bool = False,
) -> Tensor:
    """Computes EDDA's loss for images whose salient region was occluded, (N,) in float32 or more.

    That occlusion should lower the confidence is the paper's idea; the four forms are ours.

    Reference: *EDDA: Explanation-driven Data Augmentation to Improve Explanation Faithfulness*,
    https://arxiv.org/abs/2105.14162.

    Args:
        kind: The form; see `uniform_drop_loss` etc.
        dropped_logits: (N, C) logits of the occluded images; (N, C + 1) for ``background``.
        classes: (N,) integers: the class that was explained.
        logits: (N, C) logits of the images before occlusion; only used by ``hinge``.
        margin: The hinge's margin; only used by ``hinge``.
        multilabel: Use sigmoid probabilities; only for ``hinge`` and ``suppress``.

    Raises:
        ValueError: ``kind`` is unknown, a shape is wrong, ``logits`` is missing, or ``multilabel``
            is combined with a kind that needs a softmax.

    Example:
        >>> dropped = torch.tensor([[0.0, 0.0], [0.0, 20.0]])
        >>> drop_loss("suppress", dropped, torch.tensor([0, 0]))
        tensor([0.6931, 0.0000])
    """
    check_choice("kind", kind, get_args(EDDA_DROP))
    if multilabel and kind in ("uniform", "background"):
        raise ValueError(
            f"{kind!r} needs a softmax; with multilabel=True use 'hinge' or 'suppress'"
        )
    if kind == "uniform":
        return uniform_drop_loss(dropped_logits)
    if kind == "background":
        return background_drop_loss(dropped_logits)
    if kind == "suppress":
        return suppress_drop_loss(dropped_logits, classes, multilabel=multilabel)
    if logits is None:
        raise ValueError("the drop loss 'hinge' compares with the unoccluded images: pass logits=")
    return hinge_drop_loss(dropped_logits, logits, classes, margin=margin, multilabel=multilabel)


def uniform_drop_loss(dropped_logits: Tensor) -> Tensor:
    r"""Cross-entropy to the uniform distribution: :math:`-\frac1C \sum_k \log p_k`; (N, C) -> (N,).

    Its minimum is :math:`\log C`, for equal logits.
    """
    _check_logits(dropped_logits)
    return -at_least_float32(dropped_logits).log_softmax(1).mean(1)


def background_drop_loss(dropped_logits: Tensor) -> Tensor:
    r"""Cross-entropy to the last class, :math:`-\log p_C`; (N, C + 1) -> (N,).

    The head has one output more than there are classes; evaluation uses the first C.
    """
    _check_logits(dropped_logits)
    return -at_least_float32(dropped_logits).log_softmax(1)[:, -1]


def hinge_drop_loss(
    dropped_logits: Tensor,
    logits: Tensor,
    classes: Tensor,
    *,
    margin: float = 0.0,
    multilabel: bool = False,
) -> Tensor:
    r""":math:`\max(0, p_c(x_{drop}) - p_c(x) + m)`, no gradient through :math:`p_c(x)`; -> (N,)."""
    _check_logits(dropped_logits, classes)
    if logits.shape != dropped_logits.shape:
        raise ValueError(
            f"logits must have the shape of dropped_logits, {tuple(dropped_logits.shape)}, but "
            f"found {tuple(logits.shape)}"
        )
    before = _probability(logits.detach(), classes, multilabel)
    return (_probability(dropped_logits, classes, multilabel) - before + margin).relu()


def suppress_drop_loss(
    dropped_logits: Tensor, classes: Tensor, *, multilabel: bool = False
) -> Tensor:
    r""":math:`-\log(1 - p_c(x_{drop}))`; (N, C) -> (N,).

    Finite for all finite logits: :math:`1 - p_c` is the sum of the other classes' probabilities, or
    the sigmoid of the negative logit.
    """
    _check_logits(dropped_logits, classes)
    scores = at_least_float32(dropped_logits)
    index = classes.long().unsqueeze(1)
    if multilabel:
        return F.softplus(scores.gather(1, index)).squeeze(1)
    if scores.shape[1] < 2:
        raise ValueError("with one class its softmax is always 1; use multilabel=True")
    others = scores.scatter(1, index, -torch.inf)
    return scores.logsumexp(1) - others.logsumexp(1)


def _probability(logits: Tensor, classes: Tensor, multilabel: bool) -> Tensor:
    scores = at_least_float32(logits)
    probabilities = scores.sigmoid() if multilabel else scores.softmax(1)
    return probabilities.gather(1, classes.long().unsqueeze(1)).squeeze(1)


def _check_logits(dropped_logits: Tensor, classes: Tensor | None = None) -> None:
    if dropped_logits.dim() != 2 or not dropped_logits.is_floating_point():
        found = f"{dropped_logits.dtype} of the shape {tuple(dropped_logits.shape)}"
        raise ValueError(f"dropped_logits must be floating point (N, classes), but found {found}")
    if classes is None:
        return
    check_integers("classes", classes)
    if classes.shape != dropped_logits.shape[:1]:
        expected = f"one value per image, ({len(dropped_logits)},)"
        raise ValueError(f"classes must have {expected}, but found {tuple(classes.shape)}")
