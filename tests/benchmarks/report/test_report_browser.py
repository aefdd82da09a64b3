"""The page in a browser: what only a browser can tell."""

import pytest
from helpers import chromium
from helpers.report_runs import explained, replaced, scores, write_run
from PIL import Image

from benchmarks.explanations.report import write_report

BROWSER = chromium.find()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed"),
]

TABLE = "document.querySelector('#table-localization table')"
HEADINGS = f"[...{TABLE}.tHead.rows[0].cells]"
NAMES = (
    f"[...{TABLE}.tBodies].map(body => [...body.rows].filter(r => !r.matches('.part'))"
    ".map(row => row.cells[0].textContent))"
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr("benchmarks.explanations.analysis.statistics.RESAMPLES", 499)
    records = list(replaced(scores(8), "poor", "ebpg", status="nan:constant", value=None))
    records += [explained(i, name, 0.1) for i in range(8) for name in ("good", "fair")]
    run = write_run(tmp_path_factory.mktemp("run"), records, 8, maps=("good", "random"))
    written = write_report(run, pictures=lambda i: Image.new("RGB", (40, 30), (9 * i, 80, 120)))
    patch.undo()
    return written


@pytest.fixture(scope="module")
def page(path, tmp_path_factory):
    page = chromium.Page(BROWSER, tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


@pytest.fixture
def opened(page, path):
    page.messages.clear()
    page.resize(1280, 800)
    page.open(path)
    yield page
    assert page.messages == []
    assert page.requests() == [path.resolve().as_uri()]


def focus(page, column):
    page.evaluate(f"{HEADINGS}[{column}].querySelector('button').focus()")


def sorting(page):
    return page.evaluate(f"{HEADINGS}.map(h => h.getAttribute('aria-sort'))")


def test_the_keyboard_sorts_best_first_and_controls_stay_apart(opened):
    controls = ["ground-truth", "random"]
    assert opened.evaluate(NAMES) == [["good", "fair", "poor"], controls]
    assert sorting(opened)[:2] == [None, "descending"]
    focus(opened, 2)
    opened.press("Enter")
    assert sorting(opened)[:3] == [None, None, "descending"]
    assert opened.evaluate(NAMES) == [["good", "fair", "poor"], controls]
    opened.press(" ")
    assert sorting(opened)[2] == "ascending"
    assert opened.evaluate(NAMES) == [["poor", "fair", "good"], controls[::-1]]
    told = opened.evaluate("document.getElementById('status').textContent")
    assert told == "Localization: sorted by mIoU, ascending"


def test_what_has_no_value_is_last_in_either_order(opened):
    focus(opened, 1)
    opened.press("Enter")
    assert opened.evaluate(NAMES)[0] == ["fair", "good", "poor"]  # ascending, from descending
    opened.press("Enter")
    assert opened.evaluate(NAMES)[0] == ["good", "fair", "poor"]


def test_where_lower_is_better_the_lowest_comes_first(opened):
    opened.evaluate("document.querySelectorAll('#table-drop-and-increase button')[0].click()")
    opened.evaluate("document.querySelectorAll('#table-drop-and-increase button')[1].click()")
    first = "document.querySelector('#table-drop-and-increase tbody tr:not(.part) th').textContent"
    assert opened.evaluate(first) == "good"


def test_all_pictures_are_there(opened):
    widths = opened.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(widths) > 10
    assert all(widths)
    heights = opened.evaluate(
        "[...document.querySelectorAll('svg.plot')].map(plot => plot.getBBox().height)"
    )
    assert len(heights) >= 5
    assert all(height > 50 for height in heights)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_inside_of_tables_alone_and_text_stands_out(opened, scheme):
    opened.resize(360, 700, scheme)
    assert opened.evaluate("document.documentElement.scrollWidth <= 360")
    light, dark = ((251, 251, 250), (20, 23, 27))
    ground = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == f"rgb{light if scheme == 'light' else dark}"
    colours = (
        "['caption', 'tbody small', 'thead button', 'a', '.mark', 'tbody.controls th']"
        ".map(s => { const e = document.querySelector('main ' + s) ?? document.querySelector(s);"
        " return [getComputedStyle(e).color, getComputedStyle(document.querySelector('.scroll'))"
        ".backgroundColor]; })"
    )
    for ink, paper in opened.evaluate(colours):
        assert contrast(ink, paper) >= 4.5


def test_without_scripts_there_is_no_button_and_every_figure(page, path):
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.open(path)
        root = page.call("DOM.getDocument")["root"]["nodeId"]
        text = page.call("DOM.getOuterHTML", nodeId=root)["outerHTML"]
    finally:
        page.call("Emulation.setScriptExecutionDisabled", value=False)
    assert "<button" not in text.partition("<script>")[0]
    assert "<strong>0." in text


def contrast(one, two):
    """The contrast ratio of WCAG 2.2, of two CSS colours."""
    light, dark = sorted(map(luminance, (one, two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    channels = [int(part) / 255 for part in colour.strip("rgba()").split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
