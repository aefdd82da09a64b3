"""Views and batches: what is in them, and that they depend on nothing but seed and epoch."""

import pickle
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DistributedSampler

from captum_excon.models.preprocessing import standard_view
from captum_excon.training import EpochSampler, ExplanationDataModule
from captum_excon.training.data.datasets import CorruptImageError, DataError
from captum_excon.training.data.views import ViewBatch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of ten noisy images and one of a single image; four test images."""
    path = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for split, name, count in (
        ("train", "a", 10),
        ("train", "b", 10),
        ("train", "c", 1),
        ("test", "a", 3),
        ("test", "b", 2),
    ):
        (path / split / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path / split / name / f"{number}.png")
    return path


def module(folder: Path, **options: Any) -> ExplanationDataModule:
    return ExplanationDataModule(folder, 8, **{"batch_size": 4} | options)


def epochs(data: ExplanationDataModule, *numbers: int) -> list[list[ViewBatch]]:
    loader = data.train_dataloader()
    result = []
    for number in numbers:
        loader.sampler.set_epoch(number)
        result.append(list(loader))
    return result


def assert_equal(first: list[ViewBatch], second: list[ViewBatch]) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def by_index(batches: list[ViewBatch], name: str) -> dict[int, Tensor]:
    return {int(i): x for b in batches for i, x in zip(b.indices, b.view(name), strict=True)}


def test_training_batches_hold_the_views_label_and_index(folder: Path) -> None:
    data = module(folder)
    (batches,) = epochs(data, 0)
    assert [len(batch.labels) for batch in batches] == [4, 4, 4, 4, 3]
    assert epochs(module(folder, views="one"), 0)[0][0].view2 is None
    for batch in batches:
        for name in ("standard", "view1", "view2"):
            assert batch.view(name).shape[1:] == (3, 8, 8)
            assert batch.view(name).dtype == torch.float32
            assert batch.view(name).is_contiguous()
            assert 0 <= batch.view(name).min() <= batch.view(name).max() <= 1
        assert batch.labels.dtype == batch.indices.dtype == torch.int64
        images = data.images("train")
        for standard, label, index in zip(batch.standard, batch.labels, batch.indices, strict=True):
            image, expected = images[int(index)]
            assert int(label) == expected
            pixels = np.asarray(image).transpose(2, 0, 1)
            assert np.array_equal((standard * 255).round().numpy(), pixels)
    assert sorted(int(i) for batch in batches for i in batch.indices) == list(range(19))


def test_held_out_batches_are_whole_and_in_order(folder: Path) -> None:
    data = module(folder)
    for split, loader, count in (
        ("val", data.val_dataloader(), 2),
        ("test", data.test_dataloader(), 5),
    ):
        batches = list(loader)
        assert all(batch.view1 is None and batch.view2 is None for batch in batches)
        assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(count))
        labels = torch.cat([batch.labels for batch in batches]).tolist()
        assert labels == data.images(split).labels.tolist()


def test_batches_are_the_same_for_any_number_of_workers_over_epochs(folder: Path) -> None:
    alone = epochs(module(folder), 0, 1)
    for first, second in zip(alone, epochs(module(folder, num_workers=2), 0, 1), strict=True):
        assert_equal(first, second)


def test_a_resumed_epoch_equals_that_of_an_uninterrupted_run(folder: Path) -> None:
    uninterrupted = epochs(module(folder), 0, 1, 2)
    torch.rand(7)
    assert_equal(uninterrupted[2], epochs(module(folder), 2)[0])


def test_a_view_does_not_depend_on_the_batch_nor_on_the_other_view(folder: Path) -> None:
    views = by_index(epochs(module(folder), 3)[0], "view1")
    for options in ({"batch_size": 7}, {"views": "one"}, {"cache_images": False}):
        others = by_index(epochs(module(folder, **options), 3)[0], "view1")
        assert views.keys() == others.keys()
        assert all(torch.equal(view, others[index]) for index, view in views.items())


def test_views_differ_by_epoch_view_image_and_seed(folder: Path) -> None:
    first, second = epochs(module(folder), 0, 1)
    other = epochs(module(folder, seed=1), 0)[0]
    view1 = by_index(first, "view1")
    for others in (by_index(first, "view2"), by_index(second, "view1"), by_index(other, "view1")):
        assert sum(torch.equal(view, others[index]) for index, view in view1.items()) < 3
    ids = [torch.cat([b.indices for b in batches]) for batches in (first, second, other)]
    assert not torch.equal(ids[0], ids[1])
    assert not torch.equal(ids[0], ids[2])


def test_loading_leaves_the_global_random_state_alone(folder: Path) -> None:
    state = torch.get_rng_state()
    epochs(module(folder), 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_without_augmentation_the_views_are_the_standard_one(folder: Path) -> None:
    for batch in epochs(module(folder, augment=False), 0)[0]:
        assert torch.equal(batch.view1, batch.standard)
        assert torch.equal(batch.view2, batch.standard)


def mirrored(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def test_an_augmentation_of_ones_own_makes_the_random_views(folder: Path) -> None:
    for batch in epochs(module(folder, augment=mirrored), 0)[0]:
        assert torch.equal(batch.view1, batch.standard.flip(3))


def test_an_augmentation_of_another_size_is_refused(folder: Path) -> None:
    data = module(folder, augment=lambda image: image.resize((4, 4)))
    with pytest.raises(ValueError, match=r"RGB images of 8x8 pixels .* but gave Image of \(4, 4"):
        epochs(data, 0)


def test_the_standard_view_is_the_central_square() -> None:
    pixels = np.zeros((4, 8, 3), dtype=np.uint8)
    pixels[:, 2:6] = 200
    assert np.array_equal(
        np.asarray(standard_view(Image.fromarray(pixels), 2)),
        np.full((2, 2, 3), 200, dtype=np.uint8),
    )
    square = Image.fromarray(pixels[:, :4])
    assert standard_view(square, 4) is square


def test_mean_and_deviation_are_those_of_the_training_pixels(tmp_path: Path) -> None:
    for name, value in (("a", 51), ("b", 153)):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4), (value, 0, 255)).save(tmp_path / "train" / name / "0.png")
    data = module(tmp_path, val_fraction=0)
    assert data.mean == pytest.approx((0.4, 0.0, 1.0))
    assert data.std == pytest.approx((0.2, 0.0, 0.0), abs=1e-5)
    assert module(tmp_path, mean=(0.5,) * 3, std=(0.25,) * 3).std == (0.25,) * 3


def test_classes_and_limits_reach_the_splits(folder: Path) -> None:
    data = module(folder, classes=["b", "a"], per_class=5, val_fraction=0.2)
    assert data.class_names == ("b", "a")
    assert data.num_classes == 2
    assert np.bincount(data.images("train").labels).tolist() == [4, 4]
    assert np.bincount(data.images("val").labels).tolist() == [1, 1]
    assert np.bincount(data.images("test").labels).tolist() == [2, 3]


def test_held_out_images_alone_can_be_evaluated_on(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "val").symlink_to(folder / "test")
    data = module(tmp_path)
    data.setup("test")
    assert data.num_classes == 2
    assert sum(len(batch.labels) for batch in data.test_dataloader()) == 5
    with pytest.raises(DataError, match="none for 'train'"):
        data.setup("fit")


def test_a_corrupt_image_is_named_in_one_line_from_a_worker_too(tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "0.png").write_text("no image")
    for workers in (0, 1):
        data = module(tmp_path, val_fraction=0, cache_images=False, num_workers=workers)
        with pytest.raises(CorruptImageError) as caught:
            epochs(data, 0)
        assert str(caught.value).startswith(f"{tmp_path}/train/a/0.png: cannot be read")
        assert "\n" not in str(caught.value)


def test_corrupt_images_can_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / "train" / "a" / f"{number}.png")
    (tmp_path / "train" / "a" / "1.png").write_text("no image")
    data = module(tmp_path, val_fraction=0, on_corrupt="skip")
    assert sum(len(batch.labels) for batch in epochs(data, 0)[0]) == 2
    assert [Path(name).name for name in data.images("train").skipped] == ["1.png"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"views": "two"}, "views must be 'one' or 'excon'"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"num_workers": -1}, "num_workers must be at least 0"),
        ({"cache_images": "yes"}, "cache_images must be True, False or 'auto'"),
        ({"on_corrupt": "drop"}, "on_corrupt must be 'raise' or 'skip'"),
        ({"batch_size": 99, "drop_last": True}, "19 images do not fill one batch of 99"),
        ({"mean": (0.5, 0.5, 0.5)}, "mean and std"),
    ],
)
def test_options_out_of_range_are_refused(
    folder: Path, options: dict[str, Any], error: str
) -> None:
    with pytest.raises(ValueError, match=error):
        module(folder, **options).train_dataloader()


@pytest.mark.slow
@given(
    length=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    world_size=st.integers(1, 4),
    epoch=st.integers(0, 3),
)
def test_ranks_cover_an_epoch_with_the_padding_that_is_documented(
    length: int, batch_size: int, world_size: int, epoch: int
) -> None:
    shares = []
    for rank in range(world_size):
        sampler = EpochSampler(
            length,
            batch_size=batch_size,
            shuffle=False,
            rank=rank,
            world_size=world_size,
        )
        sampler.set_epoch(epoch)
        pairs = list(sampler)
        assert len(sampler) == len(pairs)
        assert {e for e, _ in pairs} == {epoch}
        shares.append([index for _, index in pairs])
    assert len({len(share) for share in shares}) == 1
    counts = Counter(index for share in shares for index in share)
    assert set(counts) == set(range(length))
    assert sum(counts.values()) - length < world_size


@given(
    length=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    world_size=st.integers(1, 4),
    drop_last=st.booleans(),
)
def test_training_shares_do_not_overlap_and_end_on_no_single_image(
    length: int, batch_size: int, world_size: int, drop_last: bool
) -> None:
    if drop_last and length < batch_size * world_size:
        with pytest.raises(ValueError, match="do not fill one batch"):
            EpochSampler(length, batch_size=batch_size, drop_last=True, world_size=world_size)
        return
    shares = [
        [
            index
            for _, index in EpochSampler(
                length,
                batch_size=batch_size,
                drop_last=drop_last,
                rank=rank,
                world_size=world_size,
            )
        ]
        for rank in range(world_size)
    ]
    share = len(shares[0])
    assert {len(s) for s in shares} == {share}
    counts = Counter(index for s in shares for index in s)
    if drop_last:
        assert share == length // world_size // batch_size * batch_size
        assert max(counts.values()) == 1
    else:
        whole = -(-length // world_size)
        lonely = batch_size > 1 and whole % batch_size == 1 and whole > 1
        assert share == whole - lonely
        assert share * world_size - len(counts) < world_size


def test_the_order_of_an_epoch_is_a_new_permutation_for_all_ranks() -> None:
    permutations = []
    for epoch in (0, 1):
        shares = []
        for rank in (0, 1):
            sampler = EpochSampler(10, batch_size=5, rank=rank, world_size=2)
            sampler.set_epoch(epoch)
            shares.append([index for _, index in sampler])
        assert sorted(shares[0] + shares[1]) == list(range(10))
        permutations.append(shares)
    assert permutations[0] != permutations[1]


def test_a_sampler_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no images to sample"):
        EpochSampler(0, batch_size=2)


def process(rank: int, world_size: int) -> Any:
    """What a data module asks of its trainer."""
    progress = SimpleNamespace(current=SimpleNamespace(processed=0))
    loop = SimpleNamespace(epoch_progress=progress)
    return SimpleNamespace(global_rank=rank, world_size=world_size, fit_loop=loop)


def test_each_process_loads_its_share(folder: Path) -> None:
    indices = []
    for rank in (0, 1):
        data = module(folder)
        data.trainer = process(rank, 2)
        loader = data.train_dataloader()
        # Lightning replaces any other sampler by its own.
        assert isinstance(loader.sampler, DistributedSampler)
        indices.append([int(i) for batch in loader for i in batch.indices])
    # 19 images: ten for each, of which one comes twice.
    assert [len(share) for share in indices] == [10, 10]
    assert len(set(indices[0] + indices[1])) == 19


def test_spawned_workers_can_be_given_the_data(folder: Path) -> None:
    dataset = module(folder).train_dataloader().dataset
    copy = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(copy[2, 5].view2, dataset[2, 5].view2)


def test_an_index_without_an_epoch_gives_the_views_of_the_first(folder: Path) -> None:
    dataset = module(folder).train_dataloader().dataset
    assert np.array_equal(dataset[5].view1, dataset[0, 5].view1)


class Recorder(L.LightningModule):
    """A net whose batch norm cannot take one image; it records what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.BatchNorm1d(4))
        self.seen: list[list[int]] = []
        self.validated = 0

    def training_step(self, batch: ViewBatch, batch_idx: int) -> Tensor:
        if batch_idx == 0:
            self.seen.append([])
        self.seen[-1] += batch.indices.tolist()
        return nn.functional.cross_entropy(self.net(batch.view1), batch.labels)

    def validation_step(self, batch: ViewBatch, batch_idx: int) -> None:
        self.validated += len(batch.labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Saving(L.Callback):
    """Writes a checkpoint after epoch 0, before Lightning counts the epoch as complete."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)


def trainer(folder: Path, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        **options,
    )


def orders(data: ExplanationDataModule, *numbers: int) -> list[list[int]]:
    return [
        [int(i) for batch in batches for i in batch.indices] for batches in epochs(data, *numbers)
    ]


# Lightning's advice to use more workers, its question whether no validation is meant, and its own
# use of a deprecated torch function.
quiet = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.* is deprecated"),
]


class TestWithLightning:
    pytestmark = quiet

    @pytest.mark.filterwarnings("ignore:You requested to overfit but enabled")
    def test_it_overfits_one_batch(self, folder: Path, tmp_path: Path) -> None:
        data, recorder = module(folder, views="one"), Recorder()
        trainer(tmp_path, overfit_batches=1).fit(recorder, data)
        assert recorder.seen == [[0, 1, 2, 3]] * 2

    @pytest.mark.parametrize("val_fraction", [0.1, 0.0])
    def test_each_epoch_has_a_new_order_and_no_batch_of_one_image(
        self, folder: Path, tmp_path: Path, val_fraction: float
    ) -> None:
        # 19 or 21 images: a last batch of one image is left out.
        size = 9 if val_fraction else 10
        options = {"batch_size": size, "val_fraction": val_fraction, "views": "one"}
        recorder = Recorder()
        trainer(tmp_path).fit(recorder, module(folder, **options))
        assert [len(seen) for seen in recorder.seen] == [2 * size, 2 * size]
        assert recorder.seen == orders(module(folder, **options), 0, 1)
        assert recorder.validated == (4 if val_fraction else 0)

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_a_resumed_run_goes_on_with_the_next_epoch(
        self, folder: Path, tmp_path: Path, num_workers: int
    ) -> None:
        trainer(tmp_path, Saving(tmp_path / "0.ckpt")).fit(Recorder(), module(folder))
        recorder = Recorder()
        data = module(folder, num_workers=num_workers)
        trainer(tmp_path).fit(recorder, data, ckpt_path=tmp_path / "0.ckpt")
        assert recorder.seen == orders(module(folder), 1)


def test_names_of_the_package_are_found_and_a_missing_extra_names_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    import captum_excon.training

    for name in dir(captum_excon.training):
        assert getattr(captum_excon.training, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Excon'"):
        captum_excon.training.Excon  # noqa: B018
    monkeypatch.delitem(sys.modules, "captum_excon.training.data.module")
    monkeypatch.setitem(sys.modules, "lightning", None)
    with pytest.raises(ImportError, match=r'"captum-excon\[train\]"'):
        captum_excon.training.ExplanationDataModule  # noqa: B018
