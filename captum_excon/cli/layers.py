"""The command ``captum-excon layers``."""

from __future__ import annotations

import json

from captum_excon.cli._options import Grayscale, Layers, ModelName, Size, Tokens, size_pair
from captum_excon.cli._report import layer_facts, table
from captum_excon.cli.console import Json, Traceback, note, one_line_errors


def show_layers(
    model: ModelName = "demo",
    size: Size = None,
    layers: Layers = "auto",
    grayscale: Grayscale = False,
    tokens: Tokens = None,
    as_json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Lists the layers that are chosen for a model; downloads nothing.

    They are the last layer of each block, found by tracing one forward pass: the argument of
    --layers, and of the methods' layers= in Python.
    """
    with one_line_errors(traceback) as say:
        if not as_json:
            note(f"loading {model} ...")
        from captum_excon.models import load_model
        from captum_excon.models.named_layers import choose_layers, reshape_for

        network = load_model(
            model, size=size_pair("--size", size), grayscale=grayscale, pretrained=False
        )
        reshape = reshape_for(size_pair("--tokens", tokens))
        chosen = choose_layers(network, layers, reshape)
        rows = [layer_facts(layer) for layer in chosen]
        if as_json:
            say(json.dumps({"model": model, "layers": rows}, indent=2))
        else:
            for row in rows:
                row["size"] = "x".join(map(str, row["size"]))
            say(table(list(rows[0]), [list(row.values()) for row in rows]))
