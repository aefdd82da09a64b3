"""Adversarial images by Captum's FGSM and PGD, in pixel space and reproducible."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from captum.robust import FGSM, PGD
from torch import Tensor

Attack = Literal["fgsm", "pgd"]

ATTACKS: tuple[Attack, ...] = get_args(Attack)
PGD_STEPS = 10


def attacked(
    forward_func: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    epsilon: float,
    *,
    steps: int = PGD_STEPS,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Perturbs images within an L∞ ball so that the cross-entropy with their labels grows.

    FGSM: :math:`x' = \mathrm{clip}_{[0,1]}(x + \epsilon\,\mathrm{sign}\,\nabla_x L(f(x), y))`.
    PGD: ``steps`` such steps of :math:`2.5\,\epsilon / \mathtt{steps}` from a uniformly random
    point of the ball, each projected to the ball and to [0, 1]. The result is detached.

    Both are `captum.robust`'s, but for defaults that would make a model look more robust than it
    is: its loss is NaN for negative logits, and gradients below 1e-6 count as 0. Here the loss is
    per image :math:`\log \sum_{c \ne y} e^{f_c} - f_y` [ours]: its gradient has the signs of the
    cross-entropy's, but does not vanish where the model is sure. Pixels are not rounded to 256
    levels.

    References: Goodfellow et al., *Explaining and Harnessing Adversarial Examples*, ICLR 2015,
    https://arxiv.org/abs/1412.6572; Madry et al., *Towards Deep Learning Models Resistant to
    Adversarial Attacks*, ICLR 2018, https://arxiv.org/abs/1706.06083.

    Args:
        forward_func: Images in [0, 1] to logits (N, classes); in evaluation mode, so that a row
            does not depend on the other rows.
        images: (N, C, H, W), floating-point, in [0, 1], on the CPU or a CUDA device.
        labels: The true classes, (N,), int64.
        attack: "fgsm" or "pgd".
        epsilon: The ball's radius, in pixel values: 8 / 255 for eight gray levels.
        steps: PGD's gradient steps; FGSM has one.
        generator: Where PGD's start is drawn from, on the images' device; by default one with seed
            0. On the CPU several batches draw from it what one large batch would.

    Raises:
        ValueError: An unknown attack, ``epsilon`` or ``steps`` out of range, or images outside
            [0, 1].

    Example:
        >>> def model(x):  # the darker, the more of class 0
        ...     return torch.stack([-x.sum((1, 2, 3)), x.sum((1, 2, 3))], dim=1)
        >>> images, labels = torch.tensor([0.1, 0.5]).view(1, 1, 1, 2), torch.tensor([1])
        >>> attacked(model, images, labels, "fgsm", 0.25).squeeze()
        tensor([0.0000, 0.2500])
    """
    if attack not in ATTACKS:
        raise ValueError(f"attack must be one of {', '.join(ATTACKS)}, but found {attack!r}")
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon must be positive and finite, but found {epsilon!r}")
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a positive integer, but found {steps!r}")
    if not len(images):
        return images.clone()
    low, high = (float(x) for x in images.aminmax())
    if not (low >= 0 and high <= 1):  # NaN fails both
        raise ValueError(
            f"images must lie in [0, 1], but found values from {low:.3g} to {high:.3g}: attacks "
            "act on pixels, and the model normalises"
        )
    with warnings.catch_warnings():
        # Captum switches the gradients of its own intermediate images on, and warns each time.
        warnings.filterwarnings("ignore", message="Input Tensor 0 did not already require gradient")
        if attack == "fgsm":
            fgsm = FGSM(forward_func, _losses, lower_bound=0.0, upper_bound=1.0)
            fgsm.zero_thresh = 0.0
            perturbed = fgsm.perturb(images.detach().clone(), epsilon, target=labels)
        else:
            pgd = PGD(forward_func, _losses, lower_bound=0.0, upper_bound=1.0)
            pgd.fgsm.zero_thresh = 0.0
            if generator is None:
                generator = torch.Generator(images.device).manual_seed(0)
            with _drawing_from(generator, images.device):
                perturbed = pgd.perturb(
                    images.detach().clone(),
                    radius=epsilon,
                    step_size=2.5 * epsilon / steps,
                    step_num=steps,
                    target=labels,
                    random_start=True,
                )
    return perturbed.detach()  # type: ignore[no-any-return]


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """How far the other classes together exceed the true one, (N,)."""
    true = F.one_hot(labels, logits.shape[1]).bool()
    others = logits.masked_fill(true, -math.inf).logsumexp(dim=1)
    return others - logits.gather(1, labels[:, None])[:, 0]


@contextmanager
def _drawing_from(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """Lets what draws from the device's global random state draw from ``generator`` instead."""
    if generator.device.type != device.type:
        raise ValueError(
            f"generator is on {generator.device}, but the images are on {device}: make it with "
            f"torch.Generator({str(device)!r})"
        )
    # The CPU's state is forked in any case.
    cpu = device.type == "cpu"
    module = torch.random if cpu else torch.get_device_module(device)
    where = [] if cpu else [device]
    with torch.random.fork_rng(where, device_type="cuda" if cpu else device.type):
        module.set_rng_state(generator.get_state(), *where)
        yield
        generator.set_state(module.get_rng_state(*where))
