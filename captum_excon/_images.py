"""Files of the command line: photographs in; figures and arrays out, whole or not at all."""

from __future__ import annotations

import difflib
import functools
import glob
import importlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    from torch import Tensor

    from captum_excon._explain import Explained, Job

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

# In scikit-image's wheel, under CC0.
PHOTOGRAPH = "coffee"


class UserError(Exception):
    """What the user can mend: shown as one line, without a traceback."""


@dataclass(frozen=True)
class Source:
    """A photograph to explain: its name, how it is read, and where its figure goes."""

    name: str
    read: Callable[[], Image.Image]
    figure: Path


def find_sources(
    arguments: Sequence[str], out: Path | None
) -> tuple[list[Source], list[tuple[str, str]]]:
    """Finds the photographs and names a figure for each; makes the folder of the figures.

    Args:
        arguments: As for `find_images`; none at all for scikit-image's photograph.
        out: A .png for a single image, or a folder.

    Returns:
        The photographs, and (argument, message) for each argument without any.

    Raises:
        UserError: ``out`` fits neither a file nor a folder, or cannot be written.
    """
    paths, problems = find_images(arguments) if arguments else ([Path(PHOTOGRAPH)], [])
    if not paths:
        return [], problems
    several = bool(arguments) and (len(arguments) > 1 or paths != [Path(arguments[0])])
    out = out or Path("explanations" if several else "explanation.png")
    if out.suffix.lower() == ".png" and not out.is_dir():
        if several:
            raise UserError(f"--out {out} is one figure, but there may be several; name a folder")
        if out.exists() and out.resolve() == paths[0].resolve():
            raise UserError(f"--out {out} is the image itself; choose another name")
        figures = [out]
    elif out.suffix and not out.is_dir():
        raise UserError(f"--out {out}: figures are PNG; name a file that ends in .png, or a folder")
    else:
        figures = figure_paths(paths, out)
    check_writable(figures[0].parent)
    if not arguments:
        return [Source(f"{PHOTOGRAPH} (scikit-image)", _photograph, figures[0])], problems
    readers = [functools.partial(read_image, path) for path in paths]
    return list(map(Source, map(str, paths), readers, figures)), problems


def _photograph() -> Image.Image:
    try:
        data: Any = importlib.import_module("skimage.data")
    except ImportError as error:
        raise UserError(
            "without an image, one of scikit-image's photographs is explained: "
            'pip install "captum-excon[demo]"'
        ) from error
    return Image.fromarray(getattr(data, PHOTOGRAPH)())


def find_images(arguments: Sequence[str]) -> tuple[list[Path], list[tuple[str, str]]]:
    """Expands folders and glob patterns into image files.

    Args:
        arguments: Files, folders (their images, not those of sub-folders) and patterns, in which
            ``**`` matches any depth.

    Returns:
        The files in the order given, none twice, and (argument, message) for each without any.
    """
    found: dict[Path, None] = {}
    problems = []
    for argument in arguments:
        path = Path(argument).expanduser()
        if path.is_dir():
            inside = (p for p in path.iterdir() if not p.name.startswith("."))
            hits = [p for p in inside if p.suffix.lower() in SUFFIXES and p.is_file()]
            problem = f"no images in this folder; looked for {', '.join(SUFFIXES)}"
        elif path.exists() or not glob.has_magic(argument):
            hits, problem = [path] if path.is_file() else [], "no such file"
        else:
            hits = [p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file()]
            problem = "no file matches this pattern"
        found.update(dict.fromkeys(sorted(hits)))
        if not hits:
            problems.append((argument, problem))
    return list(found), problems


def read_image(path: Path, *, upright: bool = True) -> Image.Image:
    """Reads an image as RGB, on white where it is transparent.

    The first frame of several is taken; 16 bits are scaled to 8, not clipped.

    Args:
        path: The file.
        upright: Turn it as its EXIF orientation says; else the pixels stay where they are stored.

    Raises:
        UserError: The file cannot be read as an image.
    """
    try:
        with Image.open(path) as file:
            return _to_rgb(ImageOps.exif_transpose(file) if upright else file)
    except UserError:
        raise
    except Exception as error:  # a corrupt file makes Pillow's decoders raise almost anything
        raise UserError(f"cannot be read as an image ({one_line(error)})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise UserError("its floating-point pixels have no known range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        # Pillow's own conversion clips at 255.
        values = np.asarray(image).clip(0, 65535)
        image = Image.fromarray((values / 257).round().astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def figure_paths(images: Sequence[Path], folder: Path) -> list[Path]:
    """Names one PNG in ``folder`` after each image, none twice and none an image itself."""
    # Folded case: "Cat.png" and "cat.png" are one file on some systems.
    taken = {str(path.resolve()).casefold() for path in images}
    paths = []
    for image in images:
        for name in _numbered(image.stem):
            path = folder / f"{name}.png"
            key = str(path.resolve()).casefold()
            if key not in taken:
                break
        taken.add(key)
        paths.append(path)
    return paths


def _numbered(stem: str) -> Iterator[str]:
    yield stem
    number = 2
    while True:
        yield f"{stem}-{number}"
        number += 1


def check_writable(folder: Path) -> None:
    """Makes the folder, and fails now and not after the work if nothing can be written there.

    Raises:
        UserError: The folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot make this folder ({one_line(error)})") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: cannot write in this folder; choose another with --out")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a temporary path that becomes ``path`` at the end, or vanishes after an error.

    Raises:
        UserError: The file cannot be written.
    """
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({one_line(error)})") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_figure(path: Path, job: Job, result: Explained) -> None:
    """Draws the photograph as the model saw it, and the maps beside and the layers' maps below."""
    from captum_excon.visualization import grid, overlay, save_png, to_uint8

    mean, std = job.model.mean, job.model.std

    def heat(saliency: Tensor) -> Tensor:
        return overlay(result.inputs, saliency[None], mean=mean, std=std)[0]

    pictures = [[to_uint8(result.inputs, mean=mean, std=std)[0]]]
    pictures[0] += [heat(e.saliency) for e in result.explanations]
    probability = float(result.probabilities[result.target])
    captions = [[f"{job.model.label(result.target)}, {probability:.0%}"]]
    captions[0] += [job.methods[e.method].__name__ for e in result.explanations]
    row_labels = [""]
    for e in result.explanations:
        if e.layer_maps:
            pictures.append([heat(saliency) for saliency in e.layer_maps.values()])
            captions.append(list(e.layer_maps))
            row_labels.append(job.methods[e.method].__name__)
    width = max(map(len, pictures))
    figure = grid(
        [[*row, *[None] * (width - len(row))] for row in pictures],
        captions=[[*row, *[""] * (width - len(row))] for row in captions],
        row_labels=row_labels if len(pictures) > 1 else None,
    )
    with written_whole(path) as temporary:
        save_png(figure, temporary)


def write_arrays(path: Path, name: str, job: Job, result: Explained) -> None:
    """Writes a compressed .npz of plain arrays, which loads with ``allow_pickle=False``.

    Under each method's name lies its map (H, W), under ``method.layer`` a layer's, all float32;
    ``image`` is what the model saw, (H, W, C) in [0, 1].
    """
    normalized = result.inputs[0].movedim(0, -1).cpu().numpy()
    arrays = {
        "path": np.array(name),
        "image": (normalized * job.model.std + job.model.mean).astype(np.float32),
        "target": np.array(result.target),
        "class_name": np.array(job.model.label(result.target)),
        "layers": np.array([layer.name for layer in job.layers], dtype=np.str_),
    }
    for e in result.explanations:
        arrays[e.method] = e.saliency.numpy()
        for layer, saliency in e.layer_maps.items():
            arrays[f"{e.method}.{layer}"] = saliency.numpy()
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def one_line(error: BaseException | str) -> str:
    """The message on one line; an error without a message gives its type."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def close_names(name: str, known: Iterable[str]) -> str:
    """A question about names like ``name``, empty if there are none."""
    by_key = {k.casefold(): k for k in known}
    close = difflib.get_close_matches(name.casefold(), by_key, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(by_key[k]) for k in close)}?" if close else ""
