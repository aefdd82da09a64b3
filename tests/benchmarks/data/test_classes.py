"""Finding a model's output for each class of the data."""

import pytest
import torch
from torch import nn

from benchmarks.explanations.data.classes import UNKNOWN, match_classes, readable
from captum_excon.errors import UserError
from captum_excon.models import Model


def model(outputs, labels=None):
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, outputs)).eval()

    def geometry(image):
        return torch.full((3, 4, 4), 0.5)

    return Model("tiny", head, geometry, (0.0,) * 3, (1.0,) * 3, labels)


def test_names_are_found_in_any_case_and_among_synonyms():
    tiny = model(3, ["tench, Tinca tinca", "Great White Shark", "cock"])
    names = ["tinca tinca", "great_white_shark", "hen"]
    assert match_classes(names, tiny) == [0, 1, UNKNOWN]


def test_a_whole_name_goes_before_a_synonym():
    assert match_classes(["crane"], model(2, ["bird, crane", "crane"])) == [1]


def test_imagenet_ids_are_outputs_of_imagenets_order():
    assert match_classes(["n01440764", "n15075141", "n00000001"], model(1000)) == [0, 999, UNKNOWN]


def test_order_takes_the_data_as_the_model_was_trained_on():
    assert match_classes(["b", "a"], model(2), "order") == [0, 1]


def test_numbers_are_the_outputs_own_by_order():
    assert match_classes(["2", "10"], model(12), "order", numbered=True) == [2, 10]


@pytest.mark.parametrize("number", ["-1", "12"])
def test_a_number_that_is_no_output_is_refused(number):
    with pytest.raises(UserError, match=f"found {number}, and tiny has the outputs 0 to 11"):
        match_classes(["2", number], model(12), "order", numbered=True)


@pytest.mark.parametrize(
    ("names", "tiny", "how", "message"),
    [
        (["rose"], model(2, ["cat", "dog"]), "auto", r"none of the data's classes \(rose, ...\)"),
        (["cat", "Cat"], model(2, ["cat", "dog"]), "auto", "the same class of tiny"),
        (["cat"], model(2), "auto", "the class names of tiny are not known"),
        (["cat"], model(2), "order", "the data have 1 and tiny has 2"),
        (["n01440764"], model(2), "auto", "tiny has 2 outputs and not 1000"),
    ],
)
def test_classes_that_cannot_be_matched_are_refused(names, tiny, how, message):
    with pytest.raises(UserError, match=message):
        match_classes(names, tiny, how)


def test_an_imagenet_id_is_shown_by_its_name_and_an_unknown_id_as_it_is():
    assert readable("n01440764") == "tench, Tinca tinca"
    assert readable("n00000000") == "n00000000"
    assert readable("tench") == "tench"
