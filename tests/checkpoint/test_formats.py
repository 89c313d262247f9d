"""How files are recognized, and single lines of the key maps."""

from pathlib import Path

import pytest

from htd.checkpoint.formats import FORMATS, choose, recognize
from htd.errors import UserError

BODY = ["backbone.conv1.weight", "neck.fpn_convs.0.conv.weight", "rpn_head.rpn_conv.weight"]
BOX_HEAD = "roi_head.bbox_head.0.shared_fcs.0.weight"


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("htd", [*BODY, BOX_HEAD, "roi_head.bbox_head.1.graph_lvl0_cls.weight"]),
        ("htd", ["roi_head.glbctx_head.fc.weight"]),
        ("cascade_rcnn", [*BODY, BOX_HEAD, "roi_head.bbox_head.2.fc_cls.weight"]),
        ("faster_rcnn", [*BODY, "roi_head.bbox_head.shared_fcs.0.weight"]),
        ("body", BODY),
        ("htc_without_semantic", [*BODY, BOX_HEAD, "roi_head.mask_head.1.conv_res.conv.weight"]),
        ("htc", [*BODY, BOX_HEAD, "roi_head.semantic_head.convs.0.conv.weight"]),
        ("htc", ["roi_head.mask_head.1.conv_res.conv.weight", "roi_head.semantic_head.convs.0.conv.weight"]),
        ("cascade_mask_rcnn", [*BODY, BOX_HEAD, "roi_head.mask_head.0.convs.0.conv.weight"]),
        ("mask_rcnn", [*BODY, "roi_head.mask_head.upsample.weight"]),
        ("tsd_faster", [*BODY, "bbox_head.shared_fcs.0.weight", "bbox_head.TSD_fc_cls.weight"]),
        ("tsd_mask", [*BODY, "mask_head.upsample.weight", "bbox_head.TSD_fc_cls.weight"]),
        ("tsd_cascade", [*BODY, "bbox_head.0.shared_fcs.0.weight", "bbox_head.0.TSD_fc_cls.weight"]),
        ("tsd_cascade", ["bbox_head.0.shared_fcs.0.weight", "bbox_head.1.TSD_fc_cls.weight"]),
        ("tood", [*BODY, "bbox_head.tood_cls.weight"]),
        ("salt", [*BODY, "bbox_head.salt_cls.weight"]),
        ("salt_retinanet", [*BODY, "bbox_head.retina_cls.weight", "bbox_head.ram_cls_conv.conv.weight"]),
        ("salt_atss", [*BODY, "bbox_head.atss_reg.weight", "bbox_head.ram_cls_conv.conv.weight"]),
        ("atss", [*BODY, "bbox_head.atss_cls.weight"]),
        ("salt_fcos", ["bbox_head.conv_centerness.weight", "bbox_head.ram_cls_conv.conv.weight"]),
        ("mmdetection", ["bbox_head.reppoints_cls_out.weight", "bbox_head.ram_cls_conv.conv.weight"]),
        ("gfl", [*BODY, "bbox_head.gfl_cls.weight"]),
        ("retinanet", [*BODY, "bbox_head.retina_cls.weight", "bbox_head.cls_convs.0.conv.weight"]),
        ("fcos", [*BODY, "bbox_head.conv_cls.weight", "bbox_head.conv_centerness.weight"]),
        ("faster_rcnn_mmdetection1", [*BODY, "bbox_head.shared_fcs.0.weight"]),
        ("mmdetection1", [*BODY, "bbox_head.shared_fcs.0.weight", "mask_head.upsample.weight"]),
        ("mmdetection1", [*BODY, "bbox_head.0.shared_fcs.0.weight"]),
        ("mmdetection1", ["mask_head.upsample.weight"]),
        ("mmdetection1", ["mask_head.2.upsample.weight"]),
        ("mmdetection1", ["semantic_head.lateral_convs.0.conv.weight"]),
        ("mmdetection", [*BODY, "bbox_head.conv_cls.weight"]),
        ("imagenet", ["conv1.weight", "layer1.0.conv1.weight", "fc.weight"]),
        ("detectron2", ["backbone.bottom_up.stem.conv1.weight", "roi_heads.stages.0.head.fcs.0.weight"]),
    ],
)
def test_recognized_by_its_keys(name, keys):
    assert recognize(keys).name == name


def test_unknown_keys():
    assert recognize(["encoder.weight"]) is None
    with pytest.raises(
        UserError, match="no known checkpoint format .first keys: a, b, c.*tsd_faster, htd, htc, htc_without_"
    ):
        choose(["d", "c", "b", "a"])


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("bbox_head.reppoints_cls_out.weight", "another detector of MMDetection: no key map"),
        (
            "bbox_head.0.shared_fcs.0.weight",
            "HTC of MMDetection 1: there a box is one pixel wider .* background is the first",
        ),
        ("conv1.weight", "imagenet:///path"),
        ("roi_heads.box_head.fc1.weight", "without conversion"),
    ],
)
def test_message_names_a_foreign_file(key, text):
    with pytest.raises(UserError, match=text):
        choose([key])


def test_source_forces_a_format():
    assert choose(["anything"], "htd") is FORMATS["htd"]
    with pytest.raises(UserError, match="'hdt' is not a checkpoint format; there are: tsd_cascade, "):
        choose(["anything"], "hdt")


@pytest.mark.parametrize(
    ("source", "published", "ours"),
    [
        ("htd", "backbone.bn1.running_var", "backbone.bottom_up.stem.conv1.norm.running_var"),
        ("htd", "backbone.layer4.2.conv3.weight", "backbone.bottom_up.res5.2.conv3.weight"),
        ("htd", "backbone.layer1.0.downsample.0.weight", "backbone.bottom_up.res2.0.shortcut.weight"),
        ("htd", "backbone.layer2.0.downsample.1.bias", "backbone.bottom_up.res3.0.shortcut.norm.bias"),
        ("htd", "backbone.layer3.22.conv2.conv_offset.bias", "backbone.bottom_up.res4.22.conv2_offset.bias"),
        ("htd", "backbone.layer3.22.conv2_offset.bias", "backbone.bottom_up.res4.22.conv2_offset.bias"),
        ("htd", "neck.fpn_convs.3.conv.bias", "backbone.fpn_output5.bias"),
        ("htd", "rpn_head.rpn_reg.weight", "proposal_generator.rpn_head.anchor_deltas.weight"),
        ("htd", "roi_head.bbox_head.0.fc_reg.bias", "roi_heads.stages.0.head.bbox_pred.bias"),
        ("cascade_rcnn", "roi_head.bbox_head.2.shared_fcs.1.bias", "roi_heads.stages.2.head.fcs.1.bias"),
        ("faster_rcnn", "roi_head.bbox_head.fc_cls.weight", "roi_heads.stages.0.head.cls_score.weight"),
        ("mask_rcnn", "roi_head.mask_head.convs.2.conv.bias", "roi_heads.mask_branch.heads.0.convs.2.bias"),
        ("mask_rcnn", "roi_head.mask_head.upsample.weight", "roi_heads.mask_branch.heads.0.deconv.weight"),
        (
            "cascade_mask_rcnn",
            "roi_head.mask_head.2.conv_logits.bias",
            "roi_heads.mask_branch.heads.2.predictor.bias",
        ),
        ("htc", "roi_head.mask_head.1.conv_res.conv.bias", "roi_heads.mask_branch.flow.transforms.0.bias"),
        (
            "htc",
            "roi_head.mask_head.2.conv_res.conv.weight",
            "roi_heads.mask_branch.flow.transforms.1.weight",
        ),
        (
            "htc",
            "roi_head.semantic_head.lateral_convs.4.conv.bias",
            "roi_heads.context.semantic.laterals.4.bias",
        ),
        ("htc", "roi_head.semantic_head.convs.3.conv.bias", "roi_heads.context.semantic.convs.3.bias"),
        (
            "htc",
            "roi_head.semantic_head.conv_embedding.conv.bias",
            "roi_heads.context.semantic.embedding.bias",
        ),
        ("htc", "roi_head.semantic_head.conv_logits.bias", "roi_heads.context.semantic.predictor.bias"),
        ("faster_rcnn_mmdetection1", "bbox_head.fc_reg.bias", "roi_heads.stages.0.head.bbox_pred.bias"),
        ("retinanet", "neck.lateral_convs.2.conv.weight", "backbone.fpn_lateral5.weight"),
        ("retinanet", "neck.fpn_convs.4.conv.bias", "backbone.top_block.p7.bias"),
        ("retinanet", "bbox_head.cls_convs.3.conv.bias", "head.towers.classification.3.bias"),
        ("atss", "bbox_head.reg_convs.1.gn.weight", "head.towers.regression.1.norm.weight"),
        ("fcos", "bbox_head.conv_reg.weight", "head.predictors.bbox_pred.weight"),
        ("gfl", "bbox_head.scales.4.scale", "head.predictors.scales.4"),
        ("tood", "bbox_head.inter_convs.0.conv.conv_offset.bias", "head.towers.interactive.0.offset.bias"),
        ("tood", "bbox_head.inter_convs.1.conv_offset.weight", "head.towers.interactive.1.offset.weight"),
        ("tood", "bbox_head.cls_prob_conv2.bias", "head.predictors.score_map.2.bias"),
        ("gfl", "bbox_head.cls_convs.3.conv.conv_offset.bias", "head.towers.classification.3.offset.bias"),
        ("atss", "neck.lateral_convs.0.gn.bias", "backbone.fpn_lateral3.norm.bias"),
        ("tood", "neck.fpn_convs.3.gn.weight", "backbone.top_block.p6.norm.weight"),
        ("htd", "neck.fpn_convs.3.gn.weight", "backbone.fpn_output5.norm.weight"),
        ("salt", "backbone.layer2.0.downsample.1.bias", "backbone.bottom_up.res3.0.shortcut.norm.bias"),
    ],
)
def test_key_map(source, published, ours):
    assert FORMATS[source].place(published)[0] == ours


@pytest.mark.parametrize(
    ("source", "key"),
    [
        ("htd", "neck.fpn_convs.4.conv.bias"),
        ("htd", "backbone.layer5.0.conv1.weight"),
        ("htd", "rpn_head"),
        ("htc", "roi_head.mask_head.0.conv_res.conv.bias"),
        ("htc", "roi_head.mask_head.upsample.bias"),
        ("htc_without_semantic", "roi_head.semantic_head.conv_logits.bias"),
        ("cascade_mask_rcnn", "roi_head.mask_head.1.conv_res.conv.bias"),
        ("mask_rcnn", "roi_head.mask_head.0.upsample.bias"),
        ("tsd_faster", "mask_head.upsample.bias"),
        ("tsd_faster", "bbox_head.0.TSD_fc_cls.bias"),
        ("tsd_faster", "bbox_head.delta_c.1.bias"),
        ("tsd_cascade", "bbox_head.TSD_fc_cls.bias"),
        ("faster_rcnn_mmdetection1", "bbox_head.0.fc_cls.bias"),
        ("retinanet", "neck.fpn_convs.5.conv.bias"),
        ("retinanet", "bbox_head.conv_cls.bias"),
        ("atss", "bbox_head.conv_centerness.bias"),
        ("fcos", "rpn_head.rpn_cls.bias"),
        ("gfl", "bbox_head.scales.0"),
        ("tood", "bbox_head.cls_decomp.layer_attention.1.bias"),
        ("tood", "bbox_head.cls_decomp.la_conv3.bias"),
        ("tood", "bbox_head.cls_convs.0.conv.weight"),
        ("salt", "bbox_head.reg_conf.1.weight"),
        ("salt", "bbox_head.ram_cls_conv.conv.weight"),
        ("salt", "bbox_head.scales_init.0"),
        ("salt_atss", "bbox_head.salt_cls_conv.conv.weight"),
        ("salt_fcos", "bbox_head.atss_cls.weight"),
        ("salt_retinanet", "bbox_head.conv_centerness.weight"),
    ],
)
def test_no_rule_guesses(source, key):
    assert FORMATS[source].place(key) is None


@pytest.mark.parametrize(
    ("name", "added"),
    [
        ("faster_rcnn", []),
        ("cascade_rcnn", ["stages.1.head.fcs.0"]),
        ("mask_rcnn", ["mask_branch.heads.0.deconv"]),
        (
            "cascade_mask_rcnn",
            ["stages.1.head.fcs.0", "mask_branch.heads.0.deconv", "mask_branch.heads.1.deconv"],
        ),
        (
            "htc_without_semantic",
            ["stages.1.head.fcs.0", "mask_branch.heads.1.deconv", "mask_branch.flow.transforms.0"],
        ),
        ("htc", ["stages.1.head.fcs.0", "context.semantic.embedding"]),
        (
            "htc",
            ["mask_branch.heads.1.deconv", "mask_branch.flow.transforms.0", "context.semantic.embedding"],
        ),
        ("htd", ["stages.1.head.classification.cls_score", "mask_branch.heads.0.deconv"]),
        ("tsd_faster", ["stages.0.head.trunk"]),
        ("tsd_mask", ["stages.0.head.trunk", "mask_branch.heads.0.deconv"]),
        ("tsd_cascade", ["stages.0.head.trunk", "stages.1.head.trunk"]),
        ("tsd_cascade", ["stages.1.head.trunk", "stages.1.head.classification.cls_score"]),
    ],
)
def test_system_of_a_model(name, added):
    names = [f"roi_heads.{part}.weight" for part in ["stages.0.head.fcs.0", *added]]
    assert next(form.name for form in FORMATS.values() if form.owns(names)) == name


def test_formats_name_configs_that_exist():
    named = [config for form in FORMATS.values() for config in form.configs]
    assert len(set(named)) == len(named) == 47
    assert [config for config in named if not Path(config).is_file()] == []
