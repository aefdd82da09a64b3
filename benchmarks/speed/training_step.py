"""The time of one ExCon step against the sum of the passes that it cannot do without.

    python -m benchmarks.speed.training_step --out benchmarks/results/speed/training-step.json

In one run and in turn, a whole step (views, loss, backward) is timed, and each of its bare passes
on its own: one forward and backward for the map, one forward for acceptance, and the forward and
backward of the encoder on the views, with the plainest loss. The ratio is the price of all that is
not the network: masks, fills, statistics, state put back, the contrastive loss. The optimiser's
update, which both have, is left out of both.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, cast

import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn
from tqdm.auto import tqdm

from benchmarks.speed.measuring import new_parser, publish, seconds
from captum_excon.losses import ExConLoss
from captum_excon.training import ProjectionHead, build_encoder
from captum_excon.transforms import ExConViews


def steps(
    encoder: nn.Module, layer: nn.Module, batch_size: int, size: int, classes: int, exconb: bool
) -> dict[str, Callable[[], Any]]:
    """The whole step and its bare passes, on fixed random images."""
    device = next(encoder.parameters()).device
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, batch_size, 3, size, size, generator=generator).to(device)
    standard, random1, random2 = images
    features = cast(int, encoder.feature_dim)
    head = ProjectionHead(features, out_dim=128).to(device)
    linear = nn.Linear(features, classes).to(device)
    classifier = nn.Sequential(encoder, linear)
    labels = torch.randint(0, classes, (batch_size,), generator=generator).to(device)
    if exconb:
        # Half of an untrained network's predictions, so that there are some backgrounds.
        with torch.no_grad():
            labels[::2] = classifier.eval()(standard).argmax(1)[::2]
    classifier.train()
    for part in encoder.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.momentum = 0.0  # or the number of backgrounds would change from step to step
    views = ExConViews(classifier, LayerGradCam(classifier, layer), background=exconb)
    loss = ExConLoss(background="negatives" if exconb else "exclude")
    rows = len(views(standard, random1, random2, labels).views)

    def step() -> None:
        batch = views(standard, random1, random2, labels)
        features = head(encoder(batch.views.transpose(0, 1).flatten(0, 1)))
        features = features.unflatten(0, (2, len(batch.labels))).transpose(0, 1)
        loss(features, batch.labels, batch.background).backward()

    def explain() -> None:
        classifier.eval()
        kept: list[Tensor] = []
        handle = layer.register_forward_hook(lambda module, args, out: kept.append(out))
        try:
            logits = classifier(standard)
        finally:
            handle.remove()
        torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), kept)
        classifier.train()

    def accept() -> None:
        classifier.eval()
        with torch.no_grad():
            classifier(standard)
        classifier.train()

    contrast_input = torch.cat([random1, random2, random1, random2])[: 2 * rows]

    def contrast() -> None:
        head(encoder(contrast_input)).sum().backward()

    return {"step": step, "explain": explain, "accept": accept, "contrast": contrast}


def main() -> None:
    """Measures, prints, and saves."""
    parser = new_parser(__doc__, repeats=5)
    parser.add_argument("--encoder", default="torchvision:resnet18", help="as in `train --encoder`")
    parser.add_argument("--layer", default="layer4", help="that is explained")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--exconb", action="store_true", help="with backgrounds")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(0)
    encoder = build_encoder(options.encoder, cifar_stem=options.size < 64).to(device)
    calls = steps(
        encoder,
        encoder.get_submodule(options.layer),
        options.batch_size,
        options.size,
        options.classes,
        options.exconb,
    )
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in tqdm(range(options.repeats + 1), desc="rounds"):
        for name, call in calls.items():
            encoder.zero_grad(set_to_none=True)
            taken = seconds(call, device)
            if repeat:  # the first round warms up
                times[name].append(taken)
    best = {name: min(values) for name, values in times.items()}
    bare = best["explain"] + best["accept"] + best["contrast"]
    rounds = [
        step / (explain + accept + contrast)
        for step, explain, accept, contrast in zip(*times.values(), strict=True)
    ]
    figures = {
        "encoder": options.encoder,
        "layer": options.layer,
        "batch size": options.batch_size,
        "image size": options.size,
        "method": "exconb" if options.exconb else "excon",
        "seconds": best,
        "ratio": best["step"] / bare,
        "median ratio of the rounds": statistics.median(rounds),
    }
    publish(figures, options)


if __name__ == "__main__":
    main()
