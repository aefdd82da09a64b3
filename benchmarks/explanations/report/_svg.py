"""Figures of matplotlib as SVG elements that stand in a page and take its colours and its font."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# As they are drawn, and the variables of the page's style sheet that replace them.
ACCENT, ACCENT_2, INK, QUIET, RULE = "#1557b0", "#a13d00", "#1d2127", "#5c6470", "#dfe2e6"
_VARIABLES = {
    ACCENT: "var(--accent)",
    ACCENT_2: "var(--accent-2)",
    INK: "var(--ink)",
    QUIET: "var(--quiet)",
    RULE: "var(--rule)",
}
_OPTIONS = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "captum-excon",  # the same identifiers each time
    "text.parse_math": False,  # a name may hold a $
    "text.color": QUIET,
    "axes.labelcolor": QUIET,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "lines.solid_capstyle": "butt",
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


@contextmanager
def drawing(font_size: float) -> Iterator[None]:
    """The same settings whatever the user's own are."""
    with (
        style.context(["default", {**_OPTIONS, "font.size": font_size}]),
        warnings.catch_warnings(),
    ):
        # The browser has fonts for the letters that matplotlib's own lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def printable(name: str) -> str:
    """A name on one line, without what XML cannot hold."""
    return re.sub(r"[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", name)


def new_axes(size: tuple[int, int], box: tuple[int, int, int, int]) -> Axes:
    """Makes an empty figure.

    Args:
        size: Width and height in pixels.
        box: The left, top, right and bottom of its axes.
    """
    (width, height), (left, top, right, bottom) = size, box
    figure = Figure((width / 72, height / 72), dpi=72)
    figure.patch.set_visible(False)
    rectangle = (left / width, 1 - bottom / height, (right - left) / width, (bottom - top) / height)
    axes: Axes = figure.add_axes(rectangle)
    axes.patch.set_visible(False)
    axes.spines[:].set_visible(False)
    axes.set_axisbelow(True)
    return axes


def as_markup(
    axes: Axes,
    key: str,
    label: str,
    css: str = "plot",
    titles: Mapping[str, str] | None = None,
    behind: str | None = None,
) -> Markup:
    """Returns a figure as an ``<svg>`` element.

    Args:
        axes: Of the figure.
        key: Unlike that of any other figure of the page.
        label: What the picture shows.
        css: Its class.
        titles: What the browser shows under the pointer, by the artist's ``gid``.
        behind: The name of a group, see `group_as_markup`, that lies behind the curves.
    """
    root = _drawn(axes)
    for group in root.iter("g"):
        if title := (titles or {}).get(group.get("id", "")):
            element = ElementTree.Element("title")
            element.text = title
            group.insert(0, element)
    if behind is not None:
        root.insert(0, ElementTree.Element("use", {"href": f"#{behind}"}))
    root.attrib = {"class": css, "viewBox": root.attrib["viewBox"]}
    root.attrib |= {"role": "img", "aria-label": label}
    return Markup(_text(root, key))


def group_as_markup(axes: Axes, gid: str) -> Markup:
    """Returns what the artists named ``gid`` draw, as one group of that name for ``<use>``."""
    group = ElementTree.Element("g", {"id": gid})
    for drawn in _drawn(axes).iter("g"):
        if drawn.get("id") == gid:
            group.extend(drawn)
    return Markup(_text(group, ""))


def _drawn(axes: Axes) -> ElementTree.Element:
    file = io.BytesIO()
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.savefig(file, format="svg", metadata=_NO_METADATA, transparent=True)
    root = ElementTree.fromstring(file.getvalue())
    for element in root.iter():
        # Inside of a page elements and links need no namespace.
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {
            name.rpartition("}")[2]: _plain(name, value)
            for name, value in element.attrib.items()
            if name not in ("clip-path", "version") and not value.startswith("rotate(-0 ")
        }
        element.text = element.text and element.text.strip()
        element.tail = None
    return root


def _plain(name: str, value: str) -> str:
    """An attribute with the page's colours and font, and tenths of pixels."""
    if name in ("d", "x", "y"):
        value = re.sub(r"\d+\.\d+", lambda found: f"{float(found[0]):.1f}", value)
    if name == "style":
        for colour, variable in _VARIABLES.items():
            value = value.replace(colour, variable)
        value = re.sub(r" '[^;]*sans-serif|font-family:[^;]*;", "", value)
    return " ".join(value.split())


def _text(root: ElementTree.Element, key: str) -> str:
    """The figure as text, with links inside of it that no other figure of the page has."""
    used = {link[1:] for e in root.iter() if (link := e.get("href", "")).startswith("#")}
    own = {e.get("id", "") for e in root.iter()} & used
    for element in list(root.iter()):
        for child in [c for c in element if c.tag in ("metadata", "style", "clipPath")]:
            element.remove(child)
        if (target := element.get("href", "")[1:]) in own:
            element.set("href", f"#{key}-{target}")
        if (name := element.get("id")) in own:
            element.set("id", f"{key}-{name}")
        elif element is not root:
            element.attrib.pop("id", None)
    return ElementTree.tostring(root, encoding="unicode", method="html")
