"""Readers of the data that users have, each to a `Source`.

| layout | folder | split, first by default |
| --- | --- | --- |
| voc | ``VOCdevkit/VOC2007`` and other years | ``test``, ``val``, ``trainval``, ... |
| coco | with ``annotations/`` and ``val2017/`` | ``val2017``, ... |
| imagenet | images and their XML files, anywhere below | ``val``, ``train`` |
| tiny-imagenet | as published | ``val`` |
| pets | ``oxford-iiit-pet`` | ``test``, ``trainval`` |
"""

from pathlib import Path

from benchmarks.explanations.configs.settings import BoxesData, Data, SyntheticData
from benchmarks.explanations.data.readers.coco import open_coco
from benchmarks.explanations.data.readers.images import open_images
from benchmarks.explanations.data.readers.pets import open_pets
from benchmarks.explanations.data.readers.source import Source
from benchmarks.explanations.data.readers.synthetic import open_synthetic
from benchmarks.explanations.data.readers.tiny_imagenet import open_tiny_imagenet
from benchmarks.explanations.data.readers.xml_boxes import open_imagenet, open_voc

__all__ = ["Source", "open_source"]

_LAYOUTS = {
    "voc": open_voc,
    "coco": open_coco,
    "imagenet": open_imagenet,
    "tiny-imagenet": open_tiny_imagenet,
    "pets": open_pets,
}


def open_source(data: Data) -> Source:
    """Opens the data that the settings name.

    Raises:
        UserError: They are not there, or their layout is another.
    """
    if isinstance(data, SyntheticData):
        return open_synthetic(data.count, data.size, data.seed)
    if isinstance(data, BoxesData):
        return _LAYOUTS[data.layout](Path(data.path).expanduser(), data.split)
    return open_images(data.path, data.split)
