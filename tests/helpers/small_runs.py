"""A folder of images and settings with which a whole run takes a second; children to be killed."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from captum_excon._settings import validated
from captum_excon.training.run.config import TrainConfig

SIZE = 12
CLASSES = ("blue", "green", "red")
METHODS = ("ce", "supcon", "excon", "exconb", "edda", "random-occlusion")


def picture(channel: int, seed: int) -> Image.Image:
    """Noise with a bright square of one colour, which tells the class."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 130, (SIZE, SIZE, 3), dtype=np.uint8)
    top, left = generator.integers(0, SIZE - 5, 2)
    pixels[top : top + 5, left : left + 5, channel] = 250
    return Image.fromarray(pixels)


def image_folder(root: Path, train: int = 10, test: int = 4) -> Path:
    """Makes train/CLASS/*.png and test/CLASS/*.png."""
    for split, count in (("train", train), ("test", test)):
        for channel, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                path = folder / f"{number}.png"
                picture(channel, 1000 * (split == "test") + 100 * channel + number).save(path)
    return root


def settings(data: Path, method: str = "excon", **changes: Any) -> TrainConfig:
    """A small ResNet, three epochs of seven steps, explained from the second one on."""
    return validated(
        TrainConfig,
        {
            "data": str(data),
            "method": method,
            "image_size": SIZE,
            "batch_size": 4,
            "num_workers": 0,
            "epochs": 3,
            "start_epoch": 1,
            "val_fraction": 0.2,
            "encoder": "timm:resnet10t",
            "encoder_args": {"stem_type": "deep", "stem_width": 4, "channels": [4, 4, 8, 8]},
            "cifar_stem": True,
            "layer": "layer2.0.conv2",
            "lr": 0.05,
            "warmup_epochs": 0,
            "gradient_clip": None,
            "accelerator": "cpu",
            **changes,
        },
    )


def replace(config: TrainConfig, **changes: Any) -> TrainConfig:
    return validated(TrainConfig, config.model_dump() | changes)


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=True)["state_dict"]
    return state


def same(a: Any, b: Any) -> bool:
    """Whether nested containers are equal, tensors and NaN bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) or (a != a and b != b)


def in_child(function: Callable[..., None], *arguments: Any) -> int:
    """Runs a function in a process of its own and returns the exit status, -9 after a kill."""
    context = multiprocessing.get_context("forkserver")
    # Imports once what takes seconds; each child is then forked from that process.
    context.set_forkserver_preload(["captum_excon.training.run.runner", "timm"])
    child = context.Process(target=_child, args=(function, arguments))
    child.start()
    child.join(120)
    assert child.exitcode is not None, "the child hangs"
    return child.exitcode


def _child(function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    # Loader workers that are forked from this process see it die; those of a server would not.
    multiprocessing.set_start_method("fork", force=True)
    function(*arguments)


def killing(
    call: Callable[..., Any], at: int, by: signal.Signals = signal.SIGKILL
) -> Callable[..., Any]:
    """Wraps a function so that its process is killed, as by kill -9, before the call `at`."""
    count = 0

    def wrapped(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == at:
            os.kill(os.getpid(), by)
        return call(*arguments, **options)

    return wrapped
