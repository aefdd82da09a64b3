"""Selecting items, keeping them, and opening them as the model sees them."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.explanations.analysis.run import load_run
from benchmarks.explanations.analysis.summaries import analyse
from benchmarks.explanations.configs.settings import Config
from benchmarks.explanations.data.items import Views
from benchmarks.explanations.data.readers.synthetic import CLASSES, SyntheticObjects
from benchmarks.explanations.stages.common import Shard, common_fields
from benchmarks.explanations.stages.cost import estimate_cost
from benchmarks.explanations.stages.explain import explain
from benchmarks.explanations.stages.model import open_model
from benchmarks.explanations.stages.plan import make_plan, open_run, read_plan
from benchmarks.explanations.stages.score import score
from captum_excon._provenance import weights_hash
from captum_excon.errors import UserError

WHOLE = Shard()


def config(data=None, protocol=None, **settings):
    return Config.from_mapping(
        {
            "data": data or {"kind": "synthetic", "count": 6, "size": 48},
            "model": {"name": "synthetic"},
            "protocol": {"target": "label", **(protocol or {})},
            "explainers": ["random"],
            "metrics": ["ebpg"],
            **settings,
        }
    )


@pytest.fixture
def folder(tmp_path):
    """Synthetic images by class, one of them in the wrong folder."""
    objects = SyntheticObjects(8, 48)
    for number in range(len(objects)):
        item = objects[number]
        place = tmp_path / "data" / CLASSES[item.label if number else 1]
        place.mkdir(parents=True, exist_ok=True)
        pixels = (item.image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(place / f"{number}.png")
    return tmp_path / "data"


def boxes(folder, **more):
    """The folder as Tiny ImageNet, with a box at the left of each image."""
    (folder / "val" / "images").mkdir(parents=True)
    lines = []
    for path in sorted(folder.glob("*/*.png")):
        path.rename(folder / "val" / "images" / path.name)
        lines.append(f"{path.name}\t{path.parent.name}\t0\t0\t11\t47\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return {"kind": "boxes", "layout": "tiny-imagenet", "path": str(folder), **more}


def test_a_plan_reads_as_it_was_made(tmp_path):
    plan = make_plan(tmp_path / "run", config(), progress=False)
    assert read_plan(tmp_path / "run") == plan
    assert [item.item for item in plan.items] == list(range(6))
    assert all(item.target == item.label == item.predicted for item in plan.items)
    assert "6 items of synthetic (all), 4 classes" in plan.summary()


def test_a_plan_of_an_earlier_version_takes_each_source_for_an_image(tmp_path):
    plan = make_plan(tmp_path, config(), progress=False)
    content = json.loads((tmp_path / "plan.json").read_text())
    for item in content["items"]:
        del item["image"]
    (tmp_path / "plan.json").write_text(json.dumps(content))
    assert read_plan(tmp_path) == plan
    assert all(item.image == item.source for item in plan.items)


def test_several_classes_of_one_image_are_items_of_that_image(tmp_path):
    # Both halves of the picture are annotated, each with another class.
    (tmp_path / "data" / "val2017").mkdir(parents=True)
    objects = SyntheticObjects(1, 48)
    Image.fromarray((objects[0].image * 255).byte().permute(1, 2, 0).numpy()).save(
        tmp_path / "data" / "val2017" / "a.png"
    )
    annotation = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES)],
        "annotations": [
            {"image_id": 1, "category_id": number, "bbox": [24 * number, 0, 24, 48]}
            for number in (0, 1)
        ],
    }
    (tmp_path / "data" / "annotations").mkdir()
    (tmp_path / "data" / "annotations" / "instances_val2017.json").write_text(
        json.dumps(annotation)
    )
    data = {"kind": "boxes", "layout": "coco", "path": str(tmp_path / "data")}
    settings = config(data, {"only_correct": False})
    plan = make_plan(tmp_path / "run", settings, progress=False)
    assert {(item.source, item.image, item.target) for item in plan.items} == {
        (f"a.png#{CLASSES[number]}", "a.png", number) for number in (0, 1)
    }
    fields = common_fields(plan, plan.items[0])
    assert (fields["source"], fields["image"]) == (plan.items[0].source, "a.png")


def test_items_are_the_normalised_images_with_their_masks(tmp_path):
    settings = config()
    model = replace(open_model(settings), mean=(0.5,) * 3, std=(0.25,) * 3)
    plan = make_plan(tmp_path, settings, model, progress=False)
    item = open_run(plan, model).items[2]
    truth = SyntheticObjects(6, 48)[int(item.planned.source.rpartition("-")[2])]
    assert torch.allclose(item.view, truth.image, atol=1 / 255)
    assert torch.allclose(item.image, (item.view - 0.5) / 0.25)
    assert torch.equal(item.mask, truth.mask[None])
    assert (item.pixels.mode, item.pixels.size) == ("RGB", (48, 48))
    assert np.array_equal(
        np.asarray(item.pixels), (item.view * 255).round().permute(1, 2, 0).numpy()
    )


def test_the_hand_set_network_needs_no_pixel_outside_of_the_mask(tmp_path):
    settings = config()
    model = open_model(settings)
    for item in open_run(make_plan(tmp_path, settings, model, progress=False), model).items:
        image = item.image[None].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model.module(image)[0, item.planned.target], image)
        assert not gradient[0][:, ~item.mask[0]].any()


def test_a_mask_goes_the_way_of_the_picture(folder):
    settings = config(boxes(folder, classes="name"))
    model = open_model(settings)
    # The right three quarters of the image, so that half of what remains of the box is a quarter.
    cropped = replace(model, geometry=lambda image: model.geometry(image.crop((6, 0, 48, 48))))
    view = Views(settings, cropped)[0]
    assert view.mask.shape == (1, 48, 42)
    assert view.mask[:, :, :6].all()
    assert not view.mask[:, :, 6:].any()


def test_wrongly_classified_images_are_passed_over_and_counted(folder, tmp_path):
    data = {"kind": "images", "path": str(folder), "count": 9}
    plan = make_plan(tmp_path / "correct", config(data), progress=False)
    assert (len(plan.items), plan.skipped) == (7, {"classified wrongly": 1})
    assert "7 items of 9 asked for of data (all)" in plan.summary()
    every = make_plan(tmp_path / "all", config(data, {"only_correct": False}), progress=False).items
    (wrong,) = [item for item in every if item.predicted != item.label]
    assert (len(every), wrong.source, wrong.target) == (8, "rising/0.png", 1)
    predicted = config(data, {"only_correct": False, "target": "predicted"})
    (wrong,) = [
        item
        for item in make_plan(tmp_path / "predicted", predicted, progress=False).items
        if item.predicted != item.label
    ]
    assert (wrong.source, wrong.label, wrong.target) == ("rising/0.png", 1, 0)


def test_numbers_in_a_table_are_outputs_by_order(folder, tmp_path):
    names = [name for name in CLASSES if name != CLASSES[0]]
    files = [path for name in names for path in sorted((folder / name).iterdir())]
    table = "".join(
        f"{file.relative_to(folder)},{CLASSES.index(file.parent.name)}\n" for file in files
    )
    (folder / "labels.csv").write_text(f"file,label\n{table}")
    data = {"kind": "images", "path": str(folder), "classes": "order", "count": 9}
    plan = make_plan(tmp_path / "run", config(data), progress=False)
    # The first class is not among them, and the others keep their numbers.
    assert {item.predicted for item in plan.items} == {1, 2, 3}
    assert len(plan.items) == len(files) - 1


def test_more_items_leave_the_first_as_they_are(folder, tmp_path):
    few, many = (
        make_plan(
            tmp_path / f"{count}",
            config({"kind": "images", "path": str(folder), "count": count}),
            progress=False,
        ).items
        for count in (3, 6)
    )
    assert many[:3] == few


def test_rows_without_an_object_or_all_object_are_passed_over(folder, tmp_path):
    data = boxes(folder, max_area=0.2)
    with pytest.raises(UserError, match="8 with objects larger than max_area"):
        make_plan(tmp_path / "run", config(data), progress=False)
    settings = config({**data, "max_area": 1.0})
    model = open_model(settings)
    right = replace(model, geometry=lambda image: model.geometry(image.crop((12, 0, 48, 48))))
    with pytest.raises(UserError, match="8 without an object in the model's view"):
        make_plan(tmp_path / "run", settings, right, progress=False)


def test_a_mosaic_explains_the_class_of_one_cell(folder, tmp_path):
    settings = config({"kind": "grid", "path": str(folder), "count": 10})
    model = open_model(settings)
    plan = make_plan(tmp_path / "run", settings, model, progress=False)
    assert len(plan.items) == 10
    assert "rising/0.png" not in {row for item in plan.items for row in item.rows}
    items = open_run(plan, model).items
    for number, item in enumerate(items):
        row = item.planned.rows[number % 4]
        assert row.startswith(CLASSES[item.planned.target])
        top, left = 24 * (number % 4 // 2), 24 * (number % 2)
        assert item.mask[:, top : top + 24, left : left + 24].all()
        assert item.mask.sum() == 24 * 24
        probability = model.probabilities(item.image[None])[item.planned.target]
        assert item.planned.probability == pytest.approx(float(probability))


def test_mosaics_that_explain_one_photograph_are_items_of_that_photograph(folder, tmp_path):
    settings = config({"kind": "grid", "path": str(folder), "count": 10})
    plan = make_plan(tmp_path / "run", settings, progress=False)
    assert [item.image for item in plan.items] == [i.rows[i.position] for i in plan.items]
    assert len({item.image for item in plan.items}) == 7
    explain(open_run(tmp_path / "run"), WHOLE)
    score(open_run(tmp_path / "run"), WHOLE)
    summary = analyse(load_run(tmp_path / "run")).summary
    assert summary["images"].tolist() == [7]


def test_a_count_that_repeats_mosaics_is_refused(folder, tmp_path):
    data = {"kind": "grid", "path": str(folder), "count": 99}
    with pytest.raises(UserError, match=r"set data.count to (\d+) at most") as caught:
        make_plan(tmp_path / "run", config(data), progress=False)
    most = int(re.search(r"to (\d+) at most", str(caught.value))[1])
    plan = make_plan(tmp_path / "run", config({**data, "count": most}), progress=False)
    assert len({(item.rows, item.position) for item in plan.items}) == most


def test_full_cells_are_the_images_as_they_are(folder, tmp_path):
    settings = config({"kind": "grid", "path": str(folder), "count": 2, "cells": "full"})
    model = open_model(settings)
    plan = make_plan(tmp_path / "run", settings, model, progress=False)
    item = open_run(plan, model).items[1]
    with Image.open(folder / item.planned.rows[1]) as file:
        assert torch.equal(item.view[:, :48, 48:], model.geometry(file))


def test_too_few_classes_for_a_mosaic_are_refused(folder, tmp_path):
    for path in (folder / "falling").iterdir():
        path.unlink()
    message = r"needs 4 classes, but found 3, in the 5 suitable of 6 images .*classified wrongly"
    with pytest.raises(UserError, match=message):
        make_plan(tmp_path / "run", config({"kind": "grid", "path": str(folder)}), progress=False)


def test_photographs_that_the_model_doubts_are_counted_with_the_setting_that_decides(
    folder, tmp_path
):
    data = {"kind": "grid", "path": str(folder), "min_probability": 1.0}
    with pytest.raises(UserError, match=r"7 less probable than data.min_probability=1.0"):
        make_plan(tmp_path / "run", config(data), progress=False)


def test_other_explainers_and_metrics_keep_the_items(tmp_path):
    first = make_plan(tmp_path, config(), progress=False)
    second = make_plan(
        tmp_path, config(explainers=["random", "sobel"], metrics=["bbox"]), progress=False
    )
    assert second.items == first.items
    assert read_plan(tmp_path).config.explainers[1].name == "sobel"
    assert set(first.hashes()) & set(second.hashes()) == {first.hashes()[0]}


def test_a_run_folder_is_for_one_set_of_items_and_weights(tmp_path):
    make_plan(tmp_path, config(), progress=False)
    with pytest.raises(UserError, match="is the run of other data, another model or another"):
        make_plan(tmp_path, config(protocol={"only_correct": False}), progress=False)
    model = open_model(config())
    with torch.no_grad():
        model.module.head.weight[0, 0] += 1
    with pytest.raises(UserError, match="is the run of other data, another model"):
        make_plan(tmp_path, config(), model, progress=False)
    with pytest.raises(
        UserError, match=f"was planned with the weights .* has {weights_hash(model.module)[:16]}"
    ):
        open_run(tmp_path, model)


def test_moved_data_are_opened_and_missing_data_named(folder, tmp_path):
    data = {"kind": "images", "path": str(folder), "count": 4}
    plan = make_plan(tmp_path / "run", config(data), progress=False)
    moved = folder.rename(tmp_path / "moved")
    settings = config({**data, "path": str(moved)})
    model = open_model(settings)
    plan = make_plan(tmp_path / "run", settings, model, progress=False)
    assert len(open_run(plan, model).items) == 4
    (moved / plan.items[0].source).unlink()
    with pytest.raises(UserError, match=f"{plan.items[0].source} was planned, but is not among"):
        open_run(plan, model)


def test_a_folder_without_a_plan_is_named(tmp_path):
    with pytest.raises(UserError, match="is not a run: run the plan stage first"):
        read_plan(tmp_path)


def test_the_synthetic_model_has_no_options():
    with pytest.raises(UserError, match="made by hand"):
        open_model(config(model={"name": "synthetic", "size": [8, 8]}))


def test_the_cost_is_that_of_the_first_item_times_their_number(tmp_path):
    settings = config(
        explainers=["random", {"name": "rise", "options": {"n_masks": 8}}], layer="block1"
    )
    plan = make_plan(tmp_path, settings, progress=False)
    table = estimate_cost(open_run(plan))
    assert [line.split()[:-1] for line in table.splitlines()][1:3] == [
        ["explain", "random", "0", "0"],
        ["explain", "rise", "8", "0"],
    ]
    assert "all 6 items: " in table
    assert sorted(p.name for p in tmp_path.glob("maps/*/0.npy")) == ["0.npy"] * 2
