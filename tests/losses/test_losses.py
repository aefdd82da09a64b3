import math
import pickle

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from pytorch_metric_learning.losses import SupConLoss
from torch import Tensor

from captum_excon.losses import (
    ExConLoss,
    background_drop_loss,
    drop_loss,
    hinge_drop_loss,
    suppress_drop_loss,
    uniform_drop_loss,
)

ANGLES = torch.tensor([[0.0, 0.1], [0.5, 0.4], [2.0, 2.2], [1.0, 1.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 0, 1, 7])
BACKGROUND = torch.tensor([False, False, False, True])


def on_circle(angles: Tensor) -> Tensor:
    return torch.stack([angles.cos(), angles.sin()], -1)


def random_features(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return F.normalize(torch.randn(*shape, dtype=dtype), dim=-1)


def excon_loop(features, labels, background, mode, temperature):
    """The specification, anchor by anchor."""
    views = [(i, v) for v in range(features.shape[1]) for i in range(features.shape[0])]

    def name(i):
        return "background" if background[i] else int(labels[i])

    losses = []
    for anchor in views:
        if mode != "class" and background[anchor[0]]:
            continue
        others = [o for o in views if o != anchor]
        if mode == "exclude":
            others = [o for o in others if not background[o[0]]]
        positives = [o for o in others if name(o[0]) == name(anchor[0])]
        if not positives:
            continue
        total = sum(math.exp(float(features[anchor] @ features[o]) / temperature) for o in others)
        logs = [float(features[anchor] @ features[p]) / temperature for p in positives]
        losses.append(-sum(x - math.log(total) for x in logs) / len(logs))
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize(
    ("temperature", "base", "mode", "expected"),
    [
        (0.1, 0.07, "exclude", 1.124944),
        (0.1, 0.07, "negatives", 1.247992),
        (0.1, 0.07, "class", 1.083875),
        (0.1, None, "exclude", 0.787461),
        (0.1, None, "negatives", 0.873594),
        (0.1, None, "class", 0.758712),
        (0.07, None, "exclude", 0.843437),
        (0.07, None, "negatives", 0.896343),
        (0.07, None, "class", 0.730802),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_golden_values(temperature, base, mode, expected, dtype):
    loss = ExConLoss(temperature, mode, base)(on_circle(ANGLES).to(dtype), LABELS, BACKGROUND)
    assert loss.dtype == dtype
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_a_hand_computed_value():
    # Two orthogonal pairs at T = 1: every anchor has one positive (e) and two others (1 each).
    features = torch.tensor([[[1.0, 0.0]] * 2, [[0.0, 1.0]] * 2])
    loss = ExConLoss(temperature=1.0)(features, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(math.log(1 + 2 / math.e), abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 6),
    views=st.integers(1, 3),
    mode=st.sampled_from(["exclude", "negatives", "class"]),
    seed=st.integers(0, 2**20),
)
def test_equals_the_specification_anchor_by_anchor(n, views, mode, seed):
    generator = torch.Generator().manual_seed(seed)
    features = F.normalize(
        torch.randn(n, views, 3, generator=generator, dtype=torch.float64), dim=-1
    )
    labels = torch.randint(3, (n,), generator=generator)
    background = torch.rand(n, generator=generator) < 0.4
    loss = ExConLoss(0.3, mode)(features, labels, background)
    expected = excon_loop(features, labels, background, mode, 0.3)
    assert loss.item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("views", [1, 2, 3])
def test_plain_mode_equals_pytorch_metric_learning(views):
    # Labels 3 and 4 occur once: their anchors have no positive when there is one view.
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 4])
    features = random_features(8, views, 5).requires_grad_()
    ours = ExConLoss(temperature=0.1)(features, labels)
    (gradient,) = torch.autograd.grad(ours, features)
    theirs = SupConLoss(temperature=0.1)(features.flatten(0, 1), labels.repeat_interleave(views))
    (expected,) = torch.autograd.grad(theirs, features)
    torch.testing.assert_close(ours, theirs)
    # Theirs normalises once more, which removes the gradient along the feature.
    tangent = gradient - (gradient * features).sum(-1, keepdim=True) * features
    torch.testing.assert_close(tangent, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["exclude", "negatives", "class"])
def test_without_backgrounds_all_modes_are_supcon(mode):
    features, labels = random_features(6, 2, 4), torch.tensor([0, 1, 0, 1, 2, 2])
    plain = ExConLoss()(features, labels)
    torch.testing.assert_close(ExConLoss(background=mode)(features, labels), plain)
    nobody = torch.zeros(6, dtype=torch.bool)
    torch.testing.assert_close(ExConLoss(background=mode)(features, labels, nobody), plain)


def test_excluded_backgrounds_are_as_if_absent():
    features = on_circle(ANGLES)
    torch.testing.assert_close(
        ExConLoss()(features, LABELS, BACKGROUND), ExConLoss()(features[:3], LABELS[:3])
    )


@pytest.mark.parametrize("mode", ["exclude", "negatives", "class"])
def test_a_backgrounds_label_is_not_read(mode):
    loss = ExConLoss(background=mode)
    values = [
        loss(on_circle(ANGLES), torch.tensor([0, 0, 1, label]), BACKGROUND).item()
        for label in (-1, 0, 1, 5)
    ]
    assert len(set(values)) == 1


@pytest.mark.parametrize(
    ("features", "labels", "background", "mode"),
    [
        (random_features(1, 1, 4), [0], None, "exclude"),  # a batch of one, seen once
        (random_features(3, 1, 4), [0, 1, 2], None, "exclude"),  # lone labels alone
        (random_features(2, 2, 4), [0, 1], [True, True], "exclude"),
        (random_features(2, 2, 4), [0, 1], [True, True], "negatives"),
        (random_features(1, 1, 4), [0], [True], "class"),
        (random_features(0, 2, 4), [], None, "exclude"),
        (random_features(0, 2, 4), [], [], "class"),
    ],
)
def test_without_any_positive_pair_the_loss_is_zero_with_a_graph(
    features, labels, background, mode
):
    features = features.clone().requires_grad_()
    mask = None if background is None else torch.tensor(background, dtype=torch.bool)
    loss = ExConLoss(background=mode)(features, torch.tensor(labels, dtype=torch.long), mask)
    assert loss.item() == 0
    loss.backward()
    torch.testing.assert_close(features.grad, torch.zeros_like(features))


def test_two_views_of_one_image_have_nothing_to_be_told_apart_from():
    features = random_features(1, 2, 4).requires_grad_()
    loss = ExConLoss()(features, torch.tensor([3]))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(features.grad, torch.zeros_like(features), atol=1e-6, rtol=0)


def test_a_lone_label_repels_and_is_no_anchor():
    features = random_features(3, 1, 4).requires_grad_()
    loss = ExConLoss()(features, torch.tensor([0, 0, 1]))
    loss.backward()
    assert features.grad.isfinite().all()
    assert features.grad[2].abs().sum() > 0
    z = features.detach()[:, 0].double()
    s = z @ z.T / 0.1
    expected = [-s[i, j] + s[i, [j, 2]].logsumexp(0) for i, j in ((0, 1), (1, 0))]
    assert loss.item() == pytest.approx(sum(expected).item() / 2, rel=1e-5)


def test_low_temperatures_and_equal_features_stay_finite():
    features = on_circle(torch.tensor([[0.0, 0.0], [math.pi, math.pi]])).requires_grad_()
    loss = ExConLoss(temperature=1e-3)(features, torch.tensor([0, 0]))
    loss.backward()
    # The positives at 180 degrees are 2000 nats below the nearest one, two of three for each.
    assert loss.item() == pytest.approx(2 / 3 * 2000, rel=1e-5)
    assert features.grad.isfinite().all()


def test_gradients_are_those_of_finite_differences():
    features = random_features(4, 2, 3, dtype=torch.float64).requires_grad_()
    for mode in ("exclude", "negatives", "class"):
        loss = ExConLoss(0.5, mode)
        torch.autograd.gradcheck(lambda f: loss(f, LABELS, BACKGROUND), (features,))  # noqa: B023


def test_computes_in_float32_under_autocast():
    features, labels = random_features(8, 2, 16), torch.arange(8) % 3
    expected = ExConLoss()(features, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (features[:, 0] @ features[:, 0].T).dtype == torch.bfloat16
        loss = ExConLoss()(features, labels)
        assert (features[:, 0] @ features[:, 0].T).dtype == torch.bfloat16
    assert torch.equal(loss, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_are_widened_first(dtype):
    features = random_features(8, 2, 16).to(dtype).requires_grad_()
    labels = torch.arange(8) % 3
    loss = ExConLoss()(features, labels)
    assert torch.equal(loss, ExConLoss()(features.float(), labels))
    loss.backward()
    assert features.grad.dtype == dtype


def test_gathering_without_a_process_group_is_the_local_loss():
    args = on_circle(ANGLES), LABELS, BACKGROUND
    for mode in ("exclude", "negatives", "class"):
        loss = ExConLoss(background=mode, gather_distributed=True)(*args)
        assert torch.equal(loss, ExConLoss(background=mode)(*args))


def test_accepts_all_integer_labels():
    expected = ExConLoss()(on_circle(ANGLES), LABELS)
    for dtype in (torch.uint8, torch.int16, torch.int32):
        assert torch.equal(ExConLoss()(on_circle(ANGLES), LABELS.to(dtype)), expected)


def test_is_picklable_and_prints_its_options():
    loss = pickle.loads(pickle.dumps(ExConLoss(0.2, "class", 0.07, True)))
    assert repr(loss) == (
        "ExConLoss(temperature=0.2, background='class', base_temperature=0.07, "
        "gather_distributed=True)"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "temperature must be positive, but found 0"),
        ({"temperature": -1.0}, "temperature must be positive"),
        ({"temperature": math.nan}, "temperature must be positive"),
        ({"base_temperature": 0.0}, "base_temperature must be positive"),
        ({"background": "ignore"}, "'exclude', 'negatives', 'class', but found 'ignore'"),
    ],
)
def test_refuses_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        ExConLoss(**options)


Z = torch.zeros(4, 2, 3)
L = torch.zeros(4, dtype=torch.long)
B = torch.zeros(4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((Z[:, 0], L), ValueError, r"\(N, views, D\), but found \(4, 3\); .*unsqueeze\(1\)"),
        ((Z.long(), L), TypeError, "features must be floating point, but found torch.int64"),
        ((Z, L.float()), TypeError, "labels must be integers, but found torch.float32"),
        ((Z, B), TypeError, "labels must be integers, but found torch.bool"),
        ((Z, L[:3]), ValueError, r"labels must have one value per image, \(4,\), .*\(3,\)"),
        ((Z, L.repeat(2)), ValueError, "labels must have one value per image"),
        ((Z, L[:, None]), ValueError, "labels must have one value per image"),
        ((Z, L, B.long()), TypeError, "is_background must be bool, but found torch.int64"),
        ((Z, L, B[:2]), ValueError, "is_background must have one value per image"),
        ((Z, L.to("meta")), ValueError, "labels must be on the device of the features, cpu"),
    ],
)
def test_refuses_arguments_that_do_not_fit(args, error, message):
    with pytest.raises(error, match=message):
        ExConLoss()(*args)


# p = (1/2, 1/4, 1/4) and (1/10, 8/10, 1/10).
LOGITS = torch.tensor([[2.0, 1.0, 1.0], [1.0, 8.0, 1.0]]).log()
CLASSES = torch.tensor([0, 1])


def test_uniform_is_the_cross_entropy_to_equal_probabilities():
    expected = [5 / 3 * math.log(2), -math.log(0.1 * 0.8 * 0.1) / 3]
    torch.testing.assert_close(uniform_drop_loss(LOGITS), torch.tensor(expected))
    even = uniform_drop_loss(torch.full((1, 7), 3.0))
    torch.testing.assert_close(even, torch.tensor([math.log(7)]))


def test_background_is_the_cross_entropy_to_the_last_class():
    expected = torch.tensor([math.log(4), math.log(10)])
    torch.testing.assert_close(background_drop_loss(LOGITS), expected)


def test_hinge_is_the_rise_of_the_probability_above_minus_the_margin():
    before = torch.tensor([[0.75, 0.15, 0.10], [0.30, 0.60, 0.10]]).log()
    loss = hinge_drop_loss(LOGITS, before, CLASSES)  # 0.5 - 0.75 < 0, 0.8 - 0.6
    torch.testing.assert_close(loss, torch.tensor([0.0, 0.2]))
    loss = hinge_drop_loss(LOGITS, before, CLASSES, margin=0.35)
    torch.testing.assert_close(loss, torch.tensor([0.1, 0.55]))


def test_hinge_gives_the_whole_image_no_gradient():
    dropped, before = LOGITS.clone().requires_grad_(), torch.zeros(2, 3, requires_grad=True)
    hinge_drop_loss(dropped, before, CLASSES).sum().backward()
    assert before.grad is None
    # dp/dz = p (1 - p) for the class itself.
    assert dropped.grad[0, 0].item() == pytest.approx(0.25)


def test_hinge_with_sigmoids():
    dropped, before = torch.tensor([[9.0, math.log(3)]]), torch.tensor([[-9.0, 0.0]])
    loss = hinge_drop_loss(dropped, before, torch.tensor([1]), multilabel=True)  # 3/4 - 1/2
    torch.testing.assert_close(loss, torch.tensor([0.25]))


def test_suppress_is_the_log_of_what_the_class_leaves():
    expected = torch.tensor([math.log(2), math.log(5)])
    torch.testing.assert_close(suppress_drop_loss(LOGITS, CLASSES), expected)
    loss = suppress_drop_loss(LOGITS, CLASSES, multilabel=True)  # 1 - p = 1/3, 1/9
    torch.testing.assert_close(loss, torch.tensor([math.log(3), math.log(9)]))


@pytest.mark.parametrize("multilabel", [False, True])
def test_suppress_stays_finite_where_the_probability_rounds_to_one(multilabel):
    logits = torch.tensor([[1000.0, 0.0]], requires_grad=True)
    loss = suppress_drop_loss(logits, torch.tensor([0]), multilabel=multilabel)
    loss.sum().backward()
    assert loss.item() == pytest.approx(1000)
    torch.testing.assert_close(logits.grad[0, 0], torch.tensor(1.0))
    assert logits.grad.isfinite().all()


def test_drop_loss_calls_the_function_of_its_kind():
    before = LOGITS.flip(1)
    for kind, options, expected in (
        ("uniform", {}, uniform_drop_loss(LOGITS)),
        ("background", {}, background_drop_loss(LOGITS)),
        ("suppress", {}, suppress_drop_loss(LOGITS, CLASSES)),
        ("suppress", {"multilabel": True}, suppress_drop_loss(LOGITS, CLASSES, multilabel=True)),
        ("hinge", {"margin": 0.4}, hinge_drop_loss(LOGITS, before, CLASSES, margin=0.4)),
        ("hinge", {"multilabel": True}, hinge_drop_loss(LOGITS, before, CLASSES, multilabel=True)),
    ):
        loss = drop_loss(kind, LOGITS, CLASSES, logits=before, **options)
        assert loss.shape == (2,)
        assert torch.equal(loss, expected)


@pytest.mark.parametrize("kind", ["uniform", "background", "hinge", "suppress"])
def test_drop_losses_compute_in_float32_and_take_empty_batches(kind):
    half, classes = torch.randn(5, 3).bfloat16(), torch.tensor([0, 1, 2, 0, 1])
    loss = drop_loss(kind, half, classes, logits=-half)
    assert torch.equal(loss, drop_loss(kind, half.float(), classes, logits=-half.float()))
    assert loss.dtype == torch.float32
    assert drop_loss(kind, half[:0], classes[:0], logits=half[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        (("drop", LOGITS, CLASSES), {}, ValueError, "kind must be one of .*but found 'drop'"),
        (("hinge", LOGITS, CLASSES), {}, ValueError, "pass logits="),
        (("hinge", LOGITS, CLASSES), {"logits": LOGITS[:1]}, ValueError, r"\(2, 3\), .*\(1, 3\)"),
        (("uniform", LOGITS, CLASSES), {"multilabel": True}, ValueError, "needs a softmax"),
        (("background", LOGITS, CLASSES), {"multilabel": True}, ValueError, "needs a softmax"),
        (("uniform", LOGITS[0], CLASSES), {}, ValueError, r"\(N, classes\), but found"),
        (("background", LOGITS.long(), CLASSES), {}, ValueError, "floating point"),
        (("suppress", LOGITS, CLASSES[:1]), {}, ValueError, "one value per image"),
        (("suppress", LOGITS, LOGITS[:, 0]), {}, TypeError, "classes must be integers"),
        (("suppress", LOGITS[:, :1], CLASSES), {}, ValueError, "use multilabel=True"),
    ],
)
def test_drop_losses_refuse_arguments_that_do_not_fit(args, options, error, message):
    with pytest.raises(error, match=message):
        drop_loss(*args, **options)
