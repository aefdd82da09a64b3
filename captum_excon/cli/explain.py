"""The command ``captum-excon explain``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm import tqdm

from captum_excon._messages import one_line
from captum_excon.cli._options import ExplainSettings
from captum_excon.cli._report import image_facts, image_text, model_facts, model_text
from captum_excon.cli._settings_options import checked, with_options
from captum_excon.cli.console import Json, Quiet, Traceback, complain, note, one_line_errors
from captum_excon.cli.outputs import write_arrays, write_figure
from captum_excon.cli.sources import Source, find_sources
from captum_excon.errors import UserError

if TYPE_CHECKING:
    from captum_excon.cli._job import Job
    from captum_excon.methods.registry import Method

ALL = ["fused-group-cam", "integrated-grad-cam", "multi-layer-sise", "adaptive-hybrid-cam"]

# Options for some methods only, and the keywords of `attribute` that they become.
METHOD_OPTIONS = {
    "threshold": ["threshold"],
    "n_steps": ["n_steps"],
    "n_masks": ["n_masks"],
    "layer_maps": ["return_layer_maps"],
    "batch_size": ["perturbations_per_eval", "internal_batch_size"],
    "autocast": ["autocast_dtype"],
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


@with_options(ExplainSettings)
def explain(
    given: dict[str, Any],
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
            "fused-grad-cam, rise, score-cam; sise and ada-sise, the papers' names; Captum's, such "
            "as captum:layer-grad-cam and captum:saliency; pytorch-grad-cam's, such as "
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
    as_json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Explains images: a figure of the photograph beside the saliency map of each method.

    The whole photograph is drawn; what the network does not see of it is pale. Also prints the five
    most probable classes, the layers, and what each method cost.
    """
    with one_line_errors(traceback) as say:
        settings = checked(ExplainSettings, given)
        sources, problems = find_sources(images or [], Path(settings.out) if settings.out else None)
        failed = [{"image": name, "message": message} for name, message in problems]
        for name, message in problems:
            complain("error", f"{name}: {message}")
        if not sources:
            raise typer.Exit(2)
        talk = not (as_json or quiet)
        if talk:
            note(f"loading {settings.model} ...")
        # Imported now: torch takes seconds.
        from captum_excon.cli._job import Job
        from captum_excon.models import load_model
        from captum_excon.models.named_layers import reshape_for

        methods = _chosen_methods(method)
        options = _method_options(methods, settings)
        network = load_model(
            settings.model,
            **settings.model_dump(
                include={"device", "weights", "labels", "size", "mean", "std", "grayscale"}
            ),
        )
        if not network.trained:
            complain("warning", f"{settings.model} has random weights, so its maps mean nothing")
        reshape = reshape_for(settings.tokens)
        job = Job(network, methods, settings.layers, target, options, reshape)
        facts = model_facts(job)
        if talk:
            say(model_text(facts))
        watched = sys.stderr.isatty() and not quiet
        job.options["show_progress"] = watched
        done = []
        for source in tqdm(sources, unit="image", disable=not watched or len(sources) == 1):
            try:
                done.append(_one(source, job, settings))
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
    from captum_excon.methods.registry import find_method, method_names

    names = [name.strip() for text in given for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f"--method is empty; methods are all, {', '.join(method_names())}")
    chosen = [n for name in names for n in (ALL if name == "all" else [name])]
    return list({m.name: m for m in (find_method(name, ["all"]) for name in chosen)}.values())


def _method_options(methods: list[Method], settings: ExplainSettings) -> dict[str, Any]:
    """Returns keywords for `attribute`; an option that no chosen method has is an error."""
    import torch

    keywords: dict[str, Any] = {}
    for option, names in METHOD_OPTIONS.items():
        value = getattr(settings, option)
        if value is None or value is False:
            continue
        if not any(method.accepts(name) for method in methods for name in names):
            flag = f"--{option.replace('_', '-')}"
            raise UserError(f"{flag} is not an option of {', '.join(m.name for m in methods)}")
        value = getattr(torch, value) if option == "autocast" else value
        keywords.update(dict.fromkeys(names, value))
    return keywords


def _one(source: Source, job: Job, settings: ExplainSettings) -> dict[str, Any]:
    """Explains one image, writes its figure and arrays, and returns the facts about it."""
    result = job.explain(source.read())
    write_figure(source.figure, job, result, settings)
    arrays = source.figure.with_suffix(".npz") if settings.save_npz else None
    if arrays is not None:
        write_arrays(arrays, source.name, job, result)
    return image_facts(source.name, source.figure, arrays, job, result)
