"""The cache of explanations: what is found again, what is stale, what it costs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.training_toys import Counted, Views, changed, fit, loader, module, trainer, weights
from torch import Tensor, nn
from torch.utils.data import DataLoader

from captum_excon._provenance import weights_hash
from captum_excon.training.modules.cache import CachedExplainer, ExplanationCache, image_keys


def opened(folder: Path, method: str = "cam", model: str = "1a", images: int = 6) -> Any:
    return ExplanationCache(folder / "maps", {"explainer": method, "model": model}, images)


def numbers(*values: int) -> Tensor:
    return torch.tensor(values)


def test_maps_are_found_by_index_and_class_at_their_own_size(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.put(numbers(4, 1), numbers(5, 2), torch.rand(2, 1, 3, 5))
    maps, found = cache.get(numbers(1, 4, 4, 0), numbers(2, 5, 1, 5))
    assert maps.shape == (4, 1, 3, 5)
    assert found.tolist() == [True, True, False, False]


def test_maps_are_kept_in_half_precision_relative_to_their_peak(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    tiny = torch.tensor([[[[-4e-9, 1e-9]]], [[[0.0, 0.0]]]])
    cache.put(numbers(0, 1), numbers(0, 0), tiny)
    maps, _ = cache.get(numbers(0, 1), numbers(0, 0))
    assert maps.flatten(1).tolist() == [[-1.0, 0.25], [0.0, 0.0]]
    assert (tmp_path / "maps" / "maps-1x2.f16").stat().st_size == 6 * 2 * 2


def test_the_latest_class_of_an_image_replaces_the_one_before(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    for label in (0, 1):
        cache.put(numbers(3), numbers(label), torch.full((1, 1, 2, 2), 1.0 - 2 * label))
    maps, found = cache.get(numbers(3, 3), numbers(0, 1))
    assert found.tolist() == [False, True]
    assert (maps[1] == -1).all()


def test_maps_that_are_not_finite_stay_so(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.put(numbers(0), numbers(0), torch.tensor([[[[float("nan"), 1.0]]]]))
    assert cache.get(numbers(0), numbers(0))[0].isnan().any()


@pytest.mark.parametrize(
    ("change", "kept"),
    [({}, True), ({"method": "rise"}, False), ({"model": "2b"}, False), ({"images": 7}, False)],
)
def test_maps_of_another_method_network_or_data_set_are_stale(
    change: dict[str, Any], kept: bool, tmp_path: Path
) -> None:
    opened(tmp_path).put(numbers(2), numbers(1), torch.rand(1, 1, 2, 2))
    again = opened(tmp_path, **change)
    assert again.get(numbers(2), numbers(1))[1].tolist() == [kept]
    assert list((tmp_path / "maps").glob("*.f16")) == (
        [tmp_path / "maps" / "maps-2x2.f16"] if kept else []
    )


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="not a cache of explanations"):
        opened(tmp_path)
    assert (tmp_path / "maps" / "thesis.tex").read_text() == "mine"


def test_maps_of_two_sizes_in_one_folder_do_not_hide_each_other(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    for key, size in ((1, 2), (2, 4)):
        cache.put(numbers(3), numbers(key), torch.rand(1, 1, size, size) + 0.1)
    for key, size in ((1, 2), (2, 4)):
        maps, found = cache.get(numbers(3), numbers(key))
        assert found.all()
        assert maps.shape == (1, 1, size, size)
        assert bool((maps > 0).all())


def test_a_key_depends_on_pixels_shape_class_and_nothing_else() -> None:
    images = torch.rand(4, 3, 6, 5)
    labels = numbers(0, 1, 2, 3)
    keys = image_keys(images, labels)
    assert torch.equal(keys, image_keys(images.clone(memory_format=torch.channels_last), labels))
    assert torch.equal(keys[1:2], image_keys(images[1:2], labels[1:2]))
    others = [
        image_keys(images.view(4, 3, 5, 6), labels),
        image_keys(images, labels + 1),
        image_keys((images - 0.5) / 0.25, labels),
        image_keys(images.flip(3), labels),
        image_keys(images.roll(1, 1), labels),
        image_keys(images.half(), labels),
    ]
    assert len({*keys.tolist(), *torch.cat(others).tolist()}) == 4 * 7


def test_an_index_outside_the_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IndexError, match="for 6 images, but an index is 6"):
        opened(tmp_path).get(numbers(0, 6), numbers(0, 0))


def test_the_hash_depends_on_weights_buffers_and_nothing_else() -> None:
    first, second = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    assert weights_hash(first) == weights_hash(second)
    second.running_mean += 1  # type: ignore[operator]
    assert weights_hash(first) != weights_hash(second)
    assert len({weights_hash(nn.Linear(1, 1).to(d)) for d in (torch.float32, torch.bfloat16)}) == 2


def test_only_maps_that_are_missing_are_computed(tmp_path: Path) -> None:
    asked = []

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        asked.append((len(images), targets.tolist()))
        return images * targets[:, None, None, None].float()

    cached = CachedExplainer(explain, nn.Identity(), opened(tmp_path))
    images = torch.rand(3, 2, 4, 4)
    results = []
    for indices, targets in (([0, 1, 2], [1, 2, 3]), ([0, 1, 2], [1, 5, 3]), ([2, 0], [3, 1])):
        cached.indices = torch.tensor(indices)
        results.append(cached(images[indices], torch.tensor(targets)))
    assert asked == [(3, [1, 2, 3]), (1, [5])]
    assert torch.equal(results[0][[0, 2]], results[1][[0, 2]])
    assert torch.equal(results[2], results[0][[2, 0]])
    expected = images.sum(1, keepdim=True)
    torch.testing.assert_close(
        results[0], expected / expected.amax((2, 3), keepdim=True), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("method", ["excon", "exconb", "edda"])
def test_training_with_a_cache_explains_each_image_once_for_the_same_weights(
    method: str, tmp_path: Path
) -> None:
    explainer = Counted()
    options = {"explainer": explainer, "layer": None}
    options |= {"view": "standard", "target": "label"} if method == "edda" else {}
    pair = 1 if method == "edda" else 2
    fit(
        module(method, **options, refresh=2, cache=str(tmp_path / "maps")),
        tmp_path,
        epochs=4 * pair,
    )
    # Two batches in rounds 0 and 2, in which the copy is renewed.
    assert explainer.calls == 4
    manifest = json.loads((tmp_path / "maps" / "manifest.json").read_text())
    assert manifest["explainer"] == "Counted body"
    assert manifest["images"] == 16


def test_what_a_cache_changes_is_half_precision_alone(tmp_path: Path) -> None:
    ends = []
    for cache in (None, str(tmp_path / "maps")):
        model = module("excon", refresh="teacher", cache=cache)
        fit(model, tmp_path, epochs=4)
        ends.append(weights(model))
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-2, atol=1e-2)


def cached(folder: Path, explainer: Any, **options: Any) -> Any:
    maps = str(folder / "maps")
    return module(
        "excon", explainer=explainer, layer=None, refresh="teacher", cache=maps, **options
    )


def explained_again(folder: Path, explainer: Any = None, data: Any = None, **options: Any) -> int:
    """The number of explainer calls in an epoch of two batches, on a cache that others share."""
    explainer = explainer or Counted()
    model = cached(folder, explainer, **options)
    training = DataLoader(data or Views(), 8, generator=torch.Generator())
    trainer(folder, 1).fit(model, training, loader(8))
    return int(explainer.calls)


def test_a_second_run_of_the_same_weights_finds_the_maps_of_the_first(tmp_path: Path) -> None:
    ends = []
    calls = []
    for _ in range(2):
        explainer = Counted()
        model = cached(tmp_path, explainer)
        fit(model, tmp_path, epochs=1)
        ends.append(weights(model))
        calls.append(explainer.calls)
    assert calls == [2, 0]
    assert changed(*ends) == set()


class Changed(Views):
    """The same number of images, each changed."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.images, self.labels = change(self.images, self.labels)


@pytest.mark.parametrize(
    ("change", "options"),
    [
        (lambda images, labels: (images.roll(1, 0), labels.roll(1, 0)), {}),
        (lambda images, labels: (images, labels.roll(1, 0)), {}),
        (lambda images, labels: (F.interpolate(images, 16), labels), {}),
        (lambda images, labels: (images, labels), {"mean": (0.1, 0.2, 0.3)}),
    ],
    ids=["another split", "other labels", "another size", "another normalisation"],
)
def test_maps_of_other_images_are_not_found(
    change: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    assert explained_again(tmp_path) == 2
    assert explained_again(tmp_path) == 0
    assert explained_again(tmp_path, data=Changed(change), **options) == 2


def test_maps_of_another_function_of_the_same_name_are_not_found(tmp_path: Path) -> None:
    assert explained_again(tmp_path, Counted("body")) == 2
    assert explained_again(tmp_path, Counted("stem")) == 2
    assert explained_again(tmp_path, Counted("stem")) == 0


def test_a_function_without_a_key_of_its_own_is_refused_with_a_cache() -> None:
    def nameless(model: nn.Module) -> Any:
        return lambda images, targets: images

    with pytest.raises(ValueError, match="attribute cache_key"):
        module("excon", explainer=nameless, layer=None, refresh="teacher", cache="maps")
