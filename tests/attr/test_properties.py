"""Properties that hold for every network and image, on drawn examples."""

import numpy as np
import pytest
import torch
from helpers import oracles
from helpers.toys import LAYERS, METHODS, ConvNet, images
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.filters import threshold_otsu

from captum_excon.attr._core.masks import otsu

pytestmark = pytest.mark.filterwarnings("ignore:.*all zero:UserWarning")

sizes = st.lists(st.integers(4, 13), min_size=1, max_size=2).map(tuple)
networks = st.builds(
    dict, seed=st.integers(0, 50), in_channels=st.integers(1, 3), signed=st.booleans()
)
quick = settings(max_examples=15, deadline=None, derandomize=True)


@quick
@given(
    name=st.sampled_from(list(METHODS)),
    options=networks,
    size=sizes,
    n=st.integers(1, 4),
    batch_size=st.integers(1, 9),
)
def test_maps_do_not_depend_on_batches(
    name: str, options: dict[str, int], size: tuple[int, ...], n: int, batch_size: int
) -> None:
    method, model = METHODS[name], ConvNet(len(size), **options).double()
    inputs = images(n, options["in_channels"], *size, dtype=torch.float64)
    targets = [i % 3 for i in range(n)]
    attribution = method(model, inputs, target=targets)
    assert attribution.isfinite().all()
    rebatched = method(model, inputs, target=targets, **{method.batch_size_option: batch_size})
    torch.testing.assert_close(rebatched, attribution, rtol=1e-7, atol=1e-10)
    singles = [method(model, inputs[i : i + 1], target=t) for i, t in enumerate(targets)]
    torch.testing.assert_close(torch.cat(singles), attribution, rtol=1e-7, atol=1e-10)


@quick
@given(name=st.sampled_from(["MultiLayerSISE", "AdaptiveHybridCAM"]), options=networks, size=sizes)
def test_sise_is_within_its_range_and_supported_by_the_deepest_map(
    name: str, options: dict[str, int], size: tuple[int, ...]
) -> None:
    model = ConvNet(len(size), **options)
    inputs = images(2, options["in_channels"], *size)
    attribution, maps = METHODS[name](model, inputs, target=1, return_layer_maps=True)
    assert attribution.amin() >= 0
    assert attribution.amax() <= len(LAYERS)
    for fused, deepest in zip(attribution[:, :1], maps[-1], strict=True):
        if deepest.any():
            assert (deepest[fused > 0] > oracles.otsu(deepest)).all()


@quick
@given(options=networks, scale=st.floats(0.01, 100), shift=st.floats(-10, 10))
def test_sise_does_not_depend_on_the_scale_of_the_score(
    options: dict[str, int], scale: float, shift: float
) -> None:
    model = ConvNet(2, **options).double()
    inputs = images(2, options["in_channels"], 9, 8, dtype=torch.float64)
    sise = METHODS["MultiLayerSISE"]
    torch.testing.assert_close(
        sise(model, inputs, target=1, score=lambda y: scale * y.softmax(1), fusion="sum"),
        sise(model, inputs, target=1, fusion="sum"),
    )
    # a constant added to every logit is no evidence
    torch.testing.assert_close(
        sise(model, inputs, target=1, score=lambda y: (y + shift).softmax(1), fusion="sum"),
        sise(model, inputs, target=1, fusion="sum"),
    )


@quick
@given(options=networks, scale=st.floats(0.01, 100))
def test_integrated_grad_cam_is_linear_in_the_output(options: dict[str, int], scale: float) -> None:
    model = ConvNet(2, **options).double()
    inputs = images(2, options["in_channels"], 9, 8, dtype=torch.float64)
    cam = METHODS["IntegratedGradCAM"]
    expected = cam(model, inputs, target=1) * scale
    model.head.weight.data *= scale
    torch.testing.assert_close(cam(model, inputs, target=1), expected)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), filled=st.integers(2, 256), most=st.integers(1, 40))
def test_otsu_is_scikit_images(seed: int, filled: int, most: int) -> None:
    random = np.random.default_rng(seed)
    counts = np.zeros(256, dtype=int)
    counts[random.permutation(256)[:filled]] = random.integers(1, most + 1, filled)
    centres = (np.arange(256) + 0.5) / 256
    values = torch.from_numpy(np.repeat(centres, counts))
    expected = threshold_otsu(hist=(counts, centres))
    assert otsu(values[None]).item() == pytest.approx(expected, abs=1e-6)
    padded = torch.cat([values, torch.rand(7, dtype=values.dtype)])[None]
    valid = torch.arange(padded.shape[1])[None] < len(values)
    assert otsu(padded, valid).item() == pytest.approx(expected, abs=1e-6)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    rows=st.lists(
        st.lists(st.floats(0, 1, width=32), min_size=12, max_size=12), min_size=1, max_size=4
    )
)
def test_otsu_of_a_batch_splits_its_rows_as_scikit_image_does(rows: list[list[float]]) -> None:
    values = torch.tensor(rows, dtype=torch.float64)
    values[:, 0], values[:, 1] = 0, 1
    thresholds = otsu(values)
    for row, threshold in zip(values, thresholds, strict=True):
        assert threshold.item() == pytest.approx(oracles.otsu(row), abs=1e-6)
