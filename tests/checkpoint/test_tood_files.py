"""The key lists of the published TOOD files, of both releases, against the models of the configs."""

import pytest
import torch

from htd.checkpoint import convert
from htd.checkpoint.formats import FORMATS, choose
from htd.errors import UserError
from tests import recorded
from tests.checkpoint import whole
from tests.checkpoint.whole import convert_one_to_one, model_of

R50, ANCHOR_BASED = "tood/tood_r50_fpn_1x", "tood/tood_r50_fpn_anchor_based_1x"
R101_DCN = "tood/tood_r101_fpn_dcnv2_2x_ms"
DCN_FILE = "tood_r101_dcnv2_c3c5_fpn_ms2x"
CONFIGS = {
    R50: "tood_r50_fpn_1x",
    "tood/tood_r50_fpn_2x_ms": "tood_r50_fpn_1x",
    ANCHOR_BASED: "tood_r50_fpn_anchor_based_1x",
    "tood/tood_r101_fpn_2x_ms": "tood_r101_fpn_ms2x",
    R101_DCN: DCN_FILE,
    "tood/tood_x101_64x4d_fpn_2x_ms": "tood_x101_64x4d_fpn_ms2x",
    "tood/tood_x101_64x4d_fpn_dcnv2_2x_ms": "tood_x101_64x4d_dcnv2_c4c5_fpn_ms2x",
}
AUTHORS = {R50: "author_keys_tood_r50_fpn_1x", R101_DCN: f"author_keys_{DCN_FILE}"}
# Modules of the authors' release -> those of MMDetection.
SPELLING = {
    "cls_decomp.la_conv1": "cls_decomp.layer_attention.0",
    "cls_decomp.la_conv2": "cls_decomp.layer_attention.2",
    "reg_decomp.la_conv1": "reg_decomp.layer_attention.0",
    "reg_decomp.la_conv2": "reg_decomp.layer_attention.2",
    "cls_prob_conv1": "cls_prob_module.0",
    "cls_prob_conv2": "cls_prob_module.2",
    "reg_offset_conv1": "reg_offset_module.0",
    "reg_offset_conv2": "reg_offset_module.2",
}


def file_of(manifest, device="meta"):
    return whole.file_of("tood", manifest, device)


@pytest.mark.parametrize(("config", "manifest"), [*CONFIGS.items(), *AUTHORS.items()])
def test_every_config_takes_its_file_one_to_one(config, manifest):
    weights = file_of(manifest)
    converted, report = convert_one_to_one(weights, config)
    assert report.format == "tood"
    assert all(converted[ours].shape == weights[key].shape for key, ours in report.used.items())


PLACES = {
    "backbone.conv1.weight": "backbone.bottom_up.stem.conv1.weight",
    "backbone.layer3.22.conv2.conv_offset.bias": "backbone.bottom_up.res4.22.conv2_offset.bias",
    "neck.lateral_convs.0.conv.weight": "backbone.fpn_lateral3.weight",
    "neck.fpn_convs.2.conv.bias": "backbone.fpn_output5.bias",
    "neck.fpn_convs.3.conv.weight": "backbone.top_block.p6.weight",
    "neck.fpn_convs.4.conv.bias": "backbone.top_block.p7.bias",
    "bbox_head.inter_convs.0.conv.weight": "head.towers.interactive.0.weight",
    "bbox_head.inter_convs.1.conv.conv_offset.weight": "head.towers.interactive.1.offset.weight",
    "bbox_head.inter_convs.5.gn.bias": "head.towers.interactive.5.norm.bias",
    "bbox_head.cls_decomp.layer_attention.0.weight": "head.towers.classification.attention.0.weight",
    "bbox_head.reg_decomp.layer_attention.2.bias": "head.towers.regression.attention.2.bias",
    "bbox_head.cls_decomp.reduction_conv.conv.weight": "head.towers.classification.reduction.weight",
    "bbox_head.reg_decomp.reduction_conv.gn.weight": "head.towers.regression.reduction.norm.weight",
    "bbox_head.tood_cls.weight": "head.predictors.cls_score.weight",
    "bbox_head.tood_reg.bias": "head.predictors.bbox_pred.bias",
    "bbox_head.cls_prob_module.0.weight": "head.predictors.score_map.0.weight",
    "bbox_head.reg_offset_module.2.bias": "head.predictors.box_offsets.2.bias",
    "bbox_head.scales.3.scale": "head.predictors.scales.3",
}


def test_places():
    keys = recorded.manifest("tood", DCN_FILE)["entries"]
    form = choose(keys)
    found = {key: form.place(key, keys)[0] for key in keys}
    assert len(set(found.values())) == len(found)
    assert {key: found[key] for key in PLACES} == PLACES


@pytest.mark.parametrize(("config", "manifest"), AUTHORS.items())
def test_authors_names_lead_where_those_of_mmdetection_do(config, manifest):
    theirs = recorded.manifest("tood", manifest)["entries"]
    openmmlab = recorded.manifest("tood", CONFIGS[config])["entries"]
    form, respelt = FORMATS["tood"], set()
    for key in theirs:
        module = next((name for name in SPELLING if f".{name}." in key), None)
        other = key.replace(module, SPELLING[module]) if module else key
        respelt |= {module} - {None}
        assert other in openmmlab and form.place(key)[0] == form.place(other)[0]
    assert len(theirs) == len(openmmlab) and respelt == set(SPELLING)


def test_a_file_with_both_spellings_has_to_agree():
    weights = recorded.published_weights("tood", "head_tood", "bbox_head.cls_prob_module")
    second = {key.replace("module.0", "conv1").replace("module.2", "conv2"): v for key, v in weights.items()}
    tood = {"bbox_head.tood_cls.bias": torch.zeros(80)}
    part = torch.nn.Sequential(torch.nn.Conv2d(1536, 64, 1), torch.nn.ReLU(), torch.nn.Conv2d(64, 1, 3))
    _, report = convert(weights | second | tood, part, source="tood", strict=False)
    assert len(report.used) == len(report.aliases) == 4 and not report.conflicts
    second["bbox_head.cls_prob_conv1.bias"] = torch.zeros(64)
    with pytest.raises(UserError, match="names of one tensor with different values .1"):
        convert(weights | second, part, source="tood")


@pytest.mark.parametrize("manifest", [DCN_FILE, f"author_keys_{DCN_FILE}"])
def test_deformable_layers_as_old_files_write_them(manifest):
    weights = file_of(manifest)
    old = {}
    for key, value in weights.items():
        key = key.replace(".conv2.conv_offset", ".conv2_offset").replace(".conv.conv_offset", ".conv_offset")
        old[f"module.{key}"] = value
    assert sum("conv2_offset" in key for key in old) == 60
    assert sum("convs." in key and ".conv_offset." in key for key in old) == 4
    assert convert(old, model_of(R101_DCN))[1].complete


@pytest.mark.parametrize(
    ("manifest", "config"),
    [("head_tood", R50), ("head_tood", ANCHOR_BASED), ("head_tood_dcn2", R101_DCN)],
)
def test_head_alone(manifest, config):
    weights, head = file_of(manifest), model_of(config).head
    converted, report = convert(weights, head)
    head.load_state_dict(converted, strict=True)
    assert set(report.used) == set(weights)
    predictors = {k: v for k, v in weights.items() if "convs" not in k and "decomp" not in k}
    converted, _ = convert(predictors, head.predictors)
    head.predictors.load_state_dict(converted, strict=True)


def test_values_arrive_unchanged():
    weights = recorded.published_weights("tood", "head_tood_dcn2")
    converted, report = convert(weights, model_of(R101_DCN).head)
    assert all(converted[ours].data_ptr() == weights[key].data_ptr() for key, ours in report.used.items())


def test_kind_of_boxes_shows_neither_in_names_nor_in_shapes():
    free, based = (recorded.manifest("tood", CONFIGS[config])["entries"] for config in (R50, ANCHOR_BASED))
    assert free == based
