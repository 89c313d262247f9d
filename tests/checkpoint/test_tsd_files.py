"""The key lists of the published TSD files against the models of the configs."""

import pytest
import torch

from htd.checkpoint import convert
from htd.checkpoint.formats import choose
from tests import recorded
from tests.checkpoint import whole
from tests.checkpoint.whole import convert_one_to_one, model_of

PLAIN = "baselines/faster_rcnn_r50_fpn_openimages"
CONFIGS = {
    "tsd/tsd_faster_r50_fpn_1x": "faster_rcnn_r50_fpn_TSD_1x",
    "tsd/tsd_faster_r101_fpn_1x": "faster_rcnn_r101_fpn_TSD_1x",
    "tsd/tsd_faster_r152_fpn_1x": "faster_rcnn_r152_fpn_TSD_1x",
    "tsd/tsd_faster_x101_64x4d_fpn_dcn_ms": "faster_rcnn_x101_64x4d_fpn_TSD",
    "tsd/tsd_mask_r50_fpn_1x": "mask_rcnn_r50_fpn_TSD_1x",
    "tsd/tsd_cascade_r50_fpn_20e": "cascade_rcnn_r50_fpn_TSD_20e",
    "tsd/tsd_cascade_r101_fpn_20e": "cascade_rcnn_r101_fpn_TSD_20e",
    "tsd/tsd_faster_r50_fpn_openimages": "openimages_r50_fpn_classsampling_TSD",
    PLAIN: "openimages_r50_fpn_classsampling",
}


def file_of(manifest):
    return whole.file_of("tsd", f"manifest_{manifest}")


@pytest.mark.parametrize(("config", "manifest"), CONFIGS.items())
def test_every_config_takes_its_file_one_to_one(config, manifest):
    _, report = convert_one_to_one(file_of(manifest), config)
    assert report.format.startswith("_".join(config.partition("/")[2].split("_")[:2]))


STAGE = {
    "shared_fc.0.weight": "trunk.weight",
    "delta_c.0.weight": "classification.shift.0.weight",
    "delta_c.2.bias": "classification.shift.2.bias",
    "delta_r.0.bias": "regression.shift.0.bias",
    "delta_r.2.weight": "regression.shift.2.weight",
    "TSD_pc_fcs.0.weight": "classification.fcs.0.weight",
    "TSD_pc_fcs.1.bias": "classification.fcs.1.bias",
    "TSD_pr_fcs.0.bias": "regression.fcs.0.bias",
    "TSD_pr_fcs.1.weight": "regression.fcs.1.weight",
    "TSD_fc_cls.weight": "classification.cls_score.weight",
    "TSD_fc_reg.bias": "regression.bbox_pred.bias",
    "shared_fcs.0.weight": "sibling.fcs.0.weight",
    "shared_fcs.1.bias": "sibling.fcs.1.bias",
    "fc_cls.bias": "sibling.cls_score.bias",
    "fc_reg.weight": "sibling.bbox_pred.weight",
}
PLAIN_STAGE = {
    "shared_fcs.0.weight": "fcs.0.weight",
    "shared_fcs.1.bias": "fcs.1.bias",
    "fc_cls.bias": "cls_score.bias",
    "fc_reg.weight": "bbox_pred.weight",
}
MASK = {
    "mask_head.convs.3.conv.weight": "roi_heads.mask_branch.heads.0.convs.3.weight",
    "mask_head.upsample.bias": "roi_heads.mask_branch.heads.0.deconv.bias",
    "mask_head.conv_logits.weight": "roi_heads.mask_branch.heads.0.predictor.weight",
}
OFFSETS = {"backbone.layer2.0.conv2.conv_offset.bias": "backbone.bottom_up.res3.0.conv2_offset.bias"}


def stage(number, names=STAGE, published="bbox_head"):
    return {f"{published}.{key}": f"roi_heads.stages.{number}.head.{ours}" for key, ours in names.items()}


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("manifest_faster_rcnn_x101_64x4d_fpn_TSD", stage(0) | OFFSETS),
        ("manifest_mask_rcnn_r50_fpn_TSD_1x", stage(0) | MASK),
        ("mask_small", stage(0) | MASK),
        ("head_small", stage(0)),
        ("manifest_cascade_rcnn_r50_fpn_TSD_20e", stage(0, published="bbox_head.0")),
        ("manifest_cascade_rcnn_r50_fpn_TSD_20e", stage(2, published="bbox_head.2")),
        ("cascade_small", stage(1, published="bbox_head.1")),
        ("cascade_mixed", stage(0, PLAIN_STAGE, "bbox_head.0") | stage(1, published="bbox_head.1")),
        ("manifest_openimages_r50_fpn_classsampling", stage(0, PLAIN_STAGE)),
    ],
)
def test_places(name, places):
    keys = recorded.manifest("tsd", name)["entries"]
    form = choose(keys)
    found = {key: form.place(key, keys)[0] for key in keys}
    assert len(set(found.values())) == len(found)
    assert {key: found[key] for key in places} == places


def numbered(manifest):
    """Return values that tell where they come from: each is the number of its row."""
    return {
        key: torch.arange(value.shape[0]).view(-1, *(1 for _ in value.shape[1:])).expand(value.shape)
        for key, value in file_of(manifest).items()
        if value.shape
    }


def row_numbers(value):
    rows = value.reshape(len(value), -1)
    assert (rows == rows[:, :1]).all()  # whole rows moved
    return rows[:, 0].tolist()


COCO_SCORES, COCO_BOXES = [*range(1, 81), 0], list(range(4, 324))
KEPT_BOXES = [*COCO_BOXES, 0, 1, 2, 3]
OPENIMAGES_SCORES, OPENIMAGES_BOXES = [*range(1, 501), 0], list(range(4, 2004))
MASKS = list(range(1, 81))
ORDERS = {
    "tsd/tsd_faster_r50_fpn_1x": {"fc_cls": COCO_SCORES, "fc_reg": COCO_BOXES},
    "tsd/tsd_mask_r50_fpn_1x": {"fc_cls": COCO_SCORES, "fc_reg": COCO_BOXES, "conv_logits": MASKS},
    "tsd/tsd_cascade_r50_fpn_20e": {"fc_cls": COCO_SCORES, "fc_reg": KEPT_BOXES},
    "tsd/tsd_faster_r50_fpn_openimages": {"fc_cls": OPENIMAGES_SCORES, "fc_reg": OPENIMAGES_BOXES},
    PLAIN: {"fc_cls": OPENIMAGES_SCORES, "fc_reg": OPENIMAGES_BOXES},
}


@pytest.mark.parametrize(("config", "orders"), ORDERS.items())
def test_rows_of_classes_move_and_nothing_else(config, orders):
    weights, model = numbered(CONFIGS[config]), model_of(config)
    converted, report = convert(weights, model)
    moved = []
    for key, ours in report.used.items():
        layer = key.split(".")[-2].removeprefix("TSD_")
        if layer in orders:
            assert row_numbers(converted[ours]) == orders[layer]
            moved.append(key)
        else:
            assert converted[ours].data_ptr() == weights[key].data_ptr()
    # Weight and bias of every layer that has rows of classes.
    layers = ("cls_score", "bbox_pred", "predictor")
    assert len(moved) == sum(name.split(".")[-2] in layers for name in model.state_dict())


@pytest.mark.parametrize(
    ("config", "prefix"),
    [
        ("tsd/tsd_faster_r50_fpn_1x", "bbox_head."),
        ("tsd/tsd_cascade_r50_fpn_20e", "bbox_head.0."),
        (PLAIN, "bbox_head."),
    ],
)
def test_heads_alone(config, prefix):
    weights = {key: v for key, v in file_of(CONFIGS[config]).items() if key.startswith("bbox_head.")}
    heads = model_of(config).roi_heads
    converted, _ = convert(weights, heads)
    heads.load_state_dict(converted, strict=True)
    head = heads.stages[0].head
    first = {key: value for key, value in weights.items() if key.startswith(prefix)}
    converted, _ = convert(first, head)
    head.load_state_dict(converted, strict=True)


def test_deformable_backbone_as_old_files_write_it():
    weights = file_of("faster_rcnn_x101_64x4d_fpn_TSD")
    old = {f"module.{key.replace('conv2.conv_offset', 'conv2_offset')}": v for key, v in weights.items()}
    assert sum("conv2_offset" in key for key in old) == 60
    assert convert(old, model_of("tsd/tsd_faster_x101_64x4d_fpn_dcn_ms"))[1].complete
