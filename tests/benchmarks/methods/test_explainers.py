import warnings

import pytest
import torch
from captum.attr import LayerAttribution
from helpers.tiny_runs import planned, tiny_config

from benchmarks.explanations.configs.settings import Choice
from benchmarks.explanations.methods.controls import other_item
from benchmarks.explanations.methods.explainers import Explainer
from benchmarks.explanations.stages.explain import make_setting
from benchmarks.explanations.stages.model import open_model
from benchmarks.explanations.stages.plan import open_run, read_plan
from captum_excon.attr._core.fusion import gaussian
from captum_excon.errors import UserError
from captum_excon.methods.registry import method_names

OPTIONS = {
    "captum:occlusion": {"sliding_window_shapes": [3, 16, 16], "strides": [3, 16, 16]},
    "captum:integrated-gradients": {"n_steps": 4},
    "integrated-grad-cam": {"n_steps": 4},
    "rise": {"n_masks": 6},
}


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    config = tiny_config(layer=None)
    plan = read_plan(planned(tmp_path_factory.mktemp("run"), config))
    model = open_model(config)
    return make_setting(open_run(plan, model))


def explainer(name, **options):
    return Explainer(Choice(name=name, options=options or OPTIONS.get(name, {})))


@pytest.mark.parametrize(
    "name", [n for n in method_names() if not n.startswith("grad-cam:")]
    + ["grad-cam:GradCAMPlusPlus", "grad-cam:XGradCAM", "grad-cam:LayerCAM", "grad-cam:ScoreCAM",
       "grad-cam:EigenCAM", "grad-cam:AblationCAM", "grad-cam:FullGrad"],
)  # fmt: skip
def test_every_explainer_gives_the_same_raw_map_whatever_came_before(setting, name):
    case = setting.case(1)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = explainer(name).explain(case, setting)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.dim() == 3
    assert first.shape[0] == 1
    assert first.dtype == torch.float32
    assert first.isfinite().all()
    explainer("rise").explain(setting.case(0), setting)
    torch.rand(5)
    assert torch.equal(explainer(name).explain(case, setting), first)


@pytest.mark.parametrize("name", ["random", "blurred-random", "sobel", "centre-gaussian",
                                  "fake-cam", "ground-truth", "other-image"])  # fmt: skip
def test_controls_have_the_size_of_the_image_or_of_the_map_they_borrow(setting, name):
    found = explainer(name)
    assert found.control
    saliency = found.explain(setting.case(0), setting)
    assert saliency.shape == ((1, 12, 12) if name == "other-image" else (1, 48, 48))


def test_another_images_map_is_that_of_the_other_item(setting):
    other = other_item(0, setting.images)
    expected = explainer("captum:input-x-gradient").explain(setting.case(other), setting)
    borrowed = explainer("other-image", of="captum:input-x-gradient")
    assert torch.equal(borrowed.explain(setting.case(0), setting), expected)


def test_methods_of_one_layer_share_it_and_fusing_ones_take_all(setting):
    names = {
        name: [layer.name for layer in explainer(name).layers(setting)]
        for name in ("captum:layer-grad-cam", "grad-cam:LayerCAM", "integrated-grad-cam",
                     "other-image", "multi-layer-sise", "rise", "captum:saliency", "random")
    }  # fmt: skip
    assert names.pop("multi-layer-sise") == ["block1", "block2", "block3"]
    for name in ("rise", "captum:saliency", "random"):
        assert names.pop(name) == []
    assert set(map(tuple, names.values())) == {("block3",)}


def test_rows_and_passes_are_counted_inside_of_copies_of_the_network_too(setting):
    passes = setting.model.passes
    before = passes.forward_rows, passes.backward_rows
    explainer("grad-cam:ScoreCAM").explain(setting.case(0), setting)
    assert passes.forward_rows - before[0] == 1 + 8
    explainer("grad-cam:LayerCAM").explain(setting.case(0), setting)
    assert passes.backward_rows - before[1] == 1


def test_paths_start_at_black_and_masks_put_zeros_unless_told(setting):
    case = setting.case(0)
    grey = setting.__class__(**{**vars(setting), "black": torch.full((1, 3, 1, 1), 0.4)})
    name, options = "captum:integrated-gradients", {"n_steps": 4}
    from_black = explainer(name).explain(case, grey)
    assert not torch.equal(from_black, explainer(name).explain(case, setting))
    told = explainer(name, baselines="zero", **options).explain(case, grey)
    assert torch.equal(told, explainer(name).explain(case, setting))
    rise = explainer("rise").explain(case, grey)
    assert torch.equal(rise, explainer("rise").explain(case, setting))


def test_explainers_are_quiet(setting, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("captum:guided-grad-cam", "grad-cam:AblationCAM", "captum:saliency"):
            explainer(name).explain(setting.case(0), setting)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"name": "captum:layer-gradcam"}, "did you mean 'captum:layer-grad-cam'"),
        ({"name": "ground-thruth"}, "did you mean 'ground-truth'"),
        ({"name": "grad-cam:GradCamPlusPlus"}, "did you mean 'grad-cam:GradCAMPlusPlus'"),
        ({"name": "rise", "options": {"n_mask": 4}}, "no option 'n_mask'; did you mean 'n_masks'"),
        ({"name": "rise", "options": {"target": 1}}, "has no option 'target'"),
        ({"name": "sobel", "options": {"size": 4}}, "no option 'size'; it has none"),
        ({"name": "rise", "options": {"baselines": "grey"}}, "must be zero or black"),
        ({"name": "other-image", "options": {"of": "random"}}, "'of' must name an explainer"),
    ],
)
def test_wrong_names_and_options_say_what_is_right(choice, message):
    with pytest.raises(UserError, match=message):
        Explainer(Choice(**choice))


def test_ground_truth_needs_annotation(setting):
    with pytest.raises(ValueError, match="no ground truth"):
        explainer("ground-truth").explain(setting.case(0)._replace(mask=None), setting)


def test_smooth_is_an_option_of_every_method_in_cells_of_the_deepest_layer(setting):
    case = setting.case(0)
    raw = explainer("captum:layer-grad-cam").explain(case, setting)
    smoothed = explainer("captum:layer-grad-cam", smooth=0.25).explain(case, setting)
    size = case.image.shape[2:]
    enlarged = LayerAttribution.interpolate(raw[None], size, "bilinear")
    expected = gaussian(enlarged, 0.25, setting.layers[-1].size)[0]
    torch.testing.assert_close(smoothed, expected)
    assert not torch.allclose(smoothed, enlarged[0])
    # A method's own option is used once.
    own = explainer("fused-grad-cam", smooth=0.0).explain(case, setting)
    assert not torch.allclose(own, explainer("fused-grad-cam").explain(case, setting))
