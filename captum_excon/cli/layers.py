"""The command ``captum-excon layers``."""

from __future__ import annotations

import json
from typing import Any

from captum_excon.cli._options import LayersSettings
from captum_excon.cli._report import layer_facts, table
from captum_excon.cli._settings_options import checked, with_options
from captum_excon.cli.console import Json, Traceback, note, one_line_errors


@with_options(LayersSettings)
def show_layers(given: dict[str, Any], as_json: Json = False, traceback: Traceback = False) -> None:
    """Lists the layers that are chosen for a model; downloads nothing.

    They are the last layer of each block, found by tracing one forward pass: the argument of
    --layers, and of the methods' layers= in Python.
    """
    with one_line_errors(traceback) as say:
        settings = checked(LayersSettings, given)
        if not as_json:
            note(f"loading {settings.model} ...")
        from captum_excon.models import load_model
        from captum_excon.models.named_layers import choose_layers, reshape_for

        network = load_model(
            settings.model, size=settings.size, grayscale=settings.grayscale, pretrained=False
        )
        chosen = choose_layers(network, settings.layers, reshape_for(settings.tokens))
        rows = [layer_facts(layer) for layer in chosen]
        if as_json:
            say(json.dumps({"model": settings.model, "layers": rows}, indent=2))
        else:
            for row in rows:
                row["size"] = "x".join(map(str, row["size"]))
            say(table(list(rows[0]), [list(row.values()) for row in rows]))
