"""Explaining in the middle of training leaves no trace in it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from captum.attr import LayerGradCam
from helpers import training_toys as toys
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


def state(model: Any) -> dict[str, Any]:
    return {
        "modes": [part.training for part in model.modules()],
        "buffers": [buffer.clone() for buffer in model.buffers()],
        "parameters": [parameter.detach().clone() for parameter in model.parameters()],
        "gradients": [p.grad if p.grad is None else p.grad.clone() for p in model.parameters()],
        "requires": [parameter.requires_grad for parameter in model.parameters()],
        "random": [torch.get_rng_state()],
        "hooks": sum(len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules()),
        "grad mode": torch.is_grad_enabled(),
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b


@pytest.mark.parametrize("refresh", ["step", "teacher"])
@pytest.mark.parametrize("method", toys.EXPLAINED)
def test_modes_buffers_gradients_and_random_state_are_as_before(
    method: str, refresh: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = toys.module(method, fill="noise", refresh=refresh)
    plain = type(model).on_after_batch_transfer
    seen = []

    def watched(self: Any, batch: Any, dataloader_idx: int) -> Any:
        self.network.encoder.stem[1].eval()  # one that its owner has frozen
        before = state(self)
        result = plain(self, batch, dataloader_idx)
        if self.trainer.training:
            after = state(self)
            seen.append({name: same(before[name], after[name]) for name in before})
        return result

    monkeypatch.setattr(type(model), "on_after_batch_transfer", watched)
    toys.fit(model, tmp_path, epochs=1)
    assert len(seen) == 2
    assert all(all(step.values()) for step in seen), seen


class Waits(TorchDispatchMode):
    """Counts operations whose result or size the host has to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        by_mask = name == "aten.index.Tensor" and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if by_mask or any(
            part in name for part in ("_local_scalar_dense", "nonzero", "masked_sel")
        ):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("method", "waits"), [("excon", 0), ("edda", 0), ("exconb", 2)])
def test_a_step_waits_for_the_device_at_most_for_the_number_of_backgrounds(
    method: str, waits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = toys.module(method)
    mode = Waits()
    for name in ("on_after_batch_transfer", "training_step"):
        plain = getattr(type(model), name)

        def watched(self: Any, batch: Any, index: int, plain: Any = plain) -> Any:
            with mode:
                return plain(self, batch, index)

        monkeypatch.setattr(type(model), name, watched)
    toys.fit(model, tmp_path, 1, limit_train_batches=1, limit_val_batches=0)
    assert len(mode.names) <= waits, mode.names


def useless(model: Any) -> Any:
    """Explains at full cost, draws random numbers, and says nothing."""
    cam = LayerGradCam(model, model.encoder.body)

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        torch.rand(3)
        return torch.zeros_like(cam.attribute(images, target=targets))

    return explain


@pytest.mark.parametrize("method", ["excon", "exconb"])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_training_with_explanations_that_say_nothing_equals_training_without(
    method: str, mode: str, tmp_path: Path
) -> None:
    explained = toys.module(method, explainer=useless, layer=None, explain_mode=mode)
    plain = toys.module("supcon")
    for model in (explained, plain):
        toys.fit(model, tmp_path, epochs=4)
    # Without a single accepted view or background, ExCon is SupCon.
    assert toys.changed(toys.weights(explained), toys.weights(plain)) == set()


@pytest.mark.parametrize("method", [*toys.EXPLAINED, "ce", "supcon"])
def test_with_bfloat16_all_weights_get_gradients_and_stay_float32(
    method: str, tmp_path: Path
) -> None:
    model = toys.module(method)
    before = toys.weights(model)
    toys.fit(model, tmp_path, epochs=2, precision="bf16-mixed")
    after = toys.weights(model)
    trained = {name for name, _ in model.named_parameters()}
    assert trained <= toys.changed(before, after)
    assert all(value.isfinite().all() for value in after.values())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_with_bfloat16_explanations_are_made_in_bfloat16_without_an_enclosing_autocast(
    tmp_path: Path,
) -> None:
    found = []

    def probe(model: Any) -> Any:
        def explain(images: Tensor, targets: Tensor) -> Tensor:
            found.append((torch.is_autocast_enabled("cpu"), model(images).dtype))
            return images[:, :1]

        return explain

    for precision in ("32-true", "bf16-mixed"):
        toys.fit(
            toys.module("excon", explainer=probe, layer=None), tmp_path, 1, precision=precision
        )
    assert found == [(False, torch.float32)] * 2 + [(True, torch.bfloat16)] * 2


@pytest.mark.parametrize(
    ("method", "way"), [("exconb", "option"), ("edda", "wrapper"), ("edda", "in place")]
)
def test_a_compiled_encoder_trains_and_is_explained_like_a_plain_one(
    method: str, way: str, tmp_path: Path
) -> None:
    torch.compiler.reset()
    plain = toys.module(method, toys.TinyEncoder(dropout=0.0))
    encoder: Any = toys.TinyEncoder(dropout=0.0)
    if way == "wrapper":
        encoder = torch.compile(encoder, backend="eager")
    elif way == "in place":
        encoder.compile(backend="eager")
    compiled = toys.module(method, encoder, compile="eager" if way == "option" else False)
    compiled.load_state_dict(plain.state_dict())  # the names are the plain ones, too
    for model in (plain, compiled):
        toys.fit(model, tmp_path, epochs=2)
    for name, value in toys.weights(plain).items():
        torch.testing.assert_close(toys.weights(compiled)[name], value, rtol=1e-4, atol=1e-5)


def test_the_first_step_after_validation_trains_in_the_right_mode(tmp_path: Path) -> None:
    model = toys.module("excon")
    modes = []
    model.network.encoder.register_forward_hook(
        lambda encoder, args, output: modes.append((model.trainer.training, encoder.training))
    )
    toys.trainer(tmp_path, 2).fit(model, toys.loader(), toys.loader(8))
    in_training = [mode for training, mode in modes if training]
    # Two encoder steps of map, acceptance and loss; then two steps of the classifier.
    assert in_training == [False, False, True] * 2 + [False] * 2


def test_nothing_of_the_explainer_is_in_a_checkpoint(tmp_path: Path) -> None:
    model = toys.module("edda")
    names = set(toys.weights(model))
    toys.fit(model, tmp_path, epochs=1)
    assert set(toys.weights(model)) == names
    assert all(name.startswith("network.") for name in names), names
    assert isinstance(model.network.head, nn.Linear)
    assert model.network.head.out_features == toys.CLASSES
