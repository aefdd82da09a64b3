"""Weights as training scripts leave them: under a key, behind a prefix, beside other things."""

import argparse
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from captum_excon.errors import UserError
from captum_excon.models import build_encoder, load_model

State = dict[str, Tensor]


def prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


@pytest.fixture
def state(workplace: Path) -> State:
    torch.manual_seed(5)
    return load_model("nets:small").module.state_dict()


def same(module: nn.Module, state: State) -> bool:
    return all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "model.module.", "net._orig_mod."])
@pytest.mark.parametrize("entry", [None, "state_dict", "model", "model_state_dict"])
def test_weights_are_found_under_a_key_and_behind_a_prefix(
    state: State, prefix: str, entry: str | None
) -> None:
    found = prefixed(prefix, state)
    torch.save(found if entry is None else {"epoch": 3, entry: found}, "net.pt")
    assert same(load_model("nets:small", weights="net.pt").module, state)


def test_what_lies_beside_the_network_is_left_out(state: State) -> None:
    found = {**prefixed("model.", state), "loss.weight": torch.ones(3)}
    arguments = argparse.Namespace(lr=0.1)
    torch.save({"state_dict": found, "args": arguments}, "lightning.ckpt")
    assert same(load_model("nets:small", weights="lightning.ckpt").module, state)


def test_the_network_is_preferred_to_its_running_average(state: State) -> None:
    average = {key: value + 1 for key, value in state.items()}
    torch.save({**prefixed("ema.", average), **prefixed("model.", state)}, "both.pt")
    assert same(load_model("nets:small", weights="both.pt").module, state)


def test_several_networks_of_one_shape_are_refused(state: State) -> None:
    torch.save({**prefixed("student.", state), **prefixed("teacher.", state)}, "two.pt")
    with pytest.raises(UserError, match=r"several prefixes \(student., teacher.\)"):
        load_model("nets:small", weights="two.pt")


def test_an_encoder_takes_the_weights_of_a_classifier_of_any_classes(state: State) -> None:
    other = {**state, "7.weight": torch.zeros(9, 6), "7.bias": torch.zeros(9)}
    torch.save({"state_dict": prefixed("module.", other)}, "classifier.pt")
    encoder = build_encoder("nets:small", weights="classifier.pt")
    assert encoder.feature_dim == 6
    assert same(encoder, state)
    torch.save({"7.bias": torch.zeros(9)}, "head.pt")
    with pytest.raises(UserError, match=r"4 missing \(0.weight"):
        build_encoder("nets:small", weights="head.pt")
