"""The layers of a network that emit its feature maps."""

from captum_excon.layers.select import (
    SelectedLayer,
    channels_last_to_first,
    select_layers,
    tokens_to_map,
    unwrap,
)

__all__ = ["SelectedLayer", "channels_last_to_first", "select_layers", "tokens_to_map", "unwrap"]
