"""A small model of each system learns eight photographs by heart, by the command that a user types."""

import json
import subprocess
import sys

import pytest
from detectron2.config import LazyConfig

from configs.common.models.narrow import narrow_cascade, narrow_dense, narrow_masks
from configs.common.photographs import fit_photographs
from htd.data import draw_semantic_maps
from htd.engine.config import build, load_config, save_config
from tests.overfit.photographs import ANNOTATIONS, IMAGES, write_selection

DENSE_STRIDES = [4, 8, 16, 32, 64, 128]
LEAVES = {
    "htd": "demo/htd_photographs",
    "htc": "htc/htc_r50_fpn_1x_instance_maps",
    "tsd": "tsd/tsd_faster_r50_fpn_1x_continuous",
    "tood": "tood/tood_r50_fpn_1x",
    "salt": "salt/salt_r50_fpn_1x",
}


def small_form(system):
    """Return the config of a narrow model of a system; rate and length are HTD's."""
    config = LazyConfig.load("configs/demo/htd_photographs.py")
    if system == "htd":
        return config
    leaf = LazyConfig.load(f"configs/{LEAVES[system]}.py")
    config.model, config.dataloader = leaf.model, leaf.dataloader
    if "roi_heads" in config.model:
        narrow_cascade(config.model)
    else:
        narrow_dense(config.model, DENSE_STRIDES)
    if system == "htc":
        narrow_masks(config.model)
    if system == "tood":
        config.model.criterion.switch_iter = config.train.max_iter // 3
    fit_photographs(config.model, config.dataloader)
    return config


def data_flags(selection):
    """Return the flags of a training that is evaluated on what it learns from."""
    names = [f"--{part}-{kind}" for part in ("train", "val") for kind in ("json", "images")]
    return [str(x) for pair in zip(names, [selection, IMAGES] * 2, strict=True) for x in pair]


@pytest.mark.slow
@pytest.mark.skipif(not ANNOTATIONS.exists(), reason=f"needs the photographs of {ANNOTATIONS}")
@pytest.mark.parametrize("system", LEAVES)
def test_learns_eight_photographs(system, tmp_path):
    selection = tmp_path / "eight.json"
    write_selection(selection)
    assert len(json.loads(selection.read_text())["images"]) == 8
    config = small_form(system)
    train, file = config.dataloader.train, tmp_path / "small.yaml"
    save_config(config, file)
    flags = [*data_flags(selection), f"train.output_dir={tmp_path / 'run'}"]
    if train.dataset.get("semantic_root"):
        maps = draw_semantic_maps(selection, tmp_path / "maps")
        flags.append(f"dataloader.train.dataset.semantic_root={maps}")
    subprocess.run([sys.executable, "train_net.py", "--config-file", str(file), *flags], check=True)
    last = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()][-1]
    assert last["bbox/AP50"] >= 90
    if train.mapper.get("mask_format"):
        assert last["segm/AP50"] >= 90


@pytest.mark.parametrize("system", LEAVES)
def test_small_forms_can_be_built(system, tmp_path):
    save_config(small_form(system), tmp_path / "small.yaml")
    model = build(load_config(str(tmp_path / "small.yaml")).model, "model")
    assert sum(parameter.numel() for parameter in model.parameters()) < 5e6
