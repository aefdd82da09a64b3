import csv
import io
import re
from typing import Any

import pytest

from captum_excon.training.evaluation.tables import (
    as_csv,
    as_markdown,
    figures,
    higher_is_better,
    sections,
)


def evaluation(top1: float = 0.5, **more: Any) -> dict[str, Any]:
    ladder = [{"top1": top1 - 0.1 * s, "ece10": 0.1 * s, "ece15": 0.1} for s in range(5)]
    return {
        "images": 40,
        "subset": 10,
        "clean": {"top1": top1, "top5": 0.875, "ece10": 0.0625, "ece15": 0.125},
        "explanations": {
            "rise": {"drop": 0.25, "increase": 0.5, "undefined": 0.0},
            "random": {"drop": None, "increase": None, "undefined": 1.0},
        },
        "attacks": {"epsilons": [1, 8], "clean": 0.6, "fgsm": [0.4, 0.2], "pgd": [0.3, 0.0]},
        "shifts": {"contrast": ladder, "rotation": [{**f, "top1": 0.1} for f in ladder]},
        "settings": {"fraction": 0.15},
        **more,
    }


def test_every_figure_has_one_name_and_the_shifts_their_means() -> None:
    named = figures(evaluation())
    assert named["clean/top1"] == 0.5
    assert named["explanations/rise/drop"] == 0.25
    assert named["explanations/random/drop"] is None
    assert named["attacks/clean"] == 0.6
    assert named["attacks/pgd/8"] == 0.0
    assert named["shifts/contrast/3/top1"] == pytest.approx(0.3)  # severity 3, the third
    assert named["shifts/contrast/mean/top1"] == pytest.approx(0.3)
    assert named["shifts/contrast/mean/ece10"] == pytest.approx(0.2)
    assert named["shifts/mean/top1"] == pytest.approx(0.2)
    assert not any(name.startswith("corruptions") for name in named)


@pytest.mark.parametrize(
    ("name", "higher"),
    [
        ("clean/top1", True),
        ("clean/ece15", False),
        ("explanations/rise/drop", False),
        ("explanations/rise/increase", True),
        ("explanations/rise/undefined", False),
        ("attacks/fgsm/8", True),
        ("shifts/mean/ece10", False),
        ("shifts/rotation/2/top1", True),
    ],
)
def test_each_figure_has_a_direction(name: str, higher: bool) -> None:
    assert higher_is_better(name) is higher


def test_tables_name_figures_that_exist_and_corruptions_only_where_measured() -> None:
    for result in (
        evaluation(),
        evaluation(corruptions={"fog": evaluation()["shifts"]["contrast"]}),
    ):
        named, titles = figures(result), [section.title for section in sections(result)]
        columns = [name for section in sections(result) for name in section.columns.values()]
        assert set(columns) <= named.keys()
        assert len(set(titles)) == len(titles)
        assert ("Accuracy under corruptions" in titles) == ("corruptions" in result)


def test_the_page_has_a_row_for_each_checkpoint() -> None:
    page = as_markdown({"best": evaluation(), "last": evaluation(0.25)})
    page = re.sub(" +", " ", page)  # columns are padded
    assert "40 test images; explanations and attacks on 10 of them" in page
    assert "| best | 50.0 | 87.5 | 6.2 | 12.5 |" in page
    assert "| last | 25.0 | 87.5 | 6.2 | 12.5 |" in page
    assert "| | Drop, rise | Drop, random | Increase, rise | Increase, random |" in page
    assert "| best | 25.0 | – | 50.0 | – |" in page
    assert "| | clean | 1/255 | 8/255 |" in page
    assert "| best | 60.0 | 30.0 | 0.0 |" in page


def test_the_csv_has_every_figure_and_nothing_where_there_is_none() -> None:
    rows = list(csv.reader(io.StringIO(as_csv({"best": evaluation()}))))
    assert rows[0] == ["checkpoint", "figure", "value"]
    found = {name: value for _, name, value in rows[1:]}
    assert found.keys() == figures(evaluation()).keys()
    assert found["clean/top1"] == "0.5"
    assert found["explanations/random/drop"] == ""
