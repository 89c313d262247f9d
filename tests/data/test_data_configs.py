"""The data bases of the configs, read through the leaves that train on them."""

import pytest
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import BitMasks
from omegaconf import OmegaConf

from htd.data import draw_semantic_maps
from htd.errors import UserError
from htd.layers import InclusiveBoxes
from tests.static.source import ROOT


@pytest.fixture
def load(toy, tmp_path, monkeypatch):
    """Return a function that reads a data base into a config of HTC with six classes."""
    (tmp_path / "toy").symlink_to(toy)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))

    def config(name, **semantic):
        part = LazyConfig.load(str(ROOT / f"configs/common/data/{name}.py"))
        rest = {"train": {"seed": 0, "output_dir": "out"}}
        whole = OmegaConf.create(rest, flags={"allow_objects": True})
        whole.model = LazyConfig.load(str(ROOT / "configs/common/models/htc.py")).model
        whole.model.roi_heads.num_classes = 6
        whole.model.roi_heads.context.semantic.update(semantic)
        whole.dataloader = part.dataloader
        whole.dataloader.train.dataset.name = f"data_configs_{name}"
        return whole

    return config


def samples(config):
    dataset = instantiate(config.dataloader.train.dataset)
    mapper = instantiate(config.dataloader.train.mapper)
    return [mapper(record) for record in dataset]


def test_masks(load):
    for item in samples(load("toy_masks")):
        assert isinstance(item["instances"].gt_masks, BitMasks) and "sem_seg" not in item


def test_maps_in_the_manner_of_coco_stuff(load):
    values = {int(value) for item in samples(load("toy_stuff")) for value in item["sem_seg"].unique()}
    assert values <= {0, 1, 3, 4, 8, 11, *range(91, 96), 255} and {0, 91, 255} < values


def test_drawn_maps(load, toy, tmp_path):
    config = load("toy_instance_maps", num_semantic_classes="${...num_classes}", background=True)
    config.dataloader.train.dataset.semantic_root = "drawn"
    draw_semantic_maps(toy / "annotations/instances_train.json", tmp_path / "drawn")
    for item in samples(config):
        assert item["instances"].has("gt_masks")
        present = set(item["sem_seg"].unique().tolist())
        assert {6} <= present <= {*item["instances"].gt_classes.tolist(), 6, 255}


@pytest.mark.parametrize(
    ("semantic", "channels"),
    [
        ({}, 183),
        ({"num_semantic_classes": 6}, 6),
        ({"num_semantic_classes": 3, "background": True}, 4),
    ],
)
def test_drawn_maps_are_no_maps_of_other_classes(load, toy, tmp_path, semantic, channels):
    """Their values are all classes of COCO-Stuff, too, but mean something else."""
    config = load("toy_stuff", **semantic)
    config.dataloader.train.dataset.update(name=f"drawn, {channels} channels", semantic_root="drawn")
    draw_semantic_maps(toy / "annotations/instances_train.json", tmp_path / "drawn")
    leaf = "configs/htc/htc_r50_fpn_1x_instance_maps.py"
    said = rf"drawn/\d+\.png was drawn for 6 classes and .* learns {channels} classes; take {leaf} and "
    with pytest.raises(UserError, match=f"{said}num_classes=6"):
        samples(config)
    assert (ROOT / leaf).is_file()


@pytest.mark.parametrize("name", ["coco_inclusive", "coco_inclusive_masks", "toy_inclusive"])
def test_one_argument_makes_boxes_inclusive(name):
    """The convention of the mapper; the resize beside it follows."""
    ours, plain = (
        LazyConfig.load(str(ROOT / f"configs/common/data/{part}.py")).dataloader
        for part in (name, name.replace("_inclusive", ""))
    )
    assert isinstance(instantiate(ours.train.mapper).convention, InclusiveBoxes)
    del ours.train.mapper.convention
    assert str(ours) == str(plain)
