"""The settings of training, each declared once: type, default, range and help.

The options of ``captum-excon train``, the keys of its YAML files, ``--set``, the keywords of the
training modules and the table in ``docs/training.md`` are made from these declarations. What a
single method adds is declared beside it, in `captum_excon.training.methods`. Nothing here imports
torch, so that ``--help`` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from captum_excon._settings import Settings, option

Positive = Annotated[int, Field(ge=1)]


class DataSettings(Settings):
    """Where images come from, and how they are split and batched."""

    model_config = ConfigDict(title="The data")

    data: str = option("--data", default=..., metavar="DIR or NAME")
    """A folder with train/CLASS/*.jpg and, if there is one, val/ or test/; a folder of classes,
    which is then split; Tiny ImageNet's own layout; or a dataset of torchvision such as cifar100,
    read from --root."""
    root: str = option("--root", default="data", metavar="DIR")
    """Folder of torchvision's datasets."""
    download: bool = False
    """Let torchvision download its dataset into --root."""
    classes: Positive | list[str] | None = option("--classes", metavar="N or NAMES")
    """Only these classes, separated by commas, or this many, spread evenly over the sorted list.
    By default all."""
    per_class: Positive | None = None
    """Largest number of images of each class, for training and validation together."""
    image_size: Positive | None = None
    """Side of the square images in pixels. By default 224 for a pretrained encoder, else the
    smaller side of the images, at most 224."""
    val_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training images held out to choose the best checkpoint."""
    split_seed: int = 0
    """Decides which images are held out, for every --seed."""
    augment: bool = True
    """Train on random crops, flips and colours."""
    drop_last: bool = False
    """Leave out the last training batch unless it is full."""
    on_corrupt: Literal["raise", "skip"] = "raise"
    """Stop at an image that cannot be read, or leave it out and count it."""
    cache_images: bool | Literal["auto"] = "auto"
    """Hold decoded images in memory; auto does so below 1.5 GiB."""
    batch_size: int = Field(default=128, ge=1)
    """Images in a step, on each device."""
    num_workers: int = option("--workers", default=2, ge=0)
    """Processes that read images; no result depends on it."""


class NetworkSettings(Settings):
    """What is trained."""

    model_config = ConfigDict(title="The network")

    encoder: str = option("--encoder", default="torchvision:resnet18", metavar="NAME")
    """demo, torchvision:NAME[@WEIGHTS], timm:NAME or package.module:function, your own. demo and
    @WEIGHTS come with their pretrained weights; weights in encoder_args names a file to start
    from."""
    encoder_args: dict[str, Any] = Field(default={})
    """Further arguments of the encoder's builder, as YAML: {drop_rate: 0.1}."""
    cifar_stem: bool | Literal["auto"] = "auto"
    """Start a ResNet with a 3x3 convolution of stride 1 and no max-pooling; auto does so for images
    of at most 64 pixels unless the encoder is pretrained."""
    pretrained: bool = False
    """Start from the library's weights, which are downloaded once."""


class OptimizationSettings(Settings):
    """How weights are updated."""

    model_config = ConfigDict(title="Optimisation")

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW."""
    lr: float | None = Field(default=None, gt=0)
    """Learning rate at the end of the warm-up; a half cosine to 0 follows. By default 0.1 for sgd,
    0.001 for adamw."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Weight decay."""
    warmup_epochs: int = Field(default=1, ge=0)
    """Epochs of each optimizer over which the learning rate rises linearly, at most half of all."""
    gradient_clip: float | None = Field(default=1.0, gt=0)
    """Largest norm of the gradient, for encoder and classifier each; null in YAML does not limit
    it, as in the papers."""
    seed: int = 0
    """Decides everything random: two runs with one seed are equal."""

    @property
    def rate(self) -> float:
        """The learning rate, by default the optimizer's usual one."""
        return self.lr or (0.001 if self.optimizer == "adamw" else 0.1)


class ExplanationSettings(Settings):
    """What explains, which weights, and what counts as salient."""

    model_config = ConfigDict(title="Explanations during training")

    explainer: str | Callable[..., Any] = option(
        "--explainer", default="layer-grad-cam", metavar="NAME"
    )
    """What explains, such as layer-grad-cam or input-x-gradient."""
    layer: str | None = option("--layer", metavar="NAME")
    """The encoder's layer that a layer method explains, such as layer4.1.conv2. By default the
    deepest suitable one."""
    threshold: float | None = Field(default=None, ge=0, lt=1)
    """Salient is what lies strictly above it in maps scaled to [0, 1]. By default the method's
    own."""
    keep_ratio: float | None = Field(default=None, gt=0, le=1)
    """Salient share of the pixels, in place of --threshold. By default the method's own."""
    fill: float | Literal["mean", "blur", "noise"] | Callable[..., Any] | None = None
    """What occluded pixels become, in normalised space: a number, the image's mean colour, a
    blurred image or noise. By default the method's own."""
    explain_mode: Literal["eval", "train"] = "eval"
    """The network's mode while it is explained. In training mode, that of ExCon's official code, a
    map depends on the other images of its batch."""
    start_epoch: int = Field(default=0, ge=0)
    """Epochs of plain training before the first explanation."""
    refresh: Positive | Literal["step", "teacher"] = "step"
    """Which weights explain: those of the current step; a copy made every N epochs; or teacher, a
    frozen copy made when explanations start."""
    cache: str | None = option("--cache", metavar="DIR")
    """Folder that keeps explanations of fixed weights. By default none are kept."""


class ModuleSettings(ExplanationSettings, OptimizationSettings):
    """What every training module takes; a method's own class adds to it."""

    model_config = ConfigDict(title="Where to compute")

    compile: bool | str = False
    """Compile the encoder with torch.compile; in YAML also the name of a backend."""


class MachineSettings(Settings):
    """Where the run is computed."""

    model_config = ConfigDict(title="Where to compute")

    accelerator: str = option("--accelerator", default="auto", metavar="auto|cpu|cuda|mps")
    """auto: a GPU if there is one."""
    devices: int = Field(default=1, ge=1)
    """Number of GPUs, or of processes on a CPU."""
    precision: str = option("--precision", default="32-true", metavar="32-true|bf16-mixed|16-mixed")
    """Number format of the network's passes."""
    deterministic: bool = False
    """Use deterministic kernels only, on a GPU too; slower."""


class EvaluationSettings(Settings):
    """How `captum_excon.training.evaluation` measures."""

    model_config = ConfigDict(title="How to measure")

    limit: Positive | None = None
    """Measure explanations and attacks, which cost the most, on this many test images: always the
    same ones, drawn by --seed. The other figures are of all images. By default all."""
    fraction: float = Field(default=0.15, gt=0, lt=1)
    """Share of the pixels that Drop and Increase keep; the papers' 0.15."""
    epsilons: Sequence[Positive] = option(
        "--epsilons", default=(1, 2, 4, 8), metavar="N,N,...", min_length=1
    )
    """Radii of FGSM and PGD in gray levels of 1/255."""
    pgd_steps: int = Field(default=10, ge=1)
    """Gradient steps of PGD."""
    seed: int = Field(default=0, ge=0)
    """Decides --limit's choice, the noise and the attacks."""
