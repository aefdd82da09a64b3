"""The report of a run: one page that explains itself, and the same figures for other programs."""

from __future__ import annotations

from pathlib import Path

from benchmarks.explanations.analysis.run import load_run
from benchmarks.explanations.analysis.summaries import analyse
from benchmarks.explanations.report import exports, layout, page
from benchmarks.explanations.report.gallery import Masks, Pictures, build
from captum_excon._files import check_writable, written_whole
from captum_excon._messages import one_line
from captum_excon.errors import UserError


def write_report(
    run_folder: Path, *, pictures: Pictures | None = None, masks: Masks = lambda item: None
) -> Path:
    """Writes ``run_folder/report``: ``index.html``, CSV, JSON, Markdown and LaTeX.

    The report is a function of the run's records, maps and plan alone: written again, it is the
    same to the byte. Other pictures than the maps come from the caller.

    Args:
        run_folder: A run with scores, complete or not.
        pictures: From an item's number to its RGB picture as the model saw it, for the gallery;
            None for a report without any picture of the data.
        masks: From an item's number to where the object is, which the gallery outlines.

    Returns:
        The page.

    Raises:
        UserError: The run has no scores, mixes several benchmarks, or cannot be written to.
    """
    run = load_run(run_folder)
    try:
        found = analyse(run)
        tables = layout.tables(run, found)
        gallery = None if pictures is None else build(run, pictures, masks)
        html = page.render(run, found, tables, gallery)
    except ValueError as error:
        raise UserError(f"{run_folder}: {one_line(error)}") from error
    in_order = [table for some in tables.values() for table in some]
    texts = {
        "index.html": html,
        "report.json": exports.as_json(run, found),
        "tables.md": exports.as_markdown(page.title(run), in_order),
        "tables.tex": exports.as_latex(in_order),
    }
    for name, frame in exports.frames(found).items():
        texts[f"{name}.csv"] = frame.to_csv(index=False, lineterminator="\n")
    folder = run_folder / "report"
    check_writable(folder)
    for name, text in texts.items():
        with written_whole(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return folder / "index.html"
