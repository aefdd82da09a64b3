"""The command ``captum-excon explain``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm import tqdm

from captum_excon._messages import close_names, one_line
from captum_excon.cli._options import (
    Grayscale,
    Layers,
    ModelName,
    Size,
    Tokens,
    Weights,
    numbers,
    size_pair,
)
from captum_excon.cli._report import image_facts, image_text, model_facts, model_text
from captum_excon.cli.console import Json, Quiet, Traceback, complain, note, one_line_errors
from captum_excon.cli.outputs import Style, write_arrays, write_figure
from captum_excon.cli.sources import Source, find_sources
from captum_excon.errors import UserError

if TYPE_CHECKING:
    from captum_excon._methods import Method
    from captum_excon.cli._job import Job

ALL = ["integrated-grad-cam", "multi-layer-sise", "adaptive-hybrid-cam"]

# Options for some methods only, and the keywords of `attribute` that they become.
METHOD_OPTIONS = {
    "--threshold": ["threshold"],
    "--n-steps": ["n_steps"],
    "--n-masks": ["n_masks"],
    "--layer-maps": ["return_layer_maps"],
    "--batch-size": ["perturbations_per_eval", "internal_batch_size"],
    "--autocast": ["autocast_dtype"],
}

EPILOG = """\b
Examples:
  captum-excon explain --out explanation.png
  captum-excon explain dog.jpg --model torchvision:resnet50 --target "golden retriever"
  captum-excon explain photos/ "more/**/*.png" --method ada-sise --out figures
  captum-excon explain pets.jpg -m captum:layer-grad-cam,ada-sise --target tabby --target beagle
  captum-excon explain leaf.jpg --model runs/excon/best.ckpt
  captum-excon explain cat.jpg --layer-maps --save-npz --json > facts.json
  captum-excon explain digit.png --model nets:lenet --weights lenet.safetensors
      --size 28 --grayscale --mean 0.1307 --std 0.3081 --layers conv1,conv2

\b
Exit status: 0 if every image was explained, 2 if one or all could not be (one line on
standard error for each says why), 130 after Ctrl-C."""


def explain(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE",
            help="Image files, folders of images and quoted glob patterns. Without any, a "
            "photograph of an espresso that ships with scikit-image (CC0).",
        ),
    ] = None,
    method: Annotated[
        list[str],
        typer.Option(
            "--method",
            "-m",
            metavar="all or NAMES",
            rich_help_panel="What to explain",
            help=f"Separated by commas or given several times. all: {', '.join(ALL)}. Others: "
            "rise, score-cam; sise and ada-sise, the papers' names; Captum's, such as "
            "captum:layer-grad-cam and captum:saliency; pytorch-grad-cam's, such as "
            "grad-cam:LayerCAM.",
        ),
    ] = ["all"],  # noqa: B006 (typer copies it)
    target: Annotated[
        list[str],
        typer.Option(
            "--target",
            "-t",
            metavar="auto, INDEX or LABEL",
            rich_help_panel="What to explain",
            help="The class whose evidence is shown; auto: the most probable one of each image. "
            "Given several times: a row for each class.",
        ),
    ] = ["auto"],  # noqa: B006 (typer copies it)
    layers: Layers = "auto",
    model: ModelName = "demo",
    weights: Weights = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", rich_help_panel="The model", help="Names of the classes, one a line."
        ),
    ] = None,
    size: Size = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS",
            rich_help_panel="The model",
            help="Subtracted from the channels, which are in [0, 1]: 0.485,0.456,0.406, or one "
            "number for all. By default what the weights prescribe; 0 for your own.",
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS",
            rich_help_panel="The model",
            help="The channels are then divided by it; 1 for your own.",
        ),
    ] = None,
    grayscale: Grayscale = False,
    tokens: Tokens = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0,
            rich_help_panel="Method options",
            help="multi-layer-sise: the paper's µ; higher is faster and coarser. Default 0.",
        ),
    ] = None,
    n_steps: Annotated[
        int | None,
        typer.Option(
            min=2,
            rich_help_panel="Method options",
            help="integrated-grad-cam: points of the path from black to the image. Default 50.",
        ),
    ] = None,
    n_masks: Annotated[
        int | None,
        typer.Option(
            min=1, rich_help_panel="Method options", help="rise: random masks. Default 4000."
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda|mps",
            rich_help_panel="Speed",
            help="auto: a GPU if there is one. Also cuda:1 and so on.",
        ),
    ] = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel="Speed",
            help="Masked images per forward pass. By default found; no result depends on it.",
        ),
    ] = None,
    autocast: Annotated[
        str | None,
        typer.Option(
            metavar="bfloat16|float16",
            rich_help_panel="Speed",
            help="Precision of the masked forward passes, for speed at nearly equal maps.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            rich_help_panel="Output",
            help="The figure, a name that ends in .png; or a folder, made if needed, for one "
            "figure named after each image. Default: explanation.png, and explanations/ for "
            "several images. Existing figures are replaced, images never.",
        ),
    ] = None,
    layer_maps: Annotated[
        bool,
        typer.Option(
            "--layer-maps",
            rich_help_panel="Output",
            help="Also draw (and save) the map of each layer, for the SISE methods.",
        ),
    ] = False,
    save_npz: Annotated[
        bool,
        typer.Option(
            "--save-npz",
            rich_help_panel="Output",
            help="Write the maps beside each figure, as float32 arrays in a .npz file of its name.",
        ),
    ] = False,
    height: Annotated[
        int,
        typer.Option(
            min=16,
            rich_help_panel="Output",
            help="Height of each picture in the figure, in pixels.",
        ),
    ] = 288,
    cmap: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            rich_help_panel="Output",
            help="Colour map, by matplotlib's name: inferno, viridis, jet and so on.",
        ),
    ] = "inferno",
    alpha: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            rich_help_panel="Output",
            help="Opacity of the map: 0 shows the photograph alone, 1 the map alone.",
        ),
    ] = 0.6,
    as_json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Explains images: a figure of the photograph beside the saliency map of each method.

    The whole photograph is drawn; what the network does not see of it is pale. Also prints the five
    most probable classes, the layers, and what each method cost.
    """
    given = {
        "--threshold": threshold,
        "--n-steps": n_steps,
        "--n-masks": n_masks,
        "--layer-maps": layer_maps or None,
        "--batch-size": batch_size,
        "--autocast": autocast,
    }
    with one_line_errors(traceback) as say:
        sources, problems = find_sources(images or [], out)
        failed = [{"image": name, "message": message} for name, message in problems]
        for name, message in problems:
            complain("error", f"{name}: {message}")
        if not sources:
            raise typer.Exit(2)
        talk = not (as_json or quiet)
        if talk:
            note(f"loading {model} ...")
        # Imported now: torch takes seconds.
        from captum_excon.cli._job import Job
        from captum_excon.models import load_model
        from captum_excon.models.named_layers import reshape_for

        style = Style(height, _checked_cmap(cmap), alpha)
        methods = _chosen_methods(method)
        options = _method_options(methods, given)
        network = load_model(
            model,
            device=device,
            weights=weights,
            labels=labels,
            size=size_pair("--size", size),
            mean=numbers("--mean", mean),
            std=numbers("--std", std),
            grayscale=grayscale,
        )
        if not network.trained:
            complain("warning", f"{model} has random weights, so its maps mean nothing")
        reshape = reshape_for(size_pair("--tokens", tokens))
        job = Job(network, methods, layers, target, options, reshape)
        facts = model_facts(job)
        if talk:
            say(model_text(facts))
        watched = sys.stderr.isatty() and not quiet
        job.options["show_progress"] = watched
        done = []
        for source in tqdm(sources, unit="image", disable=not watched or len(sources) == 1):
            try:
                done.append(_one(source, job, style, save_npz))
            except Exception as error:
                if traceback:
                    raise
                failed.append({"image": source.name, "message": _reason(error)})
                complain("error", f"{source.name}: {_reason(error)}")
                continue
            if talk:
                say(image_text(done[-1]))
        if as_json:
            say(json.dumps({**facts, "images": done, "errors": failed}, indent=2))
        if failed:
            raise typer.Exit(2)


def _reason(error: Exception) -> str:
    if isinstance(error, ValueError):
        return one_line(error)
    return f"{type(error).__name__}: {one_line(error)}"


def _chosen_methods(given: list[str]) -> list[Method]:
    from captum_excon._methods import find_method, method_names

    names = [name.strip() for text in given for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f"--method is empty; methods are all, {', '.join(method_names())}")
    chosen = [n for name in names for n in (ALL if name == "all" else [name])]
    return list({m.name: m for m in (find_method(name, ["all"]) for name in chosen)}.values())


def _checked_cmap(name: str) -> str:
    from matplotlib import colormaps

    if name not in colormaps:
        raise UserError(
            f"--cmap: matplotlib has no colour map {name!r}{close_names(name, colormaps)}"
        )
    return name


def _method_options(methods: list[Method], given: dict[str, Any]) -> dict[str, Any]:
    """Returns keywords for `attribute`; an option that no chosen method has is an error."""
    import torch

    dtypes = {None: None, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if given["--autocast"] not in dtypes:
        raise UserError(
            f"--autocast must be bfloat16 or float16, but found {given['--autocast']!r}"
        )
    given = {**given, "--autocast": dtypes[given["--autocast"]]}
    keywords: dict[str, Any] = {}
    for option, value in given.items():
        if value is None:
            continue
        names = METHOD_OPTIONS[option]
        if not any(method.accepts(name) for method in methods for name in names):
            raise UserError(f"{option} is no option of {', '.join(m.name for m in methods)}")
        keywords.update(dict.fromkeys(names, value))
    return keywords


def _one(source: Source, job: Job, style: Style, save_npz: bool) -> dict[str, Any]:
    """Explains one image, writes its figure and arrays, and returns the facts about it."""
    result = job.explain(source.read())
    write_figure(source.figure, job, result, style)
    arrays = source.figure.with_suffix(".npz") if save_npz else None
    if arrays is not None:
        write_arrays(arrays, source.name, job, result)
    return image_facts(source.name, source.figure, arrays, job, result)
