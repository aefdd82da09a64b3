"""Second implementations of the attribution methods: slow, obvious, one image at a time.

They follow the papers' formulas line by line and share nothing with the package: masks are
up-sampled to the input's resolution before anything else is done with them, every mask is scored
by its own forward pass unless `rows` says otherwise, and gradients are taken in float64.
Layers are names, because the gradients come from a float64 copy of the model.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d
from skimage.filters import threshold_otsu
from torch import Tensor, nn

Score = str | Callable[[Tensor], Tensor]
Reshape = Callable[[Tensor], Tensor]

SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda output: output.softmax(1),
    "sigmoid": lambda output: output.sigmoid(),
    "identity": lambda output: output,
}


def activations_and_gradients(
    model: nn.Module,
    image: Tensor,
    target: int | tuple[int, ...],
    layers: list[str],
    score: Score = "identity",
    reshape: Reshape = lambda activation: activation,
) -> list[tuple[Tensor, Tensor]]:
    """(activation, gradient of the target's score), each (C, *spatial) in float64, per layer."""
    model = copy.deepcopy(model).double()
    index = target if isinstance(target, tuple) else (target,)
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., Tensor]:
        def hook(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            output.retain_grad()
            kept[name] = output  # a later call of the same module replaces an earlier one
            return output.clone()  # an in-place operation that follows changes the copy only

        return hook

    for name in layers:
        model.get_submodule(name).register_forward_hook(keep(name))
    with torch.enable_grad():
        output = model(image[None].double().requires_grad_())
        _score_function(score)(output)[(0, *index)].backward()
    pairs = [(kept[name].detach(), kept[name].grad) for name in layers]
    return [(reshape(a)[0], reshape(torch.zeros_like(a) if g is None else g)[0]) for a, g in pairs]


def sise(
    model: nn.Module,
    image: Tensor,
    target: int | tuple[int, ...],
    layers: list[str],
    *,
    baseline: Tensor | float = 0.0,
    threshold: float | None = 0.0,
    score: Score = "softmax",
    fusion: str = "otsu",
    hybrid: bool = False,
    smooth: float = 0.0,
    rectify: bool = True,
    reshape: Reshape = lambda activation: activation,
    rows: int = 1,
) -> tuple[Tensor, list[Tensor | None], list[int]]:
    """SISE of one image (C, *size): the fused map, the layers' maps, the masks kept per layer.

    `threshold=None` is Ada-SISE. A layer that keeps no mask has the layer map `None`.
    """
    pairs = activations_and_gradients(model, image, target, layers, score, reshape)
    layer_maps: list[Tensor | None] = []
    counts = []
    for activations, gradients in pairs:
        alpha = gradients.flatten(1).sum(1)
        keep = adaptive_selection(alpha) if threshold is None else selection(alpha, threshold)
        masks = attribution_masks(activations[keep], tuple(image.shape[1:]), rectify)
        counts.append(len(masks))
        if not masks:
            layer_maps.append(None)
            continue
        scores = masked_scores(model, image, baseline, masks, target, score, rows)
        total = sum(s * mask / mask.sum() for s, mask in zip(scores, masks, strict=True))
        layer_maps.append(min_max(total / len(masks)))
    fused = fuse(layer_maps, fusion, tuple(image.shape[1:]))
    if hybrid:
        [cam] = grad_cams(model, image, target, layers[-1:], reshape)
        fused = fused * (torch.zeros_like(fused) if cam is None else cam)
    return blurred(fused, smooth, pairs[-1][0].shape[1:]), layer_maps, counts


def ada_sise(
    model: nn.Module, image: Tensor, target: int | tuple[int, ...], layers: list[str], **options
) -> tuple[Tensor, list[Tensor | None], list[int]]:
    """Ada-SISE of one image."""
    return sise(model, image, target, layers, threshold=None, **options)


def grad_cams(
    model: nn.Module,
    image: Tensor,
    target: int | tuple[int, ...],
    layers: list[str],
    reshape: Reshape = lambda activation: activation,
    *,
    size: tuple[int, ...] | None = None,
) -> list[Tensor | None]:
    """Grad-CAM of one image at each layer, at the image's size, rectified, with a maximum of 1."""
    size = size or tuple(image.shape[1:])
    cams: list[Tensor | None] = []
    for activations, gradients in activations_and_gradients(
        model, image, target, layers, "identity", reshape
    ):
        weights = gradients.flatten(1).mean(1).view(-1, *[1] * (activations.ndim - 1))
        cam = resize((weights * activations).sum(0), size).clamp(min=0)
        cams.append(cam / cam.max() if cam.max() > 0 else None)
    return cams


def viewed_cams(
    model: nn.Module,
    image: Tensor,
    target: int,
    layers: list[str],
    scales: tuple[float, ...],
    mirror: bool,
) -> list[Tensor | None]:
    """Grad-CAM at every layer, each view with a maximum of 1, added up to a maximum of 1."""
    size = tuple(image.shape[1:])
    views = [grad_cams(model, image, target, layers)]
    if mirror:
        flipped = grad_cams(model, image.flip(-1), target, layers)
        views.append([None if cam is None else cam.flip(-1) for cam in flipped])
    for scale in scales[1:]:
        larger = tuple(round(scale * length) for length in size)
        scaled = torch.stack([resize(channel, larger) for channel in image])
        views.append(grad_cams(model, scaled, target, layers, size=size))
    cams: list[Tensor | None] = []
    for per_layer in zip(*views, strict=True):
        seen = [cam for cam in per_layer if cam is not None]
        total = torch.stack(seen).sum(0) if seen else None
        cams.append(None if total is None else total / total.max())
    return cams


def fused_grad_cam(
    model: nn.Module,
    image: Tensor,
    target: int,
    layers: list[str],
    *,
    smooth: float = 0.25,
    scales: tuple[float, ...] = (1.0,),
    mirror: bool = False,
) -> Tensor:
    """Grad-CAM of one image at every layer, gated from shallow to deep and smoothed."""
    cams = viewed_cams(model, image, target, layers, scales, mirror)
    fused = fuse(cams, "gated", tuple(image.shape[1:]))
    [(deepest, _)] = activations_and_gradients(model, image, target, layers[-1:])
    return blurred(fused, smooth, deepest.shape[1:])


def fused_group_cam(
    model: nn.Module,
    image: Tensor,
    target: int,
    layers: list[str],
    *,
    groups: int = 8,
    smooth: float = 0.25,
    scales: tuple[float, ...] = (1.0, 1.5),
    mirror: bool = True,
) -> Tensor:
    """Scores of the deepest layer's grouped maps, times the gated Grad-CAM of all layers."""
    size = tuple(image.shape[1:])
    [(activations, gradients)] = activations_and_gradients(model, image, target, layers[-1:])
    alpha = gradients.flatten(1).mean(1)
    maps = [a * m.clamp(min=0) for a, m in zip(alpha, activations, strict=True) if a > 0]
    masks = [min_max(resize(m, size)) for m in clusters(maps, groups) if m.min() < m.max()]
    gate = fused_grad_cam(model, image, target, layers, smooth=0, scales=scales, mirror=mirror)
    if masks:
        scores = masked_scores(model, image, 0.0, masks, target, "softmax", 1)
        value = min_max(sum(s * mask / mask.sum() for s, mask in zip(scores, masks, strict=True)))
        gate = value * gate if gate.max() > 0 else value
    return blurred(gate, smooth, activations.shape[1:])


def clusters(maps: list[Tensor], groups: int) -> list[Tensor]:
    """Spherical k-means, heaviest map first, then the heavy and unlike ones; each cluster's sum."""
    maps = [m for m in maps if m.sum() > 0]
    if not maps:
        return []
    centers = [max(maps, key=lambda m: m.sum())]
    while len(centers) < min(groups, len(maps)):
        gains = [
            (1 - max(cosine(m, c) for c in centers)) * m.sum().sqrt()
            if max(cosine(m, c) for c in centers) < 1 - 1e-5
            else torch.tensor(0.0)
            for m in maps
        ]
        if max(gains) == 0:
            break
        centers.append(maps[gains.index(max(gains))])
    for _ in range(11):
        members: list[list[Tensor]] = [[] for _ in centers]
        for m in maps:
            cosines = [cosine(m, c) for c in centers]
            members[cosines.index(max(cosines))].append(m)
        sums = [torch.stack(group).sum(0) if group else None for group in members]
        centers = [c if total is None else total for c, total in zip(centers, sums, strict=True)]
    return [total for total in sums if total is not None]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle between two maps."""
    return (a * b).sum() / (a.norm() * b.norm())


def igcam(
    model: nn.Module,
    image: Tensor,
    target: int | tuple[int, ...],
    layers: list[str],
    *,
    baseline: Tensor | float = 0.0,
    n_steps: int = 50,
    method: str = "riemann_right",
    subtract_baseline: bool = True,
    relu: bool = True,
    reshape: Reshape = lambda activation: activation,
) -> list[Tensor]:
    """Integrated Grad-CAM of one image: per layer a map at the layer's resolution."""
    start = torch.as_tensor(baseline, dtype=torch.float64).expand_as(image)
    at_start = activations_and_gradients(model, start, target, layers, "identity", reshape)
    maps = [torch.zeros(activation.shape[1:]).double() for activation, _ in at_start]
    for node, weight in quadrature(method, n_steps):
        point = start + node * (image.double() - start)
        pairs = activations_and_gradients(model, point, target, layers, "identity", reshape)
        for i, (activation, gradient) in enumerate(pairs):
            alpha = gradient.flatten(1).mean(1).view(-1, *[1] * (activation.ndim - 1))
            change = activation - at_start[i][0] if subtract_baseline else activation
            step = (alpha * change).sum(0)
            maps[i] += weight * (step.clamp(min=0) if relu else step)
    return maps


def rise(
    model: nn.Module,
    image: Tensor,
    target: int | tuple[int, ...],
    masks: Tensor,
    *,
    baseline: Tensor | float = 0.0,
    score: Score = "softmax",
) -> Tensor:
    """RISE of one image with the given masks (M, *size): the mean of score times mask."""
    scores = masked_scores(model, image, baseline, list(masks.double()), target, score, 1)
    return sum(s * mask for s, mask in zip(scores, masks.double(), strict=True)) / len(masks)


def score_cam(
    model: nn.Module,
    image: Tensor,
    target: int | tuple[int, ...],
    layer: str,
    *,
    baseline: Tensor | float = 0.0,
    score: Score = "identity",
    align_corners: bool = False,
    reshape: Reshape = lambda activation: activation,
    rows: int = 1,
) -> Tensor:
    """Score-CAM of one image at the layer's resolution: channels weighted by softmaxed scores.

    A constant map is an all-zero mask, so its weight comes from the score of the baseline.
    """
    [(activations, _)] = activations_and_gradients(
        model, image, target, [layer], "identity", reshape
    )
    size = tuple(image.shape[1:])
    masks = [min_max(resize(activation, size, align_corners)) for activation in activations]
    scores = masked_scores(model, image, baseline, masks, target, score, rows)
    weights = torch.stack(scores).softmax(0).view(-1, *[1] * len(size))
    return (weights * activations).sum(0).clamp(min=0)


def selection(alpha: Tensor, threshold: float) -> Tensor:
    """Channels whose gradient is positive and exceeds `threshold` times the largest one."""
    return (alpha > 0) & (alpha > threshold * alpha.max())


def adaptive_selection(alpha: Tensor) -> Tensor:
    """Channels above the Otsu threshold of the positive gradients; the largest always."""
    if alpha.max() <= 0:
        return torch.zeros_like(alpha, dtype=torch.bool)
    relative = alpha / alpha.max()
    keep = relative > otsu(relative[relative > 0])
    keep[alpha.argmax()] = True
    return keep


def attribution_masks(activations: Tensor, size: tuple[int, ...], rectify: bool) -> list[Tensor]:
    """Up-sample, then min-max; constant maps give no mask."""
    maps = activations.clamp(min=0) if rectify else activations
    return [min_max(resize(map_, size)) for map_ in maps if map_.min() < map_.max()]


def masked_scores(
    model: nn.Module,
    image: Tensor,
    baseline: Tensor | float,
    masks: list[Tensor],
    target: int | tuple[int, ...],
    score: Score,
    rows: int,
) -> list[Tensor]:
    """Score of the target for each masked image, `rows` masks at a time."""
    index = target if isinstance(target, tuple) else (target,)
    scores: list[Tensor] = []
    for first in range(0, len(masks), rows):
        chunk = torch.stack(masks[first : first + rows])[:, None]
        with torch.no_grad():
            masked = (chunk * image + (1 - chunk) * baseline).to(image.dtype)
            output = _score_function(score)(model(masked).double())
        scores += list(output[(slice(None), *index)])
    return scores


def fuse(layer_maps: list[Tensor | None], fusion: str, size: tuple[int, ...]) -> Tensor:
    """From the shallowest layer to the deepest: add the layer's map, then mask by it."""
    fused = torch.zeros(size).double()
    for block, layer_map in enumerate(layer_maps):
        if layer_map is None:
            continue
        if fusion in ("gated", "product"):
            before, empty = fused, not any(m is not None for m in layer_maps[:block])
            product = (
                before * layer_map if fusion == "product" else (before + layer_map) * layer_map
            )
            fused = layer_map if empty else product
            continue
        fused = fused + layer_map
        if block == 0 or fusion == "sum":
            continue
        t = otsu(layer_map)
        if fusion == "otsu":
            fused = fused * (layer_map > t)
        else:
            if (layer_map > 1.5 * t).double().mean() < 0.1:
                t = 1.5 * t
            fused = fused * torch.sigmoid(100 * (layer_map - t))
    return fused


def blurred(map_: Tensor, cells: float, grid: tuple[int, ...]) -> Tensor:
    """A Gaussian whose σ is measured in cells of a grid that covers the map."""
    sigmas = [cells * size / count for size, count in zip(map_.shape, grid, strict=True)]
    radii = [min(round(3 * s), size - 1) for s, size in zip(sigmas, map_.shape, strict=True)]
    smoothed = map_.numpy()
    for axis, (sigma, radius) in enumerate(zip(sigmas, radii, strict=True)):
        if radius > 0:
            smoothed = gaussian_filter1d(smoothed, sigma, axis, mode="mirror", radius=radius)
    return torch.from_numpy(smoothed)


def otsu(values: Tensor) -> float:
    """Otsu's threshold with 256 bins on [0, 1], as the centre of the last background bin."""
    counts, edges = np.histogram(values.double().numpy(), bins=256, range=(0, 1))
    centres = (edges[:-1] + edges[1:]) / 2
    if (counts > 0).sum() == 1:
        return float(centres[counts.argmax()])
    return float(threshold_otsu(hist=(counts, centres)))


def quadrature(method: str, n: int) -> list[tuple[float, float]]:
    """(node, weight) pairs on [0, 1], in Captum's conventions."""
    if method == "gausslegendre":
        nodes, weights = np.polynomial.legendre.leggauss(n)
        return [((1 + node) / 2, weight / 2) for node, weight in zip(nodes, weights, strict=True)]
    if method == "riemann_trapezoid":
        return [(t / (n - 1), (0.5 if t in (0, n - 1) else 1.0) / n) for t in range(n)]
    shift = {"riemann_left": 0.0, "riemann_middle": 0.5, "riemann_right": 1.0}[method]
    return [((t + shift) / n, 1 / n) for t in range(n)]


def resize(map_: Tensor, size: tuple[int, ...], align_corners: bool = False) -> Tensor:
    """Linear interpolation of (*spatial) to `size`."""
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    return F.interpolate(map_[None, None], size, mode=mode, align_corners=align_corners)[0, 0]


def min_max(map_: Tensor) -> Tensor:
    """To [0, 1]; a constant map becomes zero."""
    spread = map_.max() - map_.min()
    return (map_ - map_.min()) / spread if spread > 0 else torch.zeros_like(map_)


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson correlation of two maps."""
    return float(torch.corrcoef(torch.stack([a.double().flatten(), b.double().flatten()]))[0, 1])


def support_iou(a: Tensor, b: Tensor) -> float:
    """Intersection over union of the supports of two maps; 1 if both are empty."""
    union = ((a > 0) | (b > 0)).sum()
    return float(((a > 0) & (b > 0)).sum() / union) if union else 1.0


def _score_function(score: Score) -> Callable[[Tensor], Tensor]:
    return SCORES[score] if isinstance(score, str) else score
