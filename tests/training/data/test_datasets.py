"""Layouts, splits, subsets and damaged images."""

import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from captum_excon.training import corruptions, open_corrupted, open_dataset
from captum_excon.training.data.datasets import CorruptImageError, DataError, LabelledImages


def write_images(folder: Path, counts: dict[str, int], size: int = 8) -> Path:
    """Images whose red is the class and whose green is the number, losslessly."""
    for red, (name, count) in enumerate(sorted(counts.items())):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            image = Image.new("RGB", (size, size), (red, number, 200))
            image.save(folder / name / f"{number:03}.png")
    return folder


def files(images: LabelledImages) -> set[str]:
    return {"/".join(Path(images.name(i)).parts[-2:]) for i in range(len(images))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "train", {"ant": 20, "bee": 10, "cat": 1})
    write_images(tmp_path / "test", {"ant": 3, "cat": 2})
    return tmp_path


def test_train_and_val_share_the_training_folder_and_test_is_the_other(folder: Path) -> None:
    train, val, test = (open_dataset(folder, split) for split in ("train", "val", "test"))
    assert train.class_names == val.class_names == test.class_names == ("ant", "bee", "cat")
    assert np.bincount(train.labels).tolist() == [18, 9, 1]
    assert np.bincount(val.labels).tolist() == [2, 1]
    # A class that has no test images keeps its number all the same.
    assert np.bincount(test.labels).tolist() == [3, 0, 2]
    assert not files(train) & files(val)


def test_images_carry_the_pixels_and_the_label_of_their_file(folder: Path) -> None:
    train = open_dataset(folder, "train")
    for index in range(len(train)):
        image, label = train[index]
        assert image.getpixel((0, 0)) == (label, int(Path(train.name(index)).stem), 200)


def test_a_lone_val_folder_is_the_test_split(tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"a": 10, "b": 10})
    write_images(tmp_path / "val", {"a": 4, "b": 4})
    assert len(open_dataset(tmp_path, "test")) == 8
    assert len(open_dataset(tmp_path, "val")) == 2


def test_with_all_three_folders_each_split_is_its_own(tmp_path: Path) -> None:
    for split, count in (("train", 5), ("val", 4), ("test", 3)):
        write_images(tmp_path / split, {"a": count, "b": count})
    assert [len(open_dataset(tmp_path, s)) for s in ("train", "val", "test")] == [10, 8, 6]


def test_a_folder_of_classes_alone_is_split_three_ways_without_overlap(tmp_path: Path) -> None:
    write_images(tmp_path, {"a": 50, "b": 20})
    splits = {s: open_dataset(tmp_path, s) for s in ("train", "val", "test")}
    counts = {s: np.bincount(images.labels).tolist() for s, images in splits.items()}
    assert counts == {"train": [36, 14], "val": [4, 2], "test": [10, 4]}
    assert len(set().union(*map(files, splits.values()))) == 70


def test_hidden_files_and_folders_are_no_images(tmp_path: Path) -> None:
    write_images(tmp_path, {"a": 3, "b": 3, ".cache": 2})
    (tmp_path / "a" / "._000.png").write_bytes(b"notes")
    assert open_dataset(tmp_path, "train", val_fraction=0).class_names == ("a", "b")
    assert len(open_dataset(tmp_path, "train")) + len(open_dataset(tmp_path, "val")) == 4


def test_the_split_depends_on_the_seed_and_not_on_the_other_classes(folder: Path) -> None:
    val = files(open_dataset(folder, "val"))
    assert val == files(open_dataset(folder, "val"))
    assert any(val != files(open_dataset(folder, "val", seed=s)) for s in range(1, 5))
    of_ant = {name for name in val if name.startswith("ant")}
    assert files(open_dataset(folder, "val", classes=["ant"])) == of_ant


def test_classes_are_chosen_by_number_or_renumbered_in_the_order_given(folder: Path) -> None:
    assert open_dataset(folder, "train", classes=["ant", "bee"]).class_names == ("ant", "bee")
    test = open_dataset(folder, "test", classes=["cat", "ant"])
    assert test.class_names == ("cat", "ant")
    assert np.bincount(test.labels).tolist() == [2, 3]
    assert [image.getpixel((0, 0))[0] for image, label in test if label == 0] == [1, 1]


def test_a_number_of_classes_is_spread_evenly_over_the_sorted_names(tmp_path: Path) -> None:
    write_images(tmp_path, dict.fromkeys("abcdefghij", 3))
    chosen = {n: "".join(open_dataset(tmp_path, "train", classes=n).class_names) for n in (1, 3, 5)}
    assert chosen == {1: "a", 3: "adg", 5: "acegi"}
    assert open_dataset(tmp_path, "train", classes=10).class_names == tuple("abcdefghij")


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_a_class_may_have_the_name_of_a_split(tmp_path: Path, name: str) -> None:
    write_images(tmp_path, {"bus": 10, name: 10})
    splits = [open_dataset(tmp_path, split) for split in ("train", "val", "test")]
    assert [len(images) for images in splits] == [14, 2, 4]
    assert splits[0].class_names == ("bus", name)


def test_splits_without_classes_are_not_taken_for_classes(tmp_path: Path) -> None:
    write_images(tmp_path, {"train": 10, "test": 10})
    with pytest.raises(DataError, match="train: no class folders"):
        open_dataset(tmp_path, "train")


def test_per_class_limits_training_and_validation_together(folder: Path) -> None:
    train = open_dataset(folder, "train", per_class=5, val_fraction=0.2)
    val = open_dataset(folder, "val", per_class=5, val_fraction=0.2)
    assert np.bincount(train.labels).tolist() == [4, 4, 1]
    assert np.bincount(val.labels).tolist() == [1, 1]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.floats(0.01, 0.99))
def test_every_class_keeps_a_training_image_and_holds_out_one_if_it_can(
    counts: list[int], fraction: float
) -> None:
    from captum_excon.training.data._layouts import Part
    from captum_excon.training.data._readers import ArrayReader
    from captum_excon.training.data._subsets import held_out

    labels = np.repeat(np.arange(len(counts)), counts)
    pixels = np.zeros((len(labels), 1, 1, 3), dtype=np.uint8)
    keys = tuple(map(str, range(len(labels))))
    part = Part(ArrayReader(pixels, ""), labels, tuple("abcd"[: len(counts)]), keys)
    sizes = np.bincount(labels[held_out(part, fraction, 0)], minlength=len(counts))
    for out, count in zip(sizes, counts, strict=True):
        assert (out == 0) if count == 1 else (1 <= out < count)
        assert count == 1 or out == np.clip(np.floor(fraction * count + 0.5), 1, count - 1)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Tiny ImageNet's layout, validation images only."""
    (tmp_path / "val" / "images").mkdir(parents=True)
    rows = [("val_0.JPEG", "n02"), ("val_1.JPEG", "n01"), ("val_2.JPEG", "n03")]
    for file, _ in rows:
        Image.new("RGB", (64, 64)).save(tmp_path / "val" / "images" / file)
    lines = [f"{file}\t{wnid}\t0\t32\t44\t62\n" for file, wnid in rows]
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(lines))
    return tmp_path


def test_tiny_imagenets_validation_images_are_its_test_split(tiny: Path) -> None:
    test = open_dataset(tiny, "test")
    assert test.class_names == ("n01", "n02", "n03")
    assert [int(test.labels[i]) for i in range(3)] == [1, 0, 2]
    assert Path(test.name(0)).name == "val_0.JPEG"


def test_tiny_imagenet_without_training_images_says_so(tiny: Path) -> None:
    with pytest.raises(DataError, match=r"'test' images alone, and none for 'train'.*DIR/train"):
        open_dataset(tiny, "train")


def test_tiny_imagenets_training_images_lie_in_a_folder_of_their_own(tiny: Path) -> None:
    for wnid in ("n01", "n02", "n03"):
        write_images(tiny / "train" / wnid, {"images": 4})
        (tiny / "train" / wnid / f"{wnid}_boxes.txt").write_text("0")
    train = open_dataset(tiny, "train")
    assert np.bincount(train.labels).tolist() == [3, 3, 3]
    assert all(f"{train.class_names[train.labels[i]]}/images" in train.name(i) for i in range(9))


def test_damaged_annotations_name_their_file(tiny: Path) -> None:
    (tiny / "val" / "val_annotations.txt").write_text("val_0.JPEG n01\n")
    with pytest.raises(DataError, match=r"val_annotations\.txt: expected a file, a class"):
        open_dataset(tiny, "test")
    (tiny / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn99\t0\n")
    write_images(tiny / "train", {"n01": 2})
    with pytest.raises(DataError, match=r"val_annotations\.txt: no training images of .*'n99'"):
        open_dataset(tiny, "test")


def test_torchvisions_cifar100_is_read_from_its_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "cifar-100-python"
    base.mkdir()
    pixels = np.arange(20 * 3072, dtype=np.uint32).astype(np.uint8).reshape(20, 3072)
    content = {"data": pixels, "fine_labels": [0, 1] * 10}
    for name in ("train", "test"):
        (base / name).write_bytes(pickle.dumps(content))
    (base / "meta").write_bytes(pickle.dumps({"fine_label_names": ["apple", "baby"]}))
    cifar: Any = torchvision.datasets.CIFAR100
    monkeypatch.setattr(cifar, "train_list", [["train", None]])
    monkeypatch.setattr(cifar, "test_list", [["test", None]])
    monkeypatch.setattr(cifar, "meta", cifar.meta | {"md5": None})
    train = open_dataset("cifar100", "train", root=tmp_path)
    assert train.class_names == ("apple", "baby")
    assert np.bincount(train.labels).tolist() == [9, 9]
    row = int(train.name(4).removeprefix("cifar100/train[").rstrip("]"))
    expected = pixels[row].reshape(3, 32, 32).transpose(1, 2, 0)
    assert np.array_equal(np.asarray(train[4][0]), expected)
    assert len(open_dataset("cifar100", "test", root=tmp_path)) == 20


def test_grayscale_and_channels_first_arrays_become_rgb() -> None:
    from captum_excon.training.data._layouts import _as_rgb

    gray = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    assert _as_rgb(gray)[1, 0, 1].tolist() == [5, 5, 5]
    first = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)
    assert _as_rgb(first)[0, 1, 0].tolist() == [2, 6, 10]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "cifar10", "root": "/nowhere"}, "cifar10: not found in /nowhere"),
        ({"source": "cifra100"}, "cifra100: no such folder.*did you mean 'cifar100'"),
        ({"classes": ["ant", "cta"]}, "no class 'cta'; did you mean 'cat'"),
        ({"classes": ["ant", "ant"]}, "names one of them twice"),
        ({"classes": 4}, "4 classes were asked for, but it has 3"),
        ({"val_fraction": 0.0, "split": "val"}, "no images for 'val'"),
    ],
)
def test_what_is_not_there_is_named(folder: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(**{"source": folder, "split": "train"} | arguments)


def test_broken_layouts_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no class folders in it; expected DIR/train"):
        open_dataset(tmp_path, "train")
    (tmp_path / "train" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no images in it; looked for .*webp"):
        open_dataset(tmp_path, "train")
    write_images(tmp_path / "train", {"b": 2})
    with pytest.raises(DataError, match="no training images of 'a'"):
        open_dataset(tmp_path, "train")
    write_images(tmp_path / "test", {"b": 2, "z": 1})
    with pytest.raises(DataError, match=r"1 of its classes are not among .* \(z\)"):
        open_dataset(tmp_path, "test")


@pytest.mark.parametrize(
    "options",
    [{"split": "valid"}, {"classes": 0}, {"classes": "ant"}, {"per_class": 0}, {"val_fraction": 1}],
)
def test_options_out_of_range_are_refused(folder: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        open_dataset(folder, **{"split": "train"} | options)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    write_images(tmp_path / "train", {"a": 4, "b": 4}, size=16)
    whole = (tmp_path / "train" / "a" / "001.png").read_bytes()
    (tmp_path / "train" / "a" / "001.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "train" / "b" / "003.png").write_text("no image")
    return tmp_path


def test_a_corrupt_image_raises_an_error_that_names_it_and_the_way_out(damaged: Path) -> None:
    images = open_dataset(damaged, "train", val_fraction=0)
    assert images.decoded(cache_images=False) is images
    with pytest.raises(CorruptImageError, match=r'a/001\.png: cannot be read .*on_corrupt="skip"'):
        images[1]
    with pytest.raises(CorruptImageError, match=r"a/001\.png"):
        images.decoded(cache_images=True)


@pytest.mark.parametrize("cache_images", [True, False])
def test_skipping_counts_and_names_corrupt_images(
    damaged: Path, cache_images: bool, caplog: pytest.LogCaptureFixture
) -> None:
    images = open_dataset(damaged, "train", val_fraction=0)
    with caplog.at_level(logging.WARNING):
        rest = images.decoded(cache_images, on_corrupt="skip")
    assert "2 of 8 images cannot be read and are left out" in caplog.text
    assert [Path(name).name for name in rest.skipped] == ["001.png", "003.png"]
    assert np.bincount(rest.labels).tolist() == [3, 3]
    assert [rest[i][0].getpixel((0, 0))[:2] for i in range(4)] == [(0, 0), (0, 2), (0, 3), (1, 0)]


def test_nothing_but_corrupt_images_is_an_error(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_text("no image")
    images = open_dataset(tmp_path, "train", val_fraction=0)
    with pytest.raises(DataError, match="none of the 2 images can be read"):
        images.decoded(on_corrupt="skip")


def test_images_in_memory_equal_those_on_disk_and_pickle(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    generator = np.random.default_rng(0)
    for number, size in enumerate([(5, 7), (4, 4), (9, 3)]):
        pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a" / f"{number}.png")
    images = open_dataset(tmp_path, "train", val_fraction=0)
    cached = pickle.loads(pickle.dumps(images.decoded(cache_images=True)))
    taken = cached.take([1, 0])
    for row, index in enumerate([1, 0]):
        assert np.array_equal(np.asarray(taken[row][0]), np.asarray(images[index][0]))
        assert taken.name(row) == images.name(index)


def test_auto_holds_small_sets_in_memory_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = open_dataset(folder, "test")
    assert images.decoded("auto").reader is not images.reader
    monkeypatch.setattr("captum_excon.training.data.datasets.CACHE_BELOW", 5 * 8 * 8 * 3)
    assert images.decoded("auto").reader is images.reader


def test_cifar_c_files_are_read_by_severity_and_class(tmp_path: Path) -> None:
    pixels = np.arange(20, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    np.save(tmp_path / "fog.npy", pixels)
    np.save(tmp_path / "labels.npy", np.array([0, 1, 2, 1] * 5, dtype=np.uint8))
    assert corruptions(tmp_path) == ("fog",)
    names = ("a", "b", "c")
    images = open_corrupted(tmp_path, "fog", 2, names)
    assert [image.getpixel((0, 0))[0] for image, _ in images] == [4, 5, 6, 7]
    assert images.labels.tolist() == [0, 1, 2, 1]
    some = open_corrupted(tmp_path, "fog", 5, ("c", "b"), all_class_names=names)
    assert [(image.getpixel((0, 0))[0], label) for image, label in some] == [
        (17, 1),
        (18, 0),
        (19, 1),
    ]
    with pytest.raises(DataError, match="label 2 is none of the 2 classes"):
        open_corrupted(tmp_path, "fog", 1, ("a", "b"))
    with pytest.raises(DataError, match="no corruption 'snow' in it; it has fog"):
        open_corrupted(tmp_path, "snow", 1, names)
    with pytest.raises(ValueError, match="severity must be 1 to 5"):
        open_corrupted(tmp_path, "fog", 6, names)


def test_tiny_imagenet_c_folders_are_read_by_severity_and_class(tmp_path: Path) -> None:
    for severity in range(1, 6):
        write_images(tmp_path / "blur" / str(severity), {"n01": 1, "n02": severity})
    assert corruptions(tmp_path) == ("blur",)
    images = open_corrupted(tmp_path, "blur", 3, ("n02", "n01"))
    assert images.labels.tolist() == [1, 0, 0, 0]
    with pytest.raises(DataError, match="no class 'n03'"):
        open_corrupted(tmp_path, "blur", 1, ("n03",))


def test_a_folder_without_corruptions_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no corruptions in it; expected"):
        corruptions(tmp_path)
