"""The key lists of the published HTC and baseline files against the models of the configs."""

import copy
import re

import pytest
import torch

from htd.checkpoint import convert
from htd.checkpoint.formats import COUNTER
from htd.errors import UserError
from tests import recorded
from tests.checkpoint import whole
from tests.checkpoint.whole import convert_one_to_one, model_of

CONFIGS = {
    "baselines/faster_rcnn_r50_fpn_1x": "faster_rcnn_r50",
    "baselines/mask_rcnn_r50_fpn_1x": "mask_rcnn_r50",
    "baselines/cascade_rcnn_r50_fpn_1x": "cascade_rcnn_r50",
    "baselines/cascade_rcnn_r50_fpn_20e": "cascade_rcnn_r50",
    "baselines/cascade_mask_rcnn_r50_fpn_1x": "cascade_mask_rcnn_r50",
    "baselines/cascade_mask_rcnn_r50_fpn_20e": "cascade_mask_rcnn_r50",
    "htc/htc_without_semantic_r50_fpn_1x": "htc_without_semantic_r50",
    "htc/htc_r50_fpn_1x": "htc_r50",
    "htc/htc_r50_fpn_20e": "htc_r50",
    "htc/htc_r101_fpn_20e": "htc_r101",
    "htc/htc_x101_32x4d_fpn_20e": "htc_x101_32x4d",
    "htc/htc_x101_64x4d_fpn_20e": "htc_x101_64x4d",
    "htc/htc_x101_64x4d_fpn_dcn_20e_ms": "htc_x101_64x4d_dcn",
}
MANIFESTS = sorted(set(CONFIGS.values()))


def file_of(manifest):
    return whole.file_of("htc", manifest)


@pytest.mark.parametrize(("config", "manifest"), CONFIGS.items())
def test_every_config_takes_its_file_one_to_one(config, manifest):
    weights = file_of(manifest)
    converted, report = convert_one_to_one(weights, config)
    for key, ours in report.used.items():
        assert converted[ours].shape == weights[key].shape
    assert re.fullmatch(f"{report.format}_[rx].*", manifest)


PLACES = {
    "backbone.layer2.0.downsample.0.weight": "backbone.bottom_up.res3.0.shortcut.weight",
    "rpn_head.rpn_reg.bias": "proposal_generator.rpn_head.anchor_deltas.bias",
    "roi_head.bbox_head.0.shared_fcs.0.weight": "roi_heads.stages.0.head.fcs.0.weight",
    "roi_head.bbox_head.1.fc_cls.bias": "roi_heads.stages.1.head.cls_score.bias",
    "roi_head.bbox_head.2.fc_reg.weight": "roi_heads.stages.2.head.bbox_pred.weight",
    "roi_head.mask_head.0.convs.0.conv.weight": "roi_heads.mask_branch.heads.0.convs.0.weight",
    "roi_head.mask_head.1.convs.3.conv.bias": "roi_heads.mask_branch.heads.1.convs.3.bias",
    "roi_head.mask_head.1.conv_res.conv.weight": "roi_heads.mask_branch.flow.transforms.0.weight",
    "roi_head.mask_head.2.conv_res.conv.bias": "roi_heads.mask_branch.flow.transforms.1.bias",
    "roi_head.mask_head.2.upsample.weight": "roi_heads.mask_branch.heads.2.deconv.weight",
    "roi_head.mask_head.2.conv_logits.bias": "roi_heads.mask_branch.heads.2.predictor.bias",
    "roi_head.semantic_head.lateral_convs.0.conv.weight": "roi_heads.context.semantic.laterals.0.weight",
    "roi_head.semantic_head.lateral_convs.4.conv.bias": "roi_heads.context.semantic.laterals.4.bias",
    "roi_head.semantic_head.convs.3.conv.weight": "roi_heads.context.semantic.convs.3.weight",
    "roi_head.semantic_head.conv_embedding.conv.weight": "roi_heads.context.semantic.embedding.weight",
    "roi_head.semantic_head.conv_logits.weight": "roi_heads.context.semantic.predictor.weight",
}
SINGLE_STAGE_PLACES = {
    "roi_head.bbox_head.fc_reg.weight": "roi_heads.stages.0.head.bbox_pred.weight",
    "roi_head.bbox_head.shared_fcs.1.bias": "roi_heads.stages.0.head.fcs.1.bias",
    "roi_head.mask_head.convs.3.conv.weight": "roi_heads.mask_branch.heads.0.convs.3.weight",
    "roi_head.mask_head.upsample.bias": "roi_heads.mask_branch.heads.0.deconv.bias",
    "roi_head.mask_head.conv_logits.weight": "roi_heads.mask_branch.heads.0.predictor.weight",
}


@pytest.mark.parametrize(
    ("config", "manifest", "places"),
    [
        ("htc/htc_r50_fpn_1x", "htc_r50", PLACES),
        ("baselines/mask_rcnn_r50_fpn_1x", "mask_rcnn_r50", SINGLE_STAGE_PLACES),
    ],
)
def test_values_arrive_unchanged(config, manifest, places):
    weights = recorded.published_weights("htc", manifest)
    model = copy.deepcopy(model_of(config)).to_empty(device="cpu")
    converted, report = convert(weights, model)
    model.load_state_dict(converted, strict=True)
    state = model.state_dict()
    assert all(torch.equal(state[ours], weights[key]) for key, ours in report.used.items())
    assert {key: report.used[key] for key in places} == places


@pytest.mark.parametrize("prefix", ["", "module."])
def test_other_spellings_of_one_file(prefix):
    """A parallel wrapper's prefix, offsets as old files write them, averages, and no counters."""
    weights = {
        prefix + key.replace("conv2.conv_offset", "conv2_offset"): value
        for key, value in file_of("htc_x101_64x4d_dcn").items()
        if not key.endswith(COUNTER)
    }
    assert sum("conv2_offset" in key for key in weights) == 60
    weights[f"{prefix}ema_roi_head_mask_head_0_upsample_weight"] = torch.zeros(1, device="meta")
    model = model_of("htc/htc_x101_64x4d_fpn_dcn_20e_ms")
    converted, report = convert(weights, model)
    assert {name: value.shape for name, value in converted.items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }
    assert list(report.ignored.values()) == ["moving average kept for training"]
    assert all(name.endswith(COUNTER) for name in report.counters)


@pytest.mark.parametrize("manifest", [name for name in MANIFESTS if name != "faster_rcnn_r50"])
def test_files_of_2019_are_refused_with_the_reason(manifest):
    weights = {
        key.removeprefix("roi_head.").replace("conv2.conv_offset", "conv2_offset"): value
        for key, value in file_of(manifest).items()
    }
    with pytest.raises(
        UserError, match="MMDetection 1: .*one pixel wider.*RoIAlign.*background is the first"
    ):
        convert(weights, model_of("baselines/faster_rcnn_r50_fpn_1x"))
