from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.toys import CountedRows

from benchmarks.explanations.configs.settings import Choice
from benchmarks.explanations.data.readers.synthetic import SyntheticNet, SyntheticObjects
from benchmarks.explanations.metrics.registry import FAMILIES, NO_TRUTH, Maps, make_metric
from captum_excon import metrics as m
from captum_excon.errors import UserError

NAMES = [name for family in FAMILIES for name in family.directions]


@pytest.fixture(scope="module")
def case():
    item = SyntheticObjects(2, 48)[1]
    noise = torch.rand(1, 48, 48, generator=torch.Generator().manual_seed(0))
    maps = torch.stack([item.mask[None].float(), noise, torch.zeros(1, 48, 48)])
    return Maps(
        SyntheticNet(), item.image[None], item.label, item.mask[None], maps,
        torch.zeros(1, 3, 1, 1), 0, 8,
    )  # fmt: skip


def compute(case, name, **options):
    metric = make_metric(Choice(name=name, options=options))
    return metric.compute(case)[name]


@pytest.mark.parametrize("name", NAMES)
def test_truth_beats_noise_in_the_metrics_own_direction(case, name):
    options = {"fractions": [0.1, 0.2]} if name.startswith("road") else {}
    values = compute(case, name, **options).values
    sign = 1 if make_metric(Choice(name=name)).direction == "higher" else -1
    if name in ("increase", "average-increase"):  # no probability grows above one
        assert values[:2].tolist() == [0, 0]
    elif name == "pointing-game":  # noise hits, within the tolerance, by chance
        assert values[0] == 1
    else:
        assert sign * values[0] > sign * values[1]
    assert values[2].isnan()


def test_the_suite_gives_what_the_functions_give(case):
    given = (case.model, case.image.expand(3, -1, -1, -1), case.maps)
    common = {"target": case.target, "batch_size": 8}
    expected = m.insertion(*given, **common)
    assert torch.equal(compute(case, "insertion").values[:2], expected[:2])
    assert torch.equal(compute(case, "deletion").values[:2], m.deletion(*given, **common)[:2])
    lerf = m.road(*given, order="lerf", fractions=[0.2, 0.6], **common)
    found = compute(case, "road-lerf", fractions=[0.2, 0.6])
    torch.testing.assert_close(found.values[:2], lerf[:2])
    drop = m.drop_increase(*given, **common)
    assert torch.equal(compute(case, "drop").values[:2], drop.drop[:2])
    other = m.drop_increase(*given, fraction=0.07, **common)
    assert torch.equal(compute(case, "drop", fraction=0.07).values[:2], other.drop[:2])


def test_all_metrics_of_an_image_score_the_unmasked_one_once(case):
    fresh = replace(case)
    with CountedRows(case.model) as counted:
        make_metric(Choice(name="average-drop")).compute(fresh)
        first = len(counted.calls)
        make_metric(Choice(name="average-increase")).compute(fresh)
        make_metric(Choice(name="deletion", options={"steps": 8})).compute(fresh)
        make_metric(Choice(name="abpc", options={"steps": 5})).compute(fresh.only([0, 2]))
    assert counted.calls == [8] * (2 + 1 + 3 + 2)  # the image; 3, 3, 24 and 16 rows
    assert first == 2


def test_insertion_curves_run_from_nothing_to_the_whole_image(case):
    found = compute(case, "insertion", steps=4)
    with torch.no_grad():
        whole = case.model(case.image).softmax(1)[0, case.target]
    assert found.fractions == [0, 0.25, 0.5, 0.75, 1]
    assert found.curves[0, -1] == pytest.approx(float(whole), abs=1e-6)
    assert found.curves[0, 0] < 0.5


def test_metrics_of_one_computation_share_it_only_with_the_same_options():
    def group(name, **options):
        return make_metric(Choice(name=name, options=options)).group

    assert group("drop") == group("increase")
    assert group("drop", fraction=0.2) != group("increase")
    assert group("insertion") != group("deletion")


def test_black_is_what_the_network_sees_as_black(case):
    red = replace(case, black=torch.tensor([0.9, 0.1, 0.1]).view(1, 3, 1, 1))
    zeros = compute(case, "deletion", steps=4).values
    assert torch.equal(compute(case, "deletion", steps=4, fill="black").values[:2], zeros[:2])
    assert not torch.equal(compute(red, "deletion", steps=4, fill="black").values[:2], zeros[:2])


def test_rows_are_those_that_the_model_gets(case):
    rows = []

    class Counting(torch.nn.Module):
        def forward(self, x):
            rows.append(len(x))
            return case.model(x)

    for name in ("drop", "average-drop", "insertion", "abpc"):
        rows.clear()
        alone = replace(case, model=Counting(), maps=case.maps[:1], rows=1)
        assert compute(alone, name).rows == sum(rows)


def test_without_ground_truth_localization_is_nan_and_says_why(case):
    blind = replace(case, mask=None)
    for name in ("ebpg", "quantus:RelevanceRankAccuracy"):
        metric = make_metric(Choice(name=name))
        assert metric.compute(blind)[name].values.isnan().all()
        assert metric.reasons(blind) == [NO_TRUTH] * 3


def test_quantus_agrees_where_definitions_meet(case):
    for ours, theirs in (("ebpg", "RelevanceMassAccuracy"), ("bbox", "RelevanceRankAccuracy")):
        found = compute(case, f"quantus:{theirs}").values
        torch.testing.assert_close(found[:2], compute(case, ours).values[:2])
        assert found[2].isnan()


def test_quantus_draws_for_each_map_by_itself_and_leaves_numpy_alone(case):
    options = {"nr_runs": 10, "subset_size": 600}
    np.random.seed(3)  # noqa: NPY002 - the generator that Quantus draws from
    state = np.random.get_state()  # noqa: NPY002
    both = compute(case, "quantus:FaithfulnessCorrelation", **options).values
    one = compute(
        replace(case, maps=case.maps[1:2]), "quantus:FaithfulnessCorrelation", **options
    ).values
    assert one.isfinite()
    assert torch.equal(both[1:2], one)
    assert np.array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"name": "insertoin"}, "did you mean 'insertion'"),
        (
            {"name": "miou", "options": {"thresh": 1}},
            "no option 'thresh'; did you mean 'threshold'",
        ),
        ({"name": "quantus:ROAD"}, "fails on RGB images.*; use captum_excon"),
        ({"name": "quantus:MPRT"}, "explains other networks"),
        ({"name": "quantus:Sparsness"}, "did you mean 'Sparseness'"),
        (
            {"name": "quantus:Sparseness", "options": {"ab": 1}},
            "no option 'ab'; did you mean 'abs'",
        ),
        ({"name": "quantus:evaluate"}, "explains with plain gradients"),
    ],
)
def test_wrong_names_and_options_say_what_is_right(choice, message):
    with pytest.raises(UserError, match=message):
        make_metric(Choice(**choice))
