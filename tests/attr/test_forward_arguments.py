"""Additional forward arguments: tensors with a row for each image, and tensors that all share."""

from typing import Any

import pytest
import torch
from helpers.toys import METHODS, ConvNet, CountedRows, images
from torch import Tensor

from captum_excon import select_layers
from captum_excon.attr._core.captum import format_args
from captum_excon.attr._core.layers import LayerChoice
from captum_excon.metrics import drop_increase

pytestmark = pytest.mark.filterwarnings("ignore:.*all zero:UserWarning")

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


class Prototypes(ConvNet):
    """Logits are products with prototypes (L, 7), which the caller gives or `own` holds."""

    own: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.double()

    def forward(self, x: Tensor, prototypes: Tensor | None = None) -> Tensor:  # type: ignore[override]
        prototypes = self.own if prototypes is None else prototypes
        return 3 * self.features(x).flatten(2).mean(2) @ prototypes.T


def shared(length: int) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randn(length, 7, generator=generator, dtype=torch.float64)


@pytest.mark.slow
@every_method
@pytest.mark.parametrize("count", [17, 18, 19, 20])
def test_a_shared_tensor_is_whole_for_every_image_whatever_its_length(
    method: Any, count: int
) -> None:
    model, inputs = Prototypes(), images(count, 1, 6, 6, dtype=torch.float64)
    # A softmax over one prototype says nothing.
    options = {} if method is METHODS["IntegratedGradCAM"] else {"score": "identity"}
    for length in range(1, 17):
        model.own = shared(length)
        maps = method(model, inputs, target=0, additional_forward_args=model.own, **options)
        torch.testing.assert_close(maps, method(model, inputs, target=0, **options))


@pytest.mark.parametrize("training", [False, True])
def test_layers_are_chosen_with_a_shared_tensor_as_long_as_a_group_of_images(
    training: bool,
) -> None:
    class Checked(Prototypes):
        def forward(self, x: Tensor, prototypes: Tensor) -> Tensor:  # type: ignore[override]
            assert prototypes.shape == (16, 7)
            return super().forward(x, prototypes)

    model, inputs = Checked().train(training), images(20, 1, 12, 10, dtype=torch.float64)
    args = format_args(shared(16), 20)
    index = torch.arange(16)
    group = LayerChoice(model, None, None)((inputs[:16],), args.take(index))
    assert [layer.name for layer in group] == [
        layer.name for layer in select_layers(model, inputs, shared(16))
    ]


def test_metrics_take_a_shared_tensor_whole() -> None:
    model, inputs = Prototypes(), images(20, 1, 12, 10, dtype=torch.float64)
    maps = inputs.abs()
    for length in (4, 16, 19):
        model.own = shared(length)
        found = drop_increase(model, inputs, maps, target=0, additional_forward_args=model.own)
        torch.testing.assert_close(found, drop_increase(model, inputs, maps, target=0))


def test_a_shared_tensor_costs_integrated_grad_cam_no_row_of_the_baseline_for_each_image() -> None:
    model, inputs = Prototypes(), images(5, 1, 6, 6, dtype=torch.float64)
    with CountedRows(model) as counted:
        METHODS["IntegratedGradCAM"](
            model, inputs, target=0, additional_forward_args=shared(4), n_steps=2
        )
    assert counted.rows == 1 + 5 * 2


def test_a_tensor_of_each_image_follows_its_image() -> None:
    args = format_args((torch.arange(3), torch.arange(2), "flag", torch.tensor(1.0)), 3)
    taken = args.take(torch.tensor([2, 2]))
    assert [t.tolist() if isinstance(t, Tensor) else t for t in taken.values] == [
        [2, 2],
        [0, 1],
        "flag",
        1.0,
    ]
    again = taken.take(torch.tensor([1]))
    assert again.values[1].tolist() == [0, 1]
