"""What goes wrong on the way: one line that says what to do, and earlier checkpoints intact."""

import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_runs import image_folder, in_child, killing, settings, weights

from captum_excon.errors import UserError
from captum_excon.training.modules.explainers import DeepestLayerGradCam, LayerGradCam
from captum_excon.training.run import runner
from captum_excon.training.run.checkpoints import run_state
from captum_excon.training.run.config import TrainConfig


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return image_folder(tmp_path / "images")


def epochs_in(checkpoint: Path) -> int:
    return len(run_state(checkpoint)["history"])


def train_with_little_room(config: TrainConfig, out: Path, room: int, message: Path) -> None:
    """Trains where a file cannot grow beyond `room` bytes: the write fails as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    try:
        runner.train(config, out, resume=True)
    except UserError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        message.write_text(str(error))


def killed_in_the_second_epoch(config: TrainConfig, out: Path) -> None:
    torch.optim.SGD.step = killing(torch.optim.SGD.step, 9)  # type: ignore[method-assign]
    runner.train(config, out)


@pytest.mark.slow
def test_a_full_disk_at_a_checkpoint_leaves_the_earlier_ones_and_says_what_to_do(
    data: Path, tmp_path: Path
) -> None:
    config, out, message = settings(data, "ce"), tmp_path / "run", tmp_path / "message"
    in_child(killed_in_the_second_epoch, config, out)
    before = {name: (out / name).read_bytes() for name in ("best.ckpt", "last.ckpt")}
    room = len(before["last.ckpt"]) // 2
    assert in_child(train_with_little_room, config, out, room, message) == 0
    path, advice = message.read_text().split(": ", 1)
    assert Path(path) in (out / "best.ckpt", out / "last.ckpt")
    assert advice == (
        "the checkpoint cannot be written (File too large); the earlier ones are intact: free "
        "some space, then run the same command with --resume"
    )
    assert {name: (out / name).read_bytes() for name in before} == before
    assert not list(out.glob(".*"))
    summary = runner.train(config, out, resume=True)
    assert (summary["last"]["epoch"], epochs_in(out / "last.ckpt")) == (3, 3)


@pytest.mark.slow
def test_a_full_disk_while_figures_are_written_is_one_line_too(data: Path, tmp_path: Path) -> None:
    out, message = tmp_path / "run", tmp_path / "message"
    assert in_child(train_with_little_room, settings(data, "ce"), out, 10, message) == 0
    assert "\n" not in message.read_text()
    assert "File too large" in message.read_text()


def test_a_loss_that_is_not_finite_stops_before_it_reaches_a_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, steps = torch.optim.SGD.step, 0

    def explode(self: torch.optim.SGD, *arguments: Any, **options: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 9:
            self.param_groups[0]["params"][0].data.fill_(float("nan"))
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.SGD, "step", explode)
    with pytest.raises(UserError, match=r"loss is NaN or infinite.*lower lr") as raised:
        runner.train(settings(data, "ce"), tmp_path / "run")
    assert "\n" not in str(raised.value)
    for name in ("best.ckpt", "last.ckpt"):
        assert epochs_in(tmp_path / "run" / name) == 1
        assert all(value.isfinite().all() for value in weights(tmp_path / "run" / name).values())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["excon", "edda"])
def test_an_explainer_that_raises_is_named(
    method: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ArithmeticError("the map\nhas drowned")

    out = tmp_path / "run"
    for cls in (LayerGradCam, DeepestLayerGradCam):
        monkeypatch.setattr(cls, "attribute", broken)
    with pytest.raises(UserError) as raised:
        runner.train(settings(data, method), out)
    assert "layer-grad-cam" in str(raised.value)
    assert "the map has drowned" in str(raised.value)
    assert "\n" not in str(raised.value)
    # Explanations start in the second round; the first one is kept, and training goes on from it.
    done = epochs_in(out / "last.ckpt")
    assert done == (2 if method == "excon" else 1)
    monkeypatch.undo()
    assert runner.train(settings(data, method), out, resume=True)["last"]["epoch"] == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_named(workers: int, data: Path, tmp_path: Path) -> None:
    bad = data / "train" / "red" / "3.png"
    bad.write_bytes(b"not an image")
    config = settings(data, "ce", num_workers=workers, cache_images=False, epochs=1)
    with pytest.raises(UserError) as raised:
        runner.train(config, tmp_path / "run")
    assert str(bad) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_corrupt_image_can_be_left_out(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (data / "train" / "red" / "3.png").write_bytes(b"not an image")
    config = settings(data, "ce", on_corrupt="skip", epochs=1)
    assert runner.train(config, tmp_path / "run")["last"]["epoch"] == 1
    assert "1 of" in caplog.text
    assert "3.png" in caplog.text


@pytest.mark.parametrize("method", ["supcon", "exconb", "edda"])
def test_a_class_with_one_image_trains(method: str, data: Path, tmp_path: Path) -> None:
    for path in (data / "train" / "red").glob("[1-9].png"):
        path.unlink()
    summary = runner.train(settings(data, method, epochs=2), tmp_path / "run")
    assert summary["last"]["epoch"] == 2


def terminated(config: TrainConfig, out: Path) -> None:
    torch.optim.SGD.step = killing(  # type: ignore[method-assign]
        torch.optim.SGD.step, 9, signal.SIGTERM
    )
    runner.train(config, out)


@pytest.mark.slow
def test_a_terminated_run_does_not_pass_for_a_finished_one(data: Path, tmp_path: Path) -> None:
    config, out = settings(data, "ce"), tmp_path / "run"
    assert in_child(terminated, config, out) == 128 + signal.SIGTERM
    assert not (out / "summary.json").exists()
    assert epochs_in(out / "last.ckpt") == 1
