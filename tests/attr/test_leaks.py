"""A thousand calls, some of them failing, leave nothing behind."""

import gc
from typing import Any

import pytest
import torch
from helpers.toys import METHODS, ConvNet, Normalised, images, state

pytestmark = pytest.mark.filterwarnings("ignore:.*all zero:UserWarning")


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.mark.slow
def test_a_thousand_calls_leave_no_hook_no_tensor_and_no_change() -> None:
    model = ConvNet(inplace=True, seed=1)
    explainers = {name: (method, method.build(model)) for name, method in METHODS.items()}
    x = images(1, 1, 8, 8)

    def fail(*_: Any) -> None:
        raise KeyError("broken on purpose")

    def call_all(i: int) -> None:
        for method, explainer in explainers.values():
            if i % 4 == 1:
                with pytest.raises(IndexError):
                    explainer.attribute(x, target=99, **method.options)
            elif i % 4 == 3:
                handle = model.pool.register_forward_hook(fail)
                with pytest.raises(KeyError):
                    explainer.attribute(x, target=1, **method.options)
                handle.remove()
            else:
                explainer.attribute(x, target=i % 3, **method.options)

    for i in range(4):  # whatever is cached by a first call is cached now
        call_all(i)
    before, tensors = state(model), live_tensors()
    for i in range(200):
        call_all(i)
    assert state(model) == before
    assert live_tensors() == tensors


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_an_attribution_does_not_outlive_its_call_in_memory(name: str) -> None:
    model, method = Normalised(), METHODS[name]
    explainer = method.build(model)
    explainer.attribute(images(1, 1, 8, 8), target=1, **method.options)
    tensors = live_tensors()
    for size in (9, 10, 11):  # a cache for each shape must not keep the images or the maps
        explainer.attribute(images(2, 1, size, size), target=1, **method.options)
    assert live_tensors() == tensors
