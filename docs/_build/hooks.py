"""What the build adds to the pages: API reference, cross-references, formulas, links, llms.txt.

MkDocs calls the functions named ``on_...``; mkdocstrings loads `Docstrings`.
"""

from __future__ import annotations

import functools
import html
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
REPOSITORY = "https://github.com/captum-excon/captum-excon/blob/main"

# A name that several modules export is documented under the first of them.
MODULES = {
    "captum_excon.attr": "Attribution methods",
    "captum_excon.layers": "Layers",
    "captum_excon.targets": "Targets",
    "captum_excon.models": "Models and images",
    "captum_excon.visualization": "Pictures",
    "captum_excon.transforms": "Transforms",
    "captum_excon.losses": "Losses",
    "captum_excon.metrics": "Metrics",
    "captum_excon.metrics.quantus": "Metrics for Quantus",
    "captum_excon.training": "Training",
    "captum_excon.grad_cam": "pytorch-grad-cam",
    "captum_excon.errors": "Errors",
    "captum_excon": "Top-level names",
}
# What is not exported, but described for those who derive from it.
BASES = {"captum_excon.training": ["captum_excon.training.modules.base.ExplainedModule"]}
# Pages that stand beside docs/ in the repository.
BESIDE = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}


def public_names(module: str) -> list[str]:
    """Returns what a module exports: its ``__all__``, or else what it defines."""
    loaded = importlib.import_module(module)
    defined = [n for n, v in vars(loaded).items() if getattr(v, "__module__", "") == module]
    return list(getattr(loaded, "__all__", defined))


@functools.cache
def documented() -> dict[str, str]:
    """Returns for each public name the identifier under which it is documented."""
    places: dict[str, str] = {}
    for module in MODULES:
        for name in public_names(module):
            places.setdefault(name, f"{module}.{name}")
    return places | {base.rpartition(".")[2]: base for bases in BASES.values() for base in bases}


def api_page(module: str) -> str:
    """Returns the Markdown of a module's page: its docstring, then each of its names."""
    places = documented()
    lines = [f"# {MODULES[module]}", "", f"`{module}`", "", f"::: {module}"]
    lines += ["    options: {members: false, show_root_heading: false, show_root_toc_entry: false}", ""]
    elsewhere = []
    for name in public_names(module):
        if places[name] == f"{module}.{name}":
            lines += [f"::: {module}.{name}", ""]
        else:
            elsewhere.append(f"- [`{name}`][{places[name]}]")
    bases = [f"\n::: {base}\n" for base in BASES.get(module, [])]
    return "\n".join([*lines, *elsewhere, *bases]) + "\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of the API reference, the changelog and the guide for contributors."""
    pages = {f"api/{m.removeprefix('captum_excon.')}.md": api_page(m) for m in MODULES}
    for name, source in BESIDE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        pages[name] = re.sub(r"\]\(docs/", "](", text)
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Points links that leave docs/ to the repository."""
    depth = page.file.src_uri.count("/")
    outside = r"\]\(" + r"\.\./" * (depth + 1) + r"(?!\.\./)([^)\s]*)\)"
    return re.sub(outside, rf"]({REPOSITORY}/\1)", markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Renders formulas as MathML, which browsers draw without scripts or fonts."""
    return re.sub(
        r'<(span|div) class="arithmatex">(?:\\\((.*?)\\\)|\\\[(.*?)\\\])</\1>',
        lambda found: mathml(found[2] or found[3], block=found[1] == "div"),
        html,
        flags=re.DOTALL,
    )


def mathml(formula: str, block: bool) -> str:
    """Returns a LaTeX formula as MathML."""
    formula = html.unescape(formula)
    formula = re.sub(r"\\mathrm\{(\w{2,})\}", r"\\text{\1}", formula)
    return str(convert(" ".join(formula.split()), display="block" if block else "inline"))


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> None:
    """Keeps the pages in their order, for llms.txt."""
    config.extra["pages"] = nav.pages


def on_post_build(config: MkDocsConfig) -> None:
    """Writes the Markdown of the pages, and llms.txt, which lists them (https://llmstxt.org)."""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}", "", "## Pages", ""]
    for page in config.extra["pages"]:
        target = page.file.src_uri
        if target.startswith("api/"):
            target = page.file.dest_uri
        else:
            copy = Path(config.site_dir, target)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(page.markdown, encoding="utf-8")
        lines.append(f"- [{page.title}]({target}){first_sentence(page)}")
    Path(config.site_dir, "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def first_sentence(page: Page) -> str:
    """Returns the first sentence below a page's title, after a colon."""
    paragraphs = re.split(r"\n\s*\n", page.markdown or "")
    plain = [" ".join(p.split()) for p in paragraphs if re.match(r"[\w*`\"]", p)]
    if not plain or page.file.src_uri.startswith("api/"):
        return ""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", plain[0])
    return ": " + re.split(r"(?<=[.:]) ", text)[0].rstrip(":")


class Docstrings(griffe.Extension):
    """Turns the docstrings' `names` into links, and their formulas into what Markdown renders."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Rewrites the docstrings of all objects in the package."""
        objects = list(_objects(pkg))
        self.places = documented()
        self.members = {
            o.name: set(o.members) for o in objects if o.is_class and o.name in self.places
        }
        for obj in objects:
            if obj.docstring:
                inside = obj if obj.is_class else obj.parent
                owner = inside.name if inside is not None and inside.is_class else ""
                obj.docstring.value = self.rewritten(obj.docstring.value, owner)

    def rewritten(self, text: str, owner: str) -> str:
        """Returns a docstring with the roles of reStructuredText put into Markdown."""
        text = re.sub(
            r"^( *)\.\. math:: (.*(?:\n\1 +.*)*)",
            lambda m: "\n{0}$$\n{0}{1}\n{0}$$".format(m[1], " ".join(m[2].split())),
            text,
            flags=re.MULTILINE,
        )
        text = re.sub(
            r"^( *)\.\. code-block:: python\n\n((?:\1 +.*\n|\n)+)",
            lambda m: f"{m[1]}```python\n{m[2].rstrip()}\n{m[1]}```\n\n",
            text + "\n",
            flags=re.MULTILINE,
        )
        text = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)  # griffe's word
        text = re.sub(r":math:`([^`]+)`", lambda m: f"${' '.join(m[1].split())}$", text)
        text = re.sub(r":\w+:(?=`)", "", text)
        return re.sub(
            r"(?<![`\[\w])`([A-Za-z_][\w.]*)`(?![`\]])", lambda m: self.link(m[1], owner), text
        )

    def link(self, name: str, owner: str) -> str:
        """Returns a link to a public name or a member of a public class, else plain code."""
        parent, _, last = name.rpartition(".")
        cls = parent.rpartition(".")[2] or owner
        if parent in ("", *MODULES) and last in self.places:
            place = self.places[last]
        elif last in self.members.get(cls, ()) and not last.startswith("_"):
            place = f"{self.places[cls]}.{last}"
        else:
            return f"`{name}`"
        return f'<autoref identifier="{place}" optional><code>{name}</code></autoref>'


def _objects(obj: Any) -> Iterator[Any]:
    yield obj
    for member in obj.members.values():
        if not member.is_alias:
            yield from _objects(member)
