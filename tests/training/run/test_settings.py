"""Every setting, by option, file and --set, and the place that it reaches."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from helpers.small_runs import image_folder, replace, settings
from helpers.training_toys import module
from torch import nn
from typer.testing import CliRunner

from captum_excon._settings import parse_assignments
from captum_excon._settings_help import flags, is_flag, markdown_tables
from captum_excon.cli._settings_options import with_options
from captum_excon.training.data.views import ViewBatch
from captum_excon.training.methods import METHODS
from captum_excon.training.modules import base
from captum_excon.training.modules.edda import CopiesBatch
from captum_excon.training.modules.explanations import Explanations
from captum_excon.training.run import runner
from captum_excon.training.run.config import TrainConfig


class Built:
    """What a run makes of its settings, made when it is asked for."""

    def __init__(self, config: TrainConfig, patch: pytest.MonkeyPatch) -> None:
        self.config = config
        self.trainer_arguments: dict[str, Any] = {}
        self.encoder_arguments: dict[str, Any] = {}
        trainer, encoder = runner.L.Trainer, base.build_encoder

        def recorded_trainer(**arguments: Any) -> Any:
            self.trainer_arguments = arguments
            local = {"accelerator": "cpu", "devices": 1, "strategy": "auto"}
            return trainer(**{**arguments, **local, "precision": "32-true", "deterministic": False})

        def recorded_encoder(name: Any, **arguments: Any) -> nn.Module:
            self.encoder_arguments = {"name": name, **arguments}
            return encoder(name, **{**arguments, "pretrained": False})

        patch.setattr(runner.L, "Trainer", recorded_trainer)
        patch.setattr(base, "build_encoder", recorded_encoder)
        patch.setattr(Explanations, "_open_cache", lambda _, folder, *__: folder)
        self.data, self.module = runner._build(config)
        self.module.trainer = self.trainer = runner._trainer(
            config, Path(), rounds=self.module.epochs_per_round, progress=False, last=None
        )
        self.module.scheduled_steps = lambda: (20, 10)

    @property
    def settings(self) -> Any:
        return self.module.settings

    @property
    def encoder(self) -> Any:
        return self.module.network.encoder

    @property
    def loader(self) -> Any:
        return self.data.train_dataloader()

    @property
    def optimizers(self) -> list[Any]:
        made: Any = self.module.configure_optimizers()
        return [made["optimizer"]] if isinstance(made, dict) else made[0]

    @property
    def rates(self) -> list[float]:
        return [group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups]

    @property
    def group(self) -> Any:
        return self.optimizers[0].param_groups[0]

    @property
    def augment(self) -> Any:
        self.module._prepare_explanations()
        return self.module.explanations.augmentation

    def clipped(self) -> float:
        optimizer, *_ = self.optimizers
        parameters = optimizer.param_groups[0]["params"]
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        self.module.on_before_optimizer_step(optimizer)
        return float(
            torch.stack([p.grad.norm() for p in optimizer.param_groups[0]["params"]]).norm()
        )

    def batch(self) -> Any:
        """A training batch after the module has explained it."""
        images = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
        labels, numbers = torch.tensor([0, 1, 2, 0]), torch.arange(4)
        self.trainer.training = True
        self.module.on_train_epoch_start()
        given = ViewBatch(images, labels, numbers, images.flip(3), images.flip(2))
        return self.module.on_after_batch_transfer(given, 0)

    def loss(self) -> float:
        """EDDA's loss on fixed images."""
        self.module.watch = lambda *_: None
        images = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(0))
        labels = torch.tensor([0, 1])
        counts = torch.tensor([True, True])
        batch = CopiesBatch(images, labels, labels, counts, {})
        return float(self.module.eval().training_step(batch, 0).detach())


def shape(built: Built) -> tuple[int, ...]:
    return tuple(built.data.val_dataloader().dataset[0, 0].standard.shape)


def held_out(built: Built) -> list[str]:
    images = built.data.images("val")
    return [images.name(index) for index in range(len(images))]


def compiled(built: Built) -> Any:
    built.module.setup("fit")
    return built.module._encode[0]


EDDA = {"method": "edda", "start_epoch": 0}
ANYWHERE = {**EDDA, "explainer": "input-x-gradient", "layer": None}  # no map is constant

# A value that is not the default, what shows that it has arrived, and what else it needs. What
# shows it gives True, or differs from what the default gives.
CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "method": ("exconb", lambda b: b.augment.background is True, {}),
    "epochs": (7, lambda b: b.trainer.max_epochs == 14, {}),
    "data": (None, lambda b: Path(b.data.source).name == "images", {}),
    "root": ("elsewhere", lambda b: b.data.root == "elsewhere", {}),
    "download": (True, lambda b: b.data.download is True, {}),
    "classes": (["blue", "red"], lambda b: b.data.class_names == ("blue", "red"), {}),
    "per_class": (5, lambda b: len(b.data.images("train")) == 12, {}),
    "image_size": (16, lambda b: shape(b) == (16, 16, 3), {}),
    "val_fraction": (0.4, lambda b: len(b.data.images("val")) == 12, {}),
    "split_seed": (3, held_out, {}),
    "augment": (False, lambda b: b.loader.dataset.augment is None, {}),
    "drop_last": (True, lambda b: len(b.loader) == 4, {"batch_size": 5}),
    "on_corrupt": ("skip", lambda b: b.data.on_corrupt == "skip", {}),
    "cache_images": (False, lambda b: type(b.data.images("train").reader), {}),
    "batch_size": (3, lambda b: b.loader.batch_size == 3, {}),
    "num_workers": (1, lambda b: b.loader.num_workers == 1, {}),
    "encoder": ("timm:resnet14t", lambda b: b.encoder_arguments["name"] == "timm:resnet14t", {}),
    "encoder_args": (
        {"stem_type": "deep", "stem_width": 4, "channels": [4, 4, 8, 16]},
        lambda b: b.encoder.feature_dim == 16,
        {},
    ),
    "cifar_stem": (False, lambda b: not isinstance(b.encoder.maxpool, nn.Identity), {}),
    "pretrained": (True, lambda b: b.encoder_arguments["pretrained"] is True, {}),
    "optimizer": ("adamw", lambda b: isinstance(b.optimizers[0], torch.optim.AdamW), {}),
    "lr": (0.3, lambda b: [r / b.rates[0] for r in b.rates] == [1, 1] and b.rates[0] == 0.3, {}),
    "momentum": (0.5, lambda b: b.group["momentum"] == 0.5, {}),
    "weight_decay": (0.25, lambda b: b.group["weight_decay"] == 0.25, {}),
    "warmup_epochs": (2, lambda b: b.rates, {"lr": 0.1}),
    "gradient_clip": (1e-3, lambda b: b.clipped() == pytest.approx(1e-3), {}),
    "seed": (5, lambda b: (b.loader.dataset.seed, b.encoder.conv1[0].weight.sum().item()), {}),
    "explainer": ("saliency", lambda b: type(b.module.make_explainer()), {"layer": None}),
    "layer": ("layer1", lambda b: b.module.make_explainer().layer is b.encoder.layer1, {}),
    "threshold": (0.25, lambda b: b.augment.threshold == 0.25, {}),
    "keep_ratio": (0.25, lambda b: b.augment.keep_ratio == 0.25, {}),
    "fill": ("blur", lambda b: b.augment.fill == "blur", {}),
    "explain_mode": ("train", lambda b: b.augment.explain_mode == "train", {}),
    "start_epoch": (0, lambda b: b.module.explains, {}),
    "refresh": (2, lambda b: b.module.teacher is not None, {}),
    "cache": ("maps", lambda b: getattr(b.augment.explainer, "cache", ""), {"refresh": 2}),
    "compile": ("eager", lambda b: type(compiled(b)), {}),
    "accelerator": ("mps", lambda b: b.trainer_arguments["accelerator"] == "mps", {}),
    "devices": (2, lambda b: b.trainer_arguments["devices"] == 2, {}),
    "precision": ("16-mixed", lambda b: b.trainer_arguments["precision"] == "16-mixed", {}),
    "deterministic": (True, lambda b: b.trainer_arguments["deterministic"] is True, {}),
    "temperature": (0.7, lambda b: b.module.loss.temperature == 0.7, {}),
    "base_temperature": (0.7, lambda b: b.module.loss.base_temperature == 0.7, {}),
    "background": ("class", lambda b: b.module.loss.background == "class", {"method": "exconb"}),
    "projection_hidden": (9, lambda b: b.module.projection.hidden.out_features == 9, {}),
    "projection_dim": (9, lambda b: b.module.projection.output.out_features == 9, {}),
    "classifier_schedule": ("step", lambda b: len(b.optimizers) == 1, {}),
    "classifier_lr": (0.7, lambda b: b.rates[1] / b.rates[0] == pytest.approx(7), {"lr": 0.1}),
    "gather_distributed": (False, lambda b: b.module.loss.gather_distributed is False, {}),
    "target": ("label", lambda b: b.batch().explained.tolist() == [0, 1, 2, 0], EDDA),
    "drop_target": ("background", lambda b: b.module.outputs == 4, EDDA),
    "keep_weight": (3.0, Built.loss, EDDA),
    "drop_weight": (3.0, Built.loss, EDDA),
    "margin": (3.0, Built.loss, {**EDDA, "drop_target": "hinge"}),
    "only_correct": (True, lambda b: b.batch().counts.tolist(), ANYWHERE),
    "placement": (
        "shuffle",
        lambda b: b.augment.placement == "shuffle",
        {"method": "random-occlusion"},
    ),
    "view": ("standard", lambda b: b.batch().images[0].tolist(), EDDA),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("data") / "images")


def test_every_setting_has_a_case() -> None:
    assert CASES.keys() == TrainConfig.model_fields.keys()


@pytest.mark.parametrize("name", CASES)
def test_a_setting_reaches_the_place_it_names(
    name: str, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    value, shown, others = CASES[name]
    before = settings(data, **others)
    changed = before if name == "data" else replace(before, **{name: value})
    assert name == "data" or changed != before
    with monkeypatch.context() as patch:
        found = shown(Built(changed, patch))
    with monkeypatch.context() as patch:
        default = shown(Built(before, patch))
    assert found is True or (not isinstance(found, bool) and found != default)
    assert name == "data" or default is not True


@pytest.mark.parametrize("name", CASES)
def test_option_key_and_assignment_mean_the_same(name: str, tmp_path: Path) -> None:
    value = "images" if name == "data" else CASES[name][0]
    given: dict[str, Any] = {}

    @with_options(TrainConfig)
    def command(given: dict[str, Any]) -> None:
        collected.update(given)

    collected = given
    field = TrainConfig.model_fields[name]
    flag = flags(name, field)[0]
    if is_flag(field) and isinstance(value, bool):
        arguments = [flag if value else f"--no-{flag.removeprefix('--')}"]
    elif is_flag(field):
        arguments = [flag]  # the name of a compiler's backend cannot be given there
    elif isinstance(value, list):
        arguments = [flag, ",".join(value)]
    else:
        arguments = [flag, yaml.safe_dump(value, default_flow_style=True).split("\n")[0]]
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    others = {} if name == "data" else {"data": "images"}
    by_option = TrainConfig.load(None, {**others, **given})
    text = yaml.safe_dump({name: value}, default_flow_style=True)
    (tmp_path / "file.yaml").write_text(text)
    by_key = TrainConfig.load(tmp_path / "file.yaml", others)
    assigned = parse_assignments([f"{name}={yaml.safe_dump(value, default_flow_style=True)}"])
    by_assignment = TrainConfig.load(None, {**others, **assigned})
    assert getattr(by_key, name) == value
    assert by_key == by_assignment
    assert by_option == (replace(by_key, compile=True) if name == "compile" else by_key)


def test_the_document_lists_all_settings() -> None:
    document = Path(__file__).parents[3] / "docs" / "training.md"
    assert markdown_tables(TrainConfig) in document.read_text(), (
        "put what this prints into docs/training.md: python -m captum_excon.training.run.config"
    )


CONTRASTIVE = {"threshold": 0.5, "keep_ratio": None, "fill": 0.0}
COPIES = {"threshold": None, "keep_ratio": 0.15, "fill": "mean"}


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("ce", COPIES),
        ("edda", COPIES),
        ("random-occlusion", COPIES),
        ("supcon", CONTRASTIVE),
        ("excon", CONTRASTIVE),
        ("exconb", CONTRASTIVE),
    ],
)
def test_a_method_has_its_own_defaults_which_a_given_region_replaces(
    method: str, expected: dict[str, Any]
) -> None:
    def built(**options: Any) -> dict[str, Any]:
        return module(method, **{"keep_ratio": None, **options}).settings.model_dump(
            include={*expected}
        )

    assert built() == expected
    assert built(threshold=0.25) == {**expected, "threshold": 0.25, "keep_ratio": None}
    assert built(keep_ratio=0.25) == {**expected, "threshold": None, "keep_ratio": 0.25}
    assert built(fill="blur") == {**expected, "fill": "blur"}


def test_a_method_is_added_in_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from captum_excon.training import methods

    (tmp_path / "suppression.py").write_text(
        "from captum_excon.training.methods._method import Method\n"
        "from captum_excon.training.methods.edda import EDDASettings\n"
        "METHODS = [Method('suppression', 'edda with suppression', EDDASettings,\n"
        "    'captum_excon.training.modules.edda:EDDAModule', {'keep_ratio': 0.4})]\n"
    )
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    found = methods._discovered()
    assert list(found) == [*METHODS, "suppression"]
    assert found["suppression"].module_class().__name__ == "EDDAModule"
    assert found["suppression"].with_defaults({})["keep_ratio"] == 0.4
