"""The metrics as Quantus sees them, and what is known of Quantus's own."""

import functools
import math

import numpy as np
import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, LayerGradCam, Saliency
from helpers.toys import ConvNet, images

from captum_excon import metrics
from captum_excon.metrics import REFUSED, TRUSTED, as_explain_func, refusal
from captum_excon.metrics.quantus import known_issues as trust

quantus = pytest.importorskip("quantus", reason="needs the bench extra")
own = pytest.importorskip("captum_excon.metrics.quantus")

MODEL = ConvNet(in_channels=3)
X = images(5, 3, 10, 12)
Y = torch.tensor([0, 1, 2, 1, 0])
MAPS = torch.rand(5, 1, 10, 12, generator=torch.Generator().manual_seed(0))
MASKS = torch.zeros(5, 1, 10, 12)
MASKS[..., 2:6, 3:9] = 1
ARRAYS = {
    "x_batch": X.numpy(),
    "y_batch": Y.numpy(),
    "a_batch": MAPS.numpy(),
    "s_batch": MASKS.numpy(),
}


def of_model(function, part=None, **options):
    result = function(MODEL, X, MAPS, target=Y, **options)
    return result if part is None else getattr(result, part)


EXPECTED = {
    "EBPG": (own.EBPG(), lambda: metrics.ebpg(MAPS, MASKS)),
    "Bbox": (own.Bbox(), lambda: metrics.bbox(MAPS, MASKS)),
    "MIoU": (own.MIoU(threshold=0.5), lambda: metrics.miou(MAPS, MASKS, threshold=0.5)),
    "PointingGame": (
        own.PointingGame(tolerance=2),
        lambda: metrics.pointing_game(MAPS, MASKS, tolerance=2),
    ),
    "Drop": (own.Drop(), lambda: of_model(metrics.drop_increase, "drop")),
    "Increase": (own.Increase(), lambda: of_model(metrics.drop_increase, "increase")),
    "DropSweep": (own.DropSweep(), lambda: of_model(metrics.drop_increase_sweep, "drop")),
    "IncreaseSweep": (
        own.IncreaseSweep(fractions=[0.2, 0.4]),
        lambda: of_model(metrics.drop_increase_sweep, "increase", fractions=[0.2, 0.4]),
    ),
    "AverageDrop": (own.AverageDrop(), lambda: of_model(metrics.average_drop_increase, "drop")),
    "AverageIncrease": (
        own.AverageIncrease(),
        lambda: of_model(metrics.average_drop_increase, "increase"),
    ),
    "Insertion": (own.Insertion(steps=4), lambda: of_model(metrics.insertion, steps=4)),
    "Deletion": (own.Deletion(seed=3), lambda: of_model(metrics.deletion, seed=3)),
    "ROADMoRF": (
        own.ROADMoRF(fractions=[0.3]),
        lambda: of_model(metrics.road, order="morf", fractions=[0.3]),
    ),
    "ROADLeRF": (
        own.ROADLeRF(fractions=[0.3]),
        lambda: of_model(metrics.road, order="lerf", fractions=[0.3]),
    ),
    "ABPC": (own.ABPC(fill="blur"), lambda: of_model(metrics.abpc, fill="blur")),
}


def test_every_class_is_tested() -> None:
    assert set(EXPECTED) == set(own.__all__)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_direct_call_returns_what_the_function_returns(name: str) -> None:
    metric, expected = EXPECTED[name]
    scores = metric(MODEL, **ARRAYS, batch_size=2)
    assert scores == expected().tolist()
    assert metric.evaluation_scores == scores
    assert metric.reasons == [None] * 5
    assert isinstance(metric, quantus.metrics.base.Metric)


def test_quantus_evaluate_accepts_all_of_them() -> None:
    results = quantus.evaluate(
        {name: metric for name, (metric, _) in EXPECTED.items()},
        {"InputXGradient": as_explain_func(InputXGradient), "given": MAPS.numpy()},
        MODEL,
        ARRAYS["x_batch"],
        ARRAYS["y_batch"],
        s_batch=ARRAYS["s_batch"],
        explain_func_kwargs={},
    )
    for name, (_, expected) in EXPECTED.items():
        assert results["given"][name] == expected().tolist()
        assert np.shape(results["InputXGradient"][name])[0] == 5
    maps = (X * torch.autograd.grad(MODEL(X.requires_grad_())[range(5), Y].sum(), X)[0]).detach()
    X.requires_grad_(False)
    expected = metrics.ebpg(maps, MASKS).tolist()
    assert results["InputXGradient"]["EBPG"] == pytest.approx(expected, rel=1e-4)


def test_maps_are_explained_where_none_are_given() -> None:
    given = {**ARRAYS, "a_batch": None}
    explain = as_explain_func(IntegratedGradients, n_steps=5)
    scores = own.EBPG()(MODEL, **given, explain_func=explain)
    maps = IntegratedGradients(MODEL).attribute(X, target=Y, n_steps=5)
    assert scores == pytest.approx(metrics.ebpg(maps, MASKS).tolist(), rel=1e-4)


def test_softmax_and_model_arguments_are_honoured() -> None:
    raw = own.Deletion(steps=3)(MODEL, **ARRAYS, softmax=False)
    assert raw == of_model(metrics.deletion, steps=3, score="identity").tolist()

    class Scaled(ConvNet):
        def forward(self, x, scale=1.0):
            return scale * super().forward(x)

    scaled = own.Deletion(steps=3)(
        Scaled(in_channels=3), **ARRAYS, model_predict_kwargs={"scale": 2.0}, softmax=False
    )
    assert scaled == pytest.approx([2 * value for value in raw], rel=1e-5)


def test_degenerate_maps_have_a_nan_score_and_a_reason() -> None:
    maps = MAPS.clone()
    maps[1] = 0
    maps[3, 0, 0, 0] = math.nan
    for metric in (own.EBPG(), own.Deletion(steps=2)):
        scores = metric(MODEL, **{**ARRAYS, "a_batch": maps.numpy()}, batch_size=2)
        assert np.isnan(scores).tolist() == [False, True, False, True, False]
        assert metric.reasons[1] == "the map is constant"
        assert metric.reasons[3] == "the map has NaN or infinite values"


def test_aggregates_and_quantus_options_work() -> None:
    scores = own.EBPG()(MODEL, **ARRAYS)
    assert own.EBPG(return_aggregate=True)(MODEL, **ARRAYS) == [pytest.approx(np.mean(scores))]
    signs = torch.ones(10, 12)
    signs[::2] = -1
    signed = {**ARRAYS, "a_batch": (signs * MAPS).numpy()}
    assert own.EBPG(abs=True)(MODEL, **signed) == scores
    assert own.EBPG()(MODEL, **signed) != scores
    assert own.Deletion.score_direction.value == "lower"
    assert own.Insertion.score_direction.value == "higher"


def test_wrong_use_is_named() -> None:
    with pytest.raises(TypeError, match=r"Deletion has no option fraction; it has .*steps"):
        own.Deletion(fraction=0.1)
    with pytest.raises(TypeError, match="EBPG has no option target; it has none"):
        own.EBPG(target=1)
    # Quantus splits images into batches, and would not split these with them.
    with pytest.raises(TypeError, match="has no option additional_forward_args"):
        own.Deletion(additional_forward_args=torch.zeros(5, 3))
    with pytest.raises(ValueError, match="pass s_batch"):
        own.EBPG()(MODEL, **{**ARRAYS, "s_batch": None})


def test_explain_funcs_sum_channels_and_upsample_layers() -> None:
    explain = as_explain_func(lambda model: LayerGradCam(model, model.body))
    maps = explain(MODEL, ARRAYS["x_batch"], ARRAYS["y_batch"], device="cpu", method="any")
    raw = LayerGradCam(MODEL, MODEL.body).attribute(X, target=Y)
    expected = torch.nn.functional.interpolate(raw, (10, 12), mode="bilinear")
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, expected.detach().numpy(), rtol=1e-5)
    bound = as_explain_func(IntegratedGradients(MODEL), n_steps=3)
    expected = IntegratedGradients(MODEL).attribute(X, target=Y, n_steps=4).sum(1, keepdim=True)
    np.testing.assert_allclose(bound(MODEL, X, Y, n_steps=4), expected.detach(), rtol=1e-4)
    assert not X.requires_grad


def test_an_attribution_is_not_used_for_another_model() -> None:
    explain = as_explain_func(IntegratedGradients(MODEL))
    with pytest.raises(ValueError, match="another model than the one under test"):
        explain(ConvNet(in_channels=3), X, Y)
    with pytest.raises(TypeError, match="attribution must be"):
        as_explain_func("saliency")


def test_randomised_models_are_explained_anew() -> None:
    scores = quantus.MPRT(disable_warnings=True)(
        model=MODEL,
        x_batch=ARRAYS["x_batch"],
        y_batch=ARRAYS["y_batch"],
        explain_func=as_explain_func(InputXGradient),
    )
    assert scores["original"] == pytest.approx([1] * 5)
    assert abs(np.mean(scores["head"])) < 0.9


@pytest.mark.parametrize("name", REFUSED)
def test_the_self_test_reports_the_installed_version_truthfully(name: str) -> None:
    if quantus.__version__ != "0.6.0":
        pytest.skip("what is broken was seen in Quantus 0.6.0")
    needs_numpy = name == "quantus.calculate_auc"
    broken = not (needs_numpy and hasattr(np, "trapz"))
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    assert REFUSED[name].works() is not broken
    assert (refusal(name) is None) is not broken
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


class Mended:
    """Metrics that do right what those of Quantus 0.6.0 do wrong."""

    class Monotonicity(quantus.Monotonicity):
        def evaluate_batch(self, x_batch, **_):
            return [False] * len(x_batch)

    class AttributionLocalisation(quantus.RelevanceMassAccuracy):
        def __init__(self, weighted, **options):
            super().__init__(**options)

    class SensitivityN(quantus.FaithfulnessEstimate):
        def __init__(self, return_aggregate, **options):
            super().__init__(**options)

    class ROAD:
        def __init__(self, **_):
            pass

        def __call__(self, **_):
            return {20: 0.5, 50: 0.5}

    class IROF(ROAD):
        value = 1.0

        def __call__(self, x_batch, **_):
            return [self.value] * len(x_batch)

    class Infidelity(IROF):
        def __init__(self, n_perturb_samples, **_):
            self.value = 1 / n_perturb_samples

    class NonSensitivity(IROF):
        value = 0

    class Continuity(IROF):
        def __init__(self, perturb_baseline, **_):
            self.value = float(perturb_baseline == "white")

    class PointingGame(own.PointingGame):
        def __init__(self, **options):
            super().__init__(tolerance=0, **options)

    @staticmethod
    def calculate_auc(values):
        return ((values[1:] + values[:-1]) / 2).sum()

    @staticmethod
    def explain(model, inputs, targets, *, method, n_steps, xai_lib):
        explainer = as_explain_func(
            IntegratedGradients, n_steps=n_steps, method="riemann_trapezoid"
        )
        return explainer(model, inputs, targets)

    @staticmethod
    def evaluate(given, methods, model, x_batch, y_batch):
        kinds = {"IntegratedGradients": IntegratedGradients, "Saliency": Saliency}
        return {
            method: {"map": as_explain_func(kinds[method])(model, x_batch, y_batch)}
            for method in methods
        }


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_lifted_when_upstream_mends_it(name: str, monkeypatch) -> None:
    part = name.removeprefix("quantus.")
    monkeypatch.setattr(quantus, part, getattr(Mended, part))
    assert REFUSED[name].works() is True
    monkeypatch.setattr(trust, "refusal", functools.cache(refusal.__wrapped__))
    assert trust.refusal(name) is None


def test_names_are_known_or_refused_by_name() -> None:
    assert refusal("quantus.Sparseness") is None
    assert not TRUSTED.keys() & REFUSED.keys()
    with pytest.raises(ValueError, match=r"'quantus\.Selectivity' has not been examined"):
        refusal("quantus.Selectivity")
    for name in [*TRUSTED, *REFUSED]:
        if name.startswith("quantus."):
            assert hasattr(quantus, name.removeprefix("quantus."))


class Linear(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3 * 64, 2)

    def forward(self, x):
        return self.layer(x.flatten(1))


def test_trusted_faithfulness_metrics_are_one_where_the_truth_is_linear() -> None:
    model = Linear().eval()
    x = np.random.default_rng(0).random((3, 3, 8, 8), dtype=np.float32)
    y = np.array([0, 1, 0])
    truth = x * model.layer.weight.detach()[y].view(3, 3, 8, 8).numpy()
    np.random.seed(0)  # noqa: NPY002
    correlation = quantus.FaithfulnessCorrelation(
        subset_size=20, nr_runs=30, normalise=False, return_aggregate=False, disable_warnings=True
    )
    estimate = quantus.FaithfulnessEstimate(
        features_in_step=16, normalise=False, disable_warnings=True
    )
    for metric in (correlation, estimate):
        scores = metric(model, x, y, truth, softmax=False)
        assert scores == pytest.approx([1, 1, 1], abs=1e-3)


def test_focus_is_the_share_of_positive_relevance_on_the_tiles_of_the_class() -> None:
    x = np.ones((2, 3, 8, 12), np.float32)
    maps = np.zeros((2, 1, 8, 12), np.float32)
    maps[0, 0, :4, 6:] = 1  # the upper right tile of a mosaic that is wider than high
    maps[1, 0, 4:, :6], maps[1, 0, :2, :6], maps[1, 0, 2, :6] = 1, 1, -1
    focus = quantus.Focus(disable_warnings=True)
    tiles = [(0, 1, 0, 0), (0, 0, 1, 1)]
    scores = focus(MODEL, x, np.zeros(2, int), maps, custom_batch=tiles)
    assert scores == pytest.approx([1, 2 / 3])


def test_trusted_complexity_metrics_have_their_textbook_values() -> None:
    x = np.zeros((2, 3, 2, 2), np.float32)
    maps = np.array([[[[1, 1], [1, 1]]], [[[1, 0], [0, 0]]]], np.float32)
    options = {"model": None, "x_batch": x, "y_batch": np.zeros(2, int), "channel_first": True}
    gini = quantus.Sparseness(disable_warnings=True)(a_batch=maps, **options)
    assert gini == pytest.approx([0, 3 / 4], abs=1e-6)
    entropy = quantus.Complexity(disable_warnings=True)(a_batch=maps + 1e-12, **options)
    assert entropy == pytest.approx([math.log(4), 0], abs=1e-6)
