"""The photographs that the command line explains, and the figures named after them."""

from __future__ import annotations

import glob
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from captum_excon._files import SUFFIXES, check_writable, load_image, read_image
from captum_excon.errors import UserError

PHOTOGRAPH = "coffee"  # what `load_image` calls the demo


@dataclass(frozen=True)
class Source:
    """A photograph to explain: its name, how it is read, and where its figure goes."""

    name: str
    read: Callable[[], Image.Image]
    figure: Path


def find_sources(
    arguments: Sequence[str], out: Path | None
) -> tuple[list[Source], list[tuple[str, str]]]:
    """Finds the photographs, names a figure for each, and makes the figures' folder.

    Returns:
        The photographs (of no arguments scikit-image's), and (argument, message) for each argument
        without any.

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
        return [
            Source(f"{PHOTOGRAPH} (scikit-image)", partial(load_image, "demo"), figures[0])
        ], problems
    readers = [partial(read_image, path) for path in paths]
    return list(map(Source, map(str, paths), readers, figures)), problems


def find_images(arguments: Sequence[str]) -> tuple[list[Path], list[tuple[str, str]]]:
    """Expands folders (without sub-folders) and glob patterns into image files.

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


def figure_paths(images: Sequence[Path], folder: Path) -> list[Path]:
    """Names one PNG in ``folder`` after each image, none twice and none an image itself."""
    # Folded case: "Cat.png" and "cat.png" are one file on some systems.
    taken = {str(path.resolve()).casefold() for path in images}
    paths = []
    for image in images:
        for number in itertools.count(1):
            path = folder / (f"{image.stem}.png" if number == 1 else f"{image.stem}-{number}.png")
            key = str(path.resolve()).casefold()
            if key not in taken:
                break
        taken.add(key)
        paths.append(path)
    return paths
