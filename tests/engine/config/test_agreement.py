"""Data and model that disagree."""

import pytest

from htd.engine.config import load_config
from htd.engine.config.agreement import check_agreement
from htd.errors import UserError
from tests.configs.leaves import LEAVES, config_of

MASKS, SEMANTIC = "configs/htd/htd_mask_r50_fpn_1x.py", "configs/htc/htc_r50_fpn_1x.py"
LEGACY, CONTINUOUS = "configs/tsd/tsd_faster_r50_fpn_1x.py", "configs/tsd/tsd_faster_r50_fpn_1x_continuous.py"


def test_leaves_agree_with_their_data():
    for leaf in LEAVES:
        for part in ("train", "test"):
            check_agreement(config_of(leaf), part)


@pytest.mark.parametrize(
    "leaf, override, text",
    [
        (
            LEGACY,
            "dataloader.train.mapper.convention=null",
            "mapper.convention is ContinuousBoxes.*Inclusive",
        ),
        (LEGACY, "model.box_convention=null", "model.box_convention is ContinuousBoxes"),
        (CONTINUOUS, "model.box_convention={_target_: htd.layers.InclusiveBoxes}", "is InclusiveBoxes"),
        (MASKS, "dataloader.train.dataset.masks=False", "learns masks.*mask_format=bitmask"),
        (SEMANTIC, "dataloader.train.dataset.semantic_root=null", "semantic_root"),
        (CONTINUOUS, "model.input_format=BGR", "image_format is RGB, but model.input_format is BGR"),
    ],
)
def test_data_that_the_model_would_misread_are_refused(leaf, override, text):
    with pytest.raises(UserError, match=text):
        check_agreement(load_config(leaf, [override]), "train")


def test_anchors_follow_the_boxes():
    config = load_config(LEGACY)
    config.model.pop("box_convention")
    config.dataloader.train.mapper.pop("convention")
    with pytest.raises(UserError, match="anchor_generator does not go with.*take DefaultAnchorGenerator"):
        check_agreement(config, "train")


def test_number_of_classes():
    config = load_config(CONTINUOUS, ["model.roi_heads.num_classes=2"])
    check_agreement(config, "test", ["cat", "dog"])
    with pytest.raises(UserError, match="num_classes 2, the test data have 1 class .*set num_classes"):
        check_agreement(config, "test", ["cat"])
