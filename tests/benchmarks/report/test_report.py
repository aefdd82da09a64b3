import base64
import csv
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from helpers.report_runs import METRICS, QUALITY, explained, record, replaced, scores, write_run
from PIL import Image

from benchmarks.explanations.analysis.run import load_run
from benchmarks.explanations.analysis.summaries import analyse
from benchmarks.explanations.report import write_report
from benchmarks.explanations.report.charts import HEIGHT, Point, scatter
from benchmarks.explanations.report.gallery import build
from benchmarks.explanations.report.layout import tables
from captum_excon.errors import UserError

ONE = {"ebpg": "higher"}


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr("benchmarks.explanations.analysis.statistics.RESAMPLES", 499)


def marks(found, metric):
    rows = found.summary[found.summary["metric"] == metric]
    return dict(zip(rows["explainer"], rows["mark"], strict=True))


def found_in(tmp_path, records, items=24):
    return analyse(load_run(write_run(tmp_path / "run", records, items)))


def test_the_best_is_the_highest_or_the_lowest_as_the_metric_says(tmp_path):
    found = found_in(tmp_path, scores())
    for metric in METRICS:
        assert marks(found, metric) == {
            "good": "best",
            "fair": "",
            "poor": "",
            "random": "",
            "ground-truth": "",
        }
    best = found.summary[found.summary["explainer"] == "good"].set_index("metric")["mean"]
    assert best["ebpg"] > 0.5 > best["drop"]


def test_nobody_is_best_where_a_rival_is_not_told_apart(tmp_path):
    records = list(scores(metrics=ONE))
    good = [found["value"] for found in records if found["explainer"] == "good"]
    records += [record(i, "rival", "ebpg", v - 0.1 * (-1) ** i) for i, v in enumerate(good)]
    found = found_in(tmp_path, records)
    assert marks(found, "ebpg")["good"] == marks(found, "ebpg")["rival"] == "tied"
    assert marks(found, "ebpg")["fair"] == ""


def test_five_images_are_too_few_for_a_best_whatever_the_distance(tmp_path):
    # Of 2**5 sign patterns two are as extreme as all alike: p is at least 1/16.
    found = found_in(tmp_path, scores(5, {"good": 0.9, "poor": 0.1}, ONE), items=5)
    assert set(marks(found, "ebpg").values()) == {"tied"}
    assert found.pairs["p"].tolist() == [pytest.approx(1 / 16)]


def test_a_single_method_is_not_the_best_of_anything(tmp_path):
    found = found_in(tmp_path, scores(quality={"good": 0.8, "random": 0.1}, metrics=ONE))
    assert marks(found, "ebpg") == {"good": "", "random": ""}


def test_a_control_that_is_not_beaten_is_marked_and_the_ground_truth_is_not(tmp_path):
    found = found_in(tmp_path, scores(quality=QUALITY | {"fake-cam": 0.99}, metrics={"drop": ""}))
    assert marks(found, "drop")["fake-cam"] == "unbeaten"
    assert marks(found, "drop")["ground-truth"] == marks(found, "drop")["random"] == ""
    assert marks(found, "drop")["good"] == "best"  # among methods


def test_a_method_is_not_best_for_having_failed_on_the_hard_images(tmp_path):
    hard = [record(i, "fair", "ebpg", 0.9 if i < 12 else 0.3) for i in range(24)]
    lucky = [record(i, "lucky", "ebpg", 0.8) for i in range(12)]
    lucky += [record(i, "lucky", "ebpg", None, status="nan:constant") for i in range(12, 24)]
    found = found_in(tmp_path, hard + lucky)
    summary = found.summary.set_index("explainer")
    assert summary.loc["lucky", "mean"] > summary.loc["fair", "mean"]
    assert marks(found, "ebpg") == {"fair": "best", "lucky": ""}


def test_a_method_is_not_bold_where_it_has_fewer_images_than_another(tmp_path):
    hard = [record(i, "fair", "ebpg", 0.9 if i < 12 else 0.3) for i in range(24)]
    lucky = [record(i, "lucky", "ebpg", 0.95) for i in range(12)]
    lucky += [record(i, "lucky", "ebpg", None, status="nan:constant") for i in range(12, 24)]
    found = found_in(tmp_path, hard + lucky)
    assert found.pairs["significant"].tolist() == [True]
    assert marks(found, "ebpg") == {"lucky": "tied", "fair": ""}


def test_the_verdict_counts_the_methods_that_are_tied(tmp_path):
    quality = dict.fromkeys(("a", "b", "c", "d", "e"), 0.8) | {"poor": 0.2}
    path = write_report(write_run(tmp_path, scores(24, quality, ONE, noise=0.05)))
    assert " and 4 of the 5 others" in path.read_text()


def test_an_explainer_that_fails_is_an_error_of_every_metric(tmp_path):
    records = [*scores(8, {"good": 0.8, "half": 0.7}, {"ebpg": "", "drop": ""}, noise=0.1)]
    records = [r for r in records if r["explainer"] != "half" or r["item"] < 6]
    for name, failing in (("half", (6, 7)), ("broken", range(8))):
        for item in failing:
            failure = {"status": "error:RuntimeError", "message": "no map"}
            records.append(explained(item, name, 0.1) | failure)
    found = found_in(tmp_path, records, items=8)
    summary = found.summary.set_index(["metric", "explainer"])
    for metric in ("ebpg", "drop"):
        assert summary.loc[(metric, "half"), "errors"] == 0.25
        assert summary.loc[(metric, "half"), "missing"] == 0
        assert summary.loc[(metric, "broken"), ["errors", "images"]].tolist() == [1, 0]
        assert summary.loc[(metric, "good"), "errors"] == 0
        assert marks(found, metric)["broken"] == ""
    assert "waiting" not in summary.index.get_level_values("explainer")
    waiting = [explained(item, "waiting", 0.1) for item in range(8)]
    found = found_in(tmp_path / "waiting", records + waiting, items=8)
    summary = found.summary.set_index(["metric", "explainer"])
    assert summary.loc[("drop", "waiting"), ["missing", "errors", "images"]].tolist() == [1, 0, 0]
    assert found.failures[["explainer", "metric", "records"]].to_numpy().tolist() == [
        ["broken", "explain", 8],
        ["half", "explain", 2],
    ]


def test_an_image_counts_once_whatever_its_classes_and_seeds(tmp_path):
    records = [record(i, "good", "ebpg", v, image="one") for i, v in enumerate((0.0, 1.0))]
    records += [record(2, "good", "ebpg", v, seed=s) for s, v in enumerate((0.8, 1.0))]
    found = found_in(tmp_path, records, items=3)
    (row,) = found.summary.to_dict("records")
    assert (row["images"], row["mean"]) == (2, pytest.approx(0.7))


def test_seeds_have_a_spread_of_their_own(tmp_path):
    records = [record(i, "rise", "ebpg", 0.5 + 0.1 * s, seed=s) for i in range(4) for s in (0, 1)]
    records += [record(i, "other", "ebpg", 0.5) for i in range(4)]
    (row,) = found_in(tmp_path, records, items=4).seeds.to_dict("records")
    assert (row["explainer"], row["seeds"], row["mean"]) == ("rise", 2, pytest.approx(0.55))
    assert row["sd"] == pytest.approx(0.1 / np.sqrt(2))


def test_degenerate_maps_errors_and_missing_scores_are_rates_of_the_planned_items(tmp_path):
    values = [0.4] * 5 + [None] * 4
    status = ["ok"] * 5 + ["nan:the map is constant"] * 3 + ["error:RuntimeError"]
    records = [record(i, "good", "ebpg", values[i], status=status[i]) for i in range(9)]
    records[8]["message"] = "out of memory"
    run = load_run(write_run(tmp_path / "run", records, items=10))
    found = analyse(run)
    (row,) = found.summary.to_dict("records")
    assert (row["images"], row["mean"]) == (5, 0.4)
    assert (row["degenerate"], row["errors"]) == (0.3, 0.1)
    assert row["missing"] == pytest.approx(0.1)
    made = tables(run, found)
    ((row,),) = (table.parts["Methods"] for table in made["quality"])
    assert list(map(str, row.cells[1:])) == ["30.0 %", "10.0 %", "10.0 %"]
    ((failures),) = (table.parts["Methods"] for table in made["failures"])
    reasons = [[cell.text for cell in row.cells] for row in failures]
    assert ["EBPG", "error:RuntimeError", "out of memory", "1"] in reasons
    assert ["EBPG", "nan:the map is constant", "–", "3"] in reasons


def test_metrics_agree_by_what_they_prefer_and_not_by_how_easy_images_are(tmp_path):
    rng = np.random.default_rng(0)
    records = []
    for i in range(20):
        easy = i / 20
        for j, name in enumerate(("a", "b", "c")):
            value = easy + 0.01 * j + 0.001 * rng.uniform()
            records.append(record(i, name, "ebpg", value))
            records.append(record(i, name, "drop", value))  # lower is better
            records.append(record(i, name, "miou", easy + 0.01 * rng.normal()))
    agreement = found_in(tmp_path, records, items=20).agreement
    assert agreement.loc["ebpg", "drop"] == pytest.approx(-1)
    assert abs(agreement.loc["ebpg", "miou"]) < 0.5


def test_the_pointing_game_is_a_mean_over_classes_too(tmp_path):
    hits = [("cat", 1), ("cat", 1), ("cat", 1), ("dog", 0)]
    records = [
        record(i, "good", "pointing-game", float(hit), **{"class": name})
        for i, (name, hit) in enumerate(hits)
    ]
    found = found_in(tmp_path, records, items=4)
    assert found.summary["mean"].tolist() == [0.75]
    assert found.classes[["classes", "mean"]].to_numpy().tolist() == [[2, 0.5]]


class Reader(HTMLParser):
    """Notes tags, and asks that they are closed in order."""

    VOID = ("meta", "link", "img", "wbr")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.links, self.ids = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[k] for k in ("href", "src") if k in found]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [v for k, v in attributes if k in ("href", "src")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def whole_run(tmp_path, **options):
    records = [*scores(6), *(explained(i, "good", 0.2) for i in range(6))]
    return write_run(tmp_path / "run", records, 6, **options)


def test_the_page_is_well_formed_and_asks_for_nothing_outside(tmp_path):
    text = write_report(whole_run(tmp_path)).read_text()
    page = Reader(text)
    inside = [link for link in page.links if link.startswith("#")]
    assert {link[1:] for link in inside} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert not re.search(r"https?://|@import|url\(", text)
    assert "img" not in page.tags
    assert len(text) < 120_000


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"' & `$\\ |{{ 7*7 }}"


def test_names_from_records_are_text_on_the_page(tmp_path):
    hostile = {"class_name": HOSTILE, "source": HOSTILE, "dataset": HOSTILE, "model": HOSTILE}
    records = []
    for i in range(6):
        records.append(record(i, HOSTILE, "deletion", 0.1 * i, **hostile, curve=[1.0, 0.5]))
        records.append(record(i, "good", HOSTILE, 0.3, **hostile))
        records.append(record(i, HOSTILE, HOSTILE, 0.2, **hostile))
        failed = {"status": f"error:{HOSTILE}", "message": HOSTILE}
        records.append(record(i, "poor", "ebpg", None, **hostile, **failed))
        records.append(explained(i, HOSTILE, 0.1) | hostile | {"versions": {HOSTILE: HOSTILE}})
    run = write_run(tmp_path / "run", records, 6, config=HOSTILE)
    path = write_report(run, pictures=lambda item: Image.new("RGB", (8, 8)))
    page = Reader(path.read_text())
    assert page.tags.count("script") == 1
    assert page.tags.count("img") == 3 + 3  # the photographs alone: there is no map
    assert not [link for link in page.links if not link.startswith(("#", "data:"))]
    markdown = (path.parent / "tables.md").read_text()
    assert "<script" not in markdown
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in markdown.splitlines() if "0.3" in line}
    assert cells == {5}  # a bar in a name opens no column
    assert r"\textbackslash{}" in (path.parent / "tables.tex").read_text()


def test_the_page_says_what_is_missing(tmp_path):
    records = list(replaced(scores(6), "fair", "ebpg", status="error:ValueError", value=None))
    complete = write_report(write_run(tmp_path / "complete", scores(6), 6)).read_text()
    broken = write_report(write_run(tmp_path / "broken", records, 6)).read_text()
    partial = write_report(write_run(tmp_path / "partial", scores(6), 8)).read_text()
    assert "Not all of the benchmark is here" not in complete
    assert "6 scores are errors." in broken
    assert "25.0 % of the scores are missing." in partial


def test_the_report_is_the_same_from_any_order_and_number_of_shards(tmp_path):
    records = list(scores(6))
    one = write_report(write_run(tmp_path / "one", records, 6)).parent
    split = write_run(tmp_path / "split", records[::2], 6)
    shard = split / "records" / "score.1of2.jsonl"
    (tmp_path / "rest").mkdir()
    rest = write_run(tmp_path / "rest", records[1::2][::-1], 6)
    (rest / "records" / "score.0of1.jsonl").rename(shard)
    two = write_report(split).parent
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in two.iterdir())
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


def test_csv_json_markdown_and_latex_tell_the_same(tmp_path):
    folder = write_report(write_run(tmp_path / "run", scores(12), 12)).parent
    with (folder / "summary.csv").open() as file:
        rows = {(r["metric"], r["explainer"]): r for r in csv.DictReader(file)}
    whole = json.loads((folder / "report.json").read_text())
    for row in whole["summary"]:
        assert float(rows[row["metric"], row["explainer"]]["mean"]) == row["mean"]
    mean = f"{float(rows['ebpg', 'good']['mean']):.3f}"
    markdown = re.sub(" +", " ", (folder / "tables.md").read_text())
    assert f"| good | **{mean} \\[" in markdown
    assert rf"good & \textbf{{{mean} [" in (folder / "tables.tex").read_text()
    assert {row["explainer"] for row in whole["pairs"]} == {*QUALITY} - {"good"}


def test_the_gallery_shows_best_median_and_worst_beside_controls(tmp_path):
    values = [0.3, 0.9, 0.5, 0.1, 0.7]
    records = [record(i, "good", "deletion", v, direction="lower") for i, v in enumerate(values)]
    records += [record(i, "random", "deletion", 0.9, direction="lower") for i in range(5)]
    run = write_run(tmp_path / "run", records, 5, maps=("good", "random"))
    np.save(run / "maps" / "good" / "1.npy", np.full((1, 7, 7), np.nan, np.float32))
    text = write_report(run, pictures=lambda i: Image.new("RGB", (32, 32), (i, 0, 0))).read_text()
    assert re.findall(r"(best|median|worst), Deletion ([\d.]+); item (\d)", text) == [
        ("best", "0.100", "3"),
        ("median", "0.500", "2"),
        ("worst", "0.900", "1"),
    ]
    assert "NaN or infinite" in text
    assert 'class="tile control"' in text


def test_every_tile_outlines_the_object(tmp_path):
    records = [record(0, name, "ebpg", 0.5) for name in ("good", "random")]
    run = write_run(tmp_path / "run", records, 1, maps=("good", "random"))
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, :32, :32] = True
    grey = Image.new("RGB", (64, 64), (100, 100, 100))
    drawn = [
        build(load_run(run), lambda item: grey, masks).random[0].tiles
        for masks in (lambda item: None, lambda item: mask)
    ]
    for plain, outlined in zip(*drawn, strict=True):
        before, after = (pixels_of(tile).astype(int) for tile in (plain, outlined))
        inside = np.abs(after - before)[:32, :32].max(2)
        # JPEG smears a line over its neighbours.
        assert inside[:2].mean() > 50
        assert inside[:, -2:].mean() > 50
        assert inside[8:24, 8:24].mean() < 15
        assert np.abs(after - before)[40:, 40:].mean() < 5


def pixels_of(tile):
    data = base64.b64decode(tile.source.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)))


def test_only_the_records_of_the_plans_configuration_count(tmp_path):
    old = [record(i, "good", "ebpg", 0.1, config="old") for i in range(3)]
    new = [record(i, "good", "ebpg", 0.9, config="new") for i in range(3)]
    plan = {"items": [{"item": i} for i in range(3)]}
    mixed = write_run(tmp_path / "mixed", old + new, plan=plan)
    with pytest.raises(UserError, match="several configurations"):
        load_run(mixed)
    hashes = [["new", "good", "ebpg"]]
    chosen = load_run(write_run(tmp_path / "chosen", old + new, plan=plan | {"hashes": hashes}))
    assert chosen.scores["value"].tolist() == [0.9] * 3
    hashes[0][1] = "renamed"
    with pytest.raises(UserError, match="no scores yet"):
        load_run(write_run(tmp_path / "renamed", old + new, plan=plan | {"hashes": hashes}))


def test_what_is_no_run_is_refused_with_the_next_step(tmp_path):
    with pytest.raises(UserError, match="run the plan stage"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="run the explain and score stages first"):
        write_report(write_run(tmp_path / "empty", []))
    two = [record(0, "good", "drop", 1.0), record(1, "good", "drop", 1.0)]
    for message, change in (
        ("several data sets or models", {"model": "other"}),
        ("direction", {"direction": "up"}),
        ("differ in length", {"curve": [1.0, 0.5, 0.2]}),
    ):
        found = [{"curve": [1.0, 0.0]} | two[0], {"curve": [1.0, 0.0]} | two[1] | change]
        run = write_run(tmp_path / message.split()[0], found)
        with pytest.raises(UserError, match=message):
            write_report(run)


def test_no_label_in_the_plot_of_quality_and_time_covers_another():
    names = [f"explainer-number-{i}" for i in range(8)]
    points = [Point(n, 1 + 0.01 * i, 0.5 + 0.001 * i, 0.4, 0.6) for i, n in enumerate(names)]
    levels = {f"control-{i}": 0.01 * i for i in range(6)}
    drawn = scatter(points, levels, "quality", "plot")
    labels = re.findall(r'<text [^>]* x="([\d.]+)" y="([\d.]+)">([ec][^<]+)', drawn)
    assert len(labels) == 14
    # A line is 13 high, and 7 a letter is what is reckoned with.
    boxes = [(float(x), float(y), float(x) + 7 * len(text)) for x, y, text in labels]
    for i, (left, y, right) in enumerate(boxes):
        assert y < HEIGHT
        for other_left, other_y, other_right in boxes[:i]:
            apart = abs(y - other_y) > 12.8 or right <= other_left or other_right <= left
            assert apart


def test_a_chart_keeps_names_as_text_whatever_is_in_them():
    names = [HOSTILE, "two\nlines \x00", "$x^2$", "层"]
    points = [Point(name, 1.0 + i, 0.5, 0.4, 0.6) for i, name in enumerate(names)]
    drawn = scatter(points, {HOSTILE: 0.1}, HOSTILE, "plot")
    assert drawn == scatter(points, {HOSTILE: 0.1}, HOSTILE, "plot")
    assert Reader(drawn).tags.count("script") == 0
    assert "var(--accent)" in drawn
    assert "DejaVu" not in drawn
    for text in ("two�lines �", "$x^2$", "层", "&lt;/script&gt;&lt;script&gt;alert(1)"):
        assert f">{text}" in drawn
