from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captum_excon.errors import UserError
from captum_excon.training.evaluation import plots
from captum_excon.training.evaluation.shift import SHIFTS


def evaluation(top1: float, kinds: tuple[str, ...] = SHIFTS) -> dict[str, Any]:
    ladder = [{"top1": top1 / s, "ece15": 0.1 * s} for s in range(1, 6)]
    return {
        "clean": {"top1": top1, "ece15": 0.05},
        "attacks": {"epsilons": [1, 4], "clean": top1, "fgsm": [0.3, 0.1], "pgd": [top1 / 2, 0.0]},
        "shifts": dict.fromkeys(kinds, ladder),
        "reliability": {
            "count": [0, 10, 30],
            "confidence": [None, 0.5, 0.9],
            "accuracy": [None, 0.4, top1],
        },
    }


def test_attacks_are_drawn_from_the_clean_accuracy_on() -> None:
    figure = plots.plot_attacks({"ce": [evaluation(0.8)]})
    fgsm, pgd = figure.axes
    assert fgsm.lines[0].get_xdata().tolist() == [0, 1, 4]
    assert fgsm.lines[0].get_ydata().tolist() == pytest.approx([0.8, 0.3, 0.1])
    assert pgd.lines[0].get_ydata().tolist() == pytest.approx([0.8, 0.4, 0.0])
    assert not figure.legends
    assert not fgsm.collections


def test_several_seeds_are_a_mean_with_a_band_of_one_deviation() -> None:
    figure = plots.plot_attacks(
        {"ce": [evaluation(0.6), evaluation(0.8)], "edda": [evaluation(0.5)]}
    )
    axes = figure.axes[1]
    assert [line.get_ydata()[0] for line in axes.lines] == pytest.approx([0.7, 0.5])
    (band,) = axes.collections  # one seed has no spread
    deviation = np.std([0.6, 0.8], ddof=1)
    edges = band.get_paths()[0].vertices[:, 1]
    assert (edges.min(), edges.max()) == pytest.approx((0.0, 0.7 + deviation))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["ce", "edda"]


def test_each_shift_has_a_column_and_many_corruptions_their_mean() -> None:
    figure = plots.plot_shifts({"ce": [evaluation(0.9)]})
    assert len(figure.axes) == 2 * len(SHIFTS)
    first = figure.axes[0].lines[0]
    assert first.get_xdata()[:].tolist() == [0, 1, 2, 3, 4, 5]
    assert first.get_ydata()[:3].tolist() == pytest.approx([0.9, 0.9, 0.45])
    many = evaluation(0.9, tuple(f"kind {i}" for i in range(15)))
    assert len(plots.plot_shifts({"ce": [many]}).axes) == 2


def test_reliability_merges_the_bins_of_the_seeds_and_leaves_out_empty_ones() -> None:
    top, _ = plots.plot_reliability({"ce": [evaluation(0.6), evaluation(0.8)]}).axes
    drawn = top.lines[1]  # after the diagonal
    assert drawn.get_xdata().tolist() == pytest.approx([0.5, 0.9])
    assert drawn.get_ydata().tolist() == pytest.approx([0.4, 0.7])


def test_the_legend_stays_inside_the_figure(tmp_path: Path) -> None:
    arms = ("ce", "supcon", "excon", "exconb", "edda", "random-occlusion")
    results = {arm: [evaluation(0.5)] for arm in arms}
    for figure in (plots.plot_attacks(results), plots.plot_reliability(results)):
        figure.draw_without_rendering()
        box = figure.legends[0].get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1


def test_files_are_whole_and_equal_for_equal_results(tmp_path: Path) -> None:
    results = {"ce": [evaluation(0.5, ("contrast",))]}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        plots.save_all(results, tmp_path / name)
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names == {"attacks.png", "shifts.png", "reliability.png"}
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        with Image.open(tmp_path / "one" / name) as picture:
            assert min(picture.size) > 300


def test_a_folder_that_is_not_there_is_an_error_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        plots.save_all({"ce": [evaluation(0.5, ("contrast",))]}, tmp_path / "gone")
