"""Each layout is written in small, and read again."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks.explanations.configs.settings import BoxesData, ImagesData, SyntheticData
from benchmarks.explanations.data.readers import open_source
from benchmarks.explanations.data.readers.synthetic import CLASSES, SyntheticObjects
from captum_excon.errors import UserError

CAT, DOG = "n02123045", "n02085620"


def picture(path, size=(8, 6), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (9, 99, 200)).save(path, **options)


def turned():
    """The EXIF data of a picture that is shown turned by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def white(source, row):
    """(left, top, right, bottom) of the white pixels, which must fill that box."""
    mask = source.mask(row)
    assert mask.size == source.picture(row).size
    box = mask.getbbox()
    assert np.asarray(mask.crop(box)).min() == 255
    return box


def voc_xml(*objects):
    boxes = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax>"
        f"<ymax>{d}</ymax></bndbox></object>"
        for name, (a, b, c, d) in objects
    )
    return f"<annotation><filename>x</filename>{boxes}</annotation>"


def test_voc_has_a_row_for_each_class_and_counts_pixels_from_one(tmp_path):
    year = tmp_path / "VOC2007"
    picture(year / "JPEGImages" / "a.jpg")
    picture(year / "JPEGImages" / "b.jpg")
    write(year / "Annotations" / "a.xml", voc_xml(("dog", (1, 1, 2, 2)), ("cat", (3, 2, 8, 6))))
    write(year / "Annotations" / "b.xml", voc_xml(("cat", (2, 2, 3, 3))))
    write(year / "ImageSets" / "Main" / "test.txt", "a\nb\n")
    source = open_source(BoxesData(layout="voc", path=str(year)))
    assert (source.dataset, source.split) == ("VOC2007", "test")
    assert source.class_names == ("cat", "dog")
    assert list(source.names) == ["a.jpg#cat", "a.jpg#dog", "b.jpg"]
    assert [source.image(row) for row in range(3)] == ["a.jpg", "a.jpg", "b.jpg"]
    assert list(source.labels) == [0, 1, 0]
    assert [white(source, row) for row in range(3)] == [(2, 1, 8, 6), (0, 0, 2, 2), (1, 1, 3, 3)]


def test_a_row_shows_all_objects_of_its_class(tmp_path):
    picture(tmp_path / "JPEGImages" / "a.jpg")
    objects = voc_xml(("cat", (1, 1, 1, 1)), ("cat", (8, 6, 8, 6)))
    write(tmp_path / "Annotations" / "a.xml", objects)
    write(tmp_path / "ImageSets" / "Main" / "val.txt", "a")
    source = open_source(BoxesData(layout="voc", path=str(tmp_path), split="val"))
    pixels = np.asarray(source.mask(0))
    assert np.argwhere(pixels).tolist() == [[0, 0], [5, 7]]


def test_boxes_and_pictures_are_as_stored_whatever_their_orientation(tmp_path):
    picture(tmp_path / "JPEGImages" / "a.jpg", (60, 30), exif=turned())
    write(tmp_path / "Annotations" / "a.xml", voc_xml(("cat", (31, 11, 60, 30))))
    write(tmp_path / "ImageSets" / "Main" / "test.txt", "a")
    source = open_source(BoxesData(layout="voc", path=str(tmp_path)))
    assert source.picture(0).size == (60, 30)
    assert white(source, 0) == (30, 10, 60, 30)


def test_an_annotated_picture_that_cannot_be_read_is_named(tmp_path):
    write(tmp_path / "JPEGImages" / "a.jpg", "no picture")
    write(tmp_path / "Annotations" / "a.xml", voc_xml(("cat", (1, 1, 2, 2))))
    write(tmp_path / "ImageSets" / "Main" / "test.txt", "a")
    source = open_source(BoxesData(layout="voc", path=str(tmp_path)))
    with pytest.raises(UserError, match=r"a\.jpg: cannot be read as an image .*; mend this file"):
        source.picture(0)


def test_an_unknown_split_of_voc_is_answered_with_the_known(tmp_path):
    write(tmp_path / "ImageSets" / "Main" / "val.txt", "a")
    write(tmp_path / "ImageSets" / "Main" / "cat_val.txt", "a 1")
    with pytest.raises(UserError, match=r"no ImageSets/Main/test.txt; splits here are val$"):
        open_source(BoxesData(layout="voc", path=str(tmp_path)))


def test_a_broken_list_of_boxes_is_named(tmp_path):
    write(tmp_path / "ImageSets" / "Main" / "test.txt", "a")
    write(tmp_path / "Annotations" / "a.xml", "<annotation>")
    with pytest.raises(UserError, match=r"a\.xml: not a list of boxes"):
        open_source(BoxesData(layout="voc", path=str(tmp_path)))


def test_imagenet_finds_boxes_by_the_names_of_images(tmp_path):
    picture(tmp_path / "Data" / "CLS-LOC" / "val" / "one.JPEG")
    picture(tmp_path / "Data" / "CLS-LOC" / "val" / "without.JPEG")
    picture(tmp_path / "Data" / "CLS-LOC" / "train" / CAT / "other.JPEG")
    boxes = tmp_path / "Annotations" / "CLS-LOC"
    write(boxes / "val" / "one.xml", voc_xml((CAT, (0, 1, 4, 3))))
    write(boxes / "train" / CAT / "other.xml", voc_xml((CAT, (0, 0, 1, 1))))
    source = open_source(BoxesData(layout="imagenet", path=str(tmp_path)))
    assert (list(source.names), source.class_names) == (["one"], (CAT,))
    assert source.picture(0).size == (8, 6)
    assert white(source, 0) == (0, 1, 4, 3)
    train = open_source(BoxesData(layout="imagenet", path=str(tmp_path), split="train"))
    assert list(train.names) == ["other"]


def test_coco_leaves_crowds_out_and_keeps_the_order_of_its_categories(tmp_path):
    picture(tmp_path / "val2017" / "7.jpg")
    things = [
        {"image_id": 7, "category_id": 18, "bbox": [1, 2, 3, 4], "iscrowd": 0},
        {"image_id": 7, "category_id": 18, "bbox": [0, 0, 8, 6], "iscrowd": 1},
    ]
    annotation = {
        "images": [{"id": 7, "file_name": "7.jpg"}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "zebra"}],
        "annotations": things,
    }
    write(tmp_path / "annotations" / "instances_val2017.json", json.dumps(annotation))
    source = open_source(BoxesData(layout="coco", path=str(tmp_path)))
    assert source.class_names == ("zebra", "dog")
    assert (list(source.labels), white(source, 0)) == ([1], (1, 2, 4, 6))


def test_a_missing_coco_annotation_is_named(tmp_path):
    with pytest.raises(UserError, match=r"instances_val2014\.json: not a COCO annotation"):
        open_source(BoxesData(layout="coco", path=str(tmp_path), split="val2014"))


def test_tiny_imagenets_boxes_include_their_last_pixels(tmp_path):
    for name in ("val_0.JPEG", "val_1.JPEG"):
        picture(tmp_path / "val" / "images" / name)
    table = tmp_path / "val" / "val_annotations.txt"
    write(table, f"val_0.JPEG\t{CAT}\t0\t1\t7\t5\nval_1.JPEG\t{DOG}\t2\t2\t2\t2\n")
    source = open_source(BoxesData(layout="tiny-imagenet", path=str(tmp_path)))
    assert source.class_names == (DOG, CAT)
    assert list(source.labels) == [1, 0]
    assert [white(source, row) for row in range(2)] == [(0, 1, 8, 6), (2, 2, 3, 3)]
    write(table, f"val_0.JPEG\t{CAT}\t0\t1\n")
    with pytest.raises(UserError, match="line 1: expected a file, a class and four whole numbers"):
        open_source(BoxesData(layout="tiny-imagenet", path=str(tmp_path)))


def test_pets_masks_are_the_trimaps_foreground(tmp_path):
    picture(tmp_path / "images" / "great_pyrenees_12.jpg", exif=turned())
    picture(tmp_path / "images" / "Bengal_1.jpg")
    write(tmp_path / "annotations" / "test.txt", "great_pyrenees_12 2 2 1\nBengal_1 1 1 1\n")
    trimap = np.full((6, 8), 2, dtype=np.uint8)
    trimap[1:5, 2:7] = 3
    trimap[2:4, 3:6] = 1
    for stem in ("great_pyrenees_12", "Bengal_1"):
        (tmp_path / "annotations" / "trimaps").mkdir(exist_ok=True)
        Image.fromarray(trimap).save(tmp_path / "annotations" / "trimaps" / f"{stem}.png")
    source = open_source(BoxesData(layout="pets", path=str(tmp_path)))
    assert source.class_names == ("Bengal", "great pyrenees")
    assert (list(source.labels), white(source, 0)) == ([1, 0], (3, 2, 6, 4))
    assert source.image(0) == source.names[0] == "great_pyrenees_12"


def test_a_folder_of_classes_is_taken_whole_and_has_no_masks(tmp_path):
    picture(tmp_path / "flowers" / "rose" / "1.png")
    picture(tmp_path / "flowers" / "aster" / "1.png")
    source = open_source(ImagesData(path=str(tmp_path / "flowers")))
    assert (source.dataset, source.split) == ("flowers", "all")
    assert list(source.names) == ["aster/1.png", "rose/1.png"]
    assert (source.class_names, source.mask) == (("aster", "rose"), None)


def test_a_split_that_is_not_there_is_answered_with_the_known(tmp_path):
    picture(tmp_path / "train" / "rose" / "1.png")
    with pytest.raises(UserError, match="no split 'test'; splits are train"):
        open_source(ImagesData(path=str(tmp_path)))


@pytest.mark.parametrize("inside", ["", "images"])
def test_a_table_names_files_and_classes(tmp_path, inside):
    picture(tmp_path / inside / "x.png", (3, 2))
    write(tmp_path / "labels.csv", f"file,imagenet_index,wnid\nx.png,281,{CAT}\n")
    source = open_source(ImagesData(path=str(tmp_path)))
    assert (list(source.names), source.class_names) == (["x.png"], (CAT,))
    assert source.picture(0).size == (3, 2)


def test_whole_numbers_in_a_table_are_sorted_as_numbers(tmp_path):
    rows = "".join(f"{number}.png,{number}\n" for number in (10, 0, 2, 11, 1, 2))
    write(tmp_path / "labels.csv", f"file,label\n{rows}")
    source = open_source(ImagesData(path=str(tmp_path)))
    assert source.class_names == ("0", "1", "2", "10", "11")
    assert (list(source.labels), source.numbered) == ([3, 0, 2, 4, 1, 2], True)


def test_one_word_in_a_table_makes_its_classes_words(tmp_path):
    write(tmp_path / "labels.csv", "file,label\na.png,10\nb.png,2\nc.png,rose\n")
    source = open_source(ImagesData(path=str(tmp_path)))
    assert (source.class_names, source.numbered) == (("10", "2", "rose"), False)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("image,label\nx.png,rose\n", "expected lines below a heading with 'file'"),
        ("file,label\n", "expected lines below a heading with 'file'"),
        ("file,label\nx.png,rose\ny.png,\n", "line 3: the file or its class is missing"),
    ],
)
def test_a_table_that_lacks_something_is_refused(tmp_path, table, message):
    write(tmp_path / "flowers.csv", table)
    with pytest.raises(UserError, match=message):
        open_source(ImagesData(path=str(tmp_path / "flowers.csv")))


def test_synthetic_pictures_are_the_images_to_within_eight_bits():
    source = open_source(SyntheticData(count=5, size=48, seed=3))
    item = SyntheticObjects(5, 48, 3)[4]
    pixels = np.asarray(source.picture(4)) / 255
    assert np.abs(pixels - item.image.numpy().transpose(1, 2, 0)).max() <= 1 / 255
    assert np.array_equal(np.asarray(source.mask(4)) == 255, item.mask.numpy())
    assert (source.class_names, source.labels[4]) == (CLASSES, item.label)
