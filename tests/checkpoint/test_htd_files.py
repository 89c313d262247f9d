"""The key lists of the published HTD files against the models of the configs, on the meta device."""

import pytest

from htd.checkpoint import convert
from htd.errors import UserError
from tests import recorded
from tests.checkpoint import whole
from tests.checkpoint.whole import build, model_of

CONFIGS = {
    "htd/htd_r50_fpn_1x": "manifest_r50",
    "htd/htd_r101_fpn_2x": "manifest_r101",
    "htd/htd_r101_fpn_2x_ms": "manifest_r101",
    "htd/htd_r101_fpn_dcn_2x_ms": "manifest_r101_dcn",
    "htd/htd_x101_64x4d_fpn_dcn_2x_ms": "manifest_x101_64x4d_dcn",
}


def file_of(manifest, device="meta"):
    return whole.file_of("htd", manifest, device)


@pytest.mark.parametrize(("config", "manifest"), CONFIGS.items())
def test_every_config_takes_its_file_one_to_one(config, manifest):
    weights, model = file_of(manifest), model_of(config)
    converted, report = convert(weights, model)
    model.load_state_dict(converted, strict=True)
    aliases = recorded.manifest("htd", manifest)["alias"]
    assert report.complete and not report.ignored and not report.counters and not report.new
    assert report.aliases == aliases
    assert set(report.used) == set(weights) - set(aliases)
    assert set(converted) == set(model.state_dict())
    for key, ours in report.used.items():
        assert converted[ours].shape == weights[key].shape


def test_values_are_those_of_the_file():
    weights, model = file_of("manifest_r50", device="cpu"), model_of("htd/htd_r50_fpn_1x")
    for second, first in recorded.manifest("htd", "manifest_r50")["alias"].items():
        weights[second] = weights[first]
    converted, report = convert(weights, model)
    for key, ours in report.used.items():
        assert converted[ours].data_ptr() == weights[key].data_ptr()


HEAD_PLACES = {
    "glbctx_head.convs.3.conv.weight": "context.global_vector.convs.3.weight",
    "glbctx_head.fc.bias": "context.global_vector.fc.bias",
    "bbox_head.0.shared_fcs.1.weight": "stages.0.head.fcs.1.weight",
    "bbox_head.0.fc_cls.bias": "stages.0.head.cls_score.bias",
    "bbox_head.0.fc_reg.weight": "stages.0.head.bbox_pred.weight",
    "bbox_head.1.fcs.0.weight": "stages.1.head.classification.fcs.0.weight",
    "bbox_head.1.fcs.2.bias": "stages.1.head.classification.fcs.1.bias",
    "bbox_head.1.graph_lvl2_cls.weight": "stages.1.head.classification.graph.transforms.2.weight",
    "bbox_head.1.fc_cls.weight": "stages.1.head.classification.cls_score.weight",
    "bbox_head.1.convs.0.conv.weight": "stages.1.head.regression.tower.0.weight",
    "bbox_head.1.convs.2.gn.bias": "stages.1.head.regression.tower.2.norm.bias",
    "bbox_head.1.fc_reg.bias": "stages.1.head.regression.bbox_pred.bias",
    "bbox_roi_extractor.1.att.1.weight": "stages.1.head.regression.features.terms.0.attention.0.weight",
    "bbox_roi_extractor.1.att.3.bias": "stages.1.head.regression.features.terms.0.attention.2.bias",
}


def test_heads_alone():
    weights = {key: value for key, value in file_of("manifest_r50").items() if key.startswith("roi_head.")}
    heads = model_of("htd/htd_r50_fpn_1x").roi_heads
    converted, report = convert(weights, heads)
    heads.load_state_dict(converted, strict=True)
    for published, ours in HEAD_PLACES.items():
        assert report.used[f"roi_head.{published}"] == ours


def test_backbone_alone():
    weights = {
        key: value for key, value in file_of("manifest_r101_dcn").items() if key.startswith("backbone.")
    }
    bottom_up = model_of("htd/htd_r101_fpn_dcn_2x_ms").backbone.bottom_up
    converted, report = convert(weights, bottom_up)
    bottom_up.load_state_dict(converted, strict=True)
    assert report.format == "body"


@pytest.mark.parametrize(
    ("config", "manifest", "hint"),
    [
        ("htd/htd_r50_fpn_1x", "manifest_r101", "has a ResNet-101, the model a ResNet-50; .*/htd_r101_fpn_"),
        ("htd/htd_r101_fpn_2x", "manifest_r50", "has a ResNet-50, the model a ResNet-101; .*/htd_r50_fpn_"),
        (
            "htd/htd_r101_fpn_2x",
            "manifest_r101_dcn",
            "has a ResNet-101 with deformable layers in res3, .*/htd_r101_fpn_dcn_",
        ),
        (
            "htd/htd_r101_fpn_dcn_2x_ms",
            "manifest_x101_64x4d_dcn",
            "has a ResNeXt-101 64x4d with deformable layers in res3, .*/htd_x101_64x4d_fpn_dcn_",
        ),
    ],
)
def test_wrong_backbone_is_named(config, manifest, hint):
    with pytest.raises(UserError, match=hint):
        convert(file_of(manifest), model_of(config))


def test_wrong_backbone_lists_every_tensor():
    weights, model = file_of("manifest_r101"), model_of("htd/htd_r50_fpn_1x")
    with pytest.raises(UserError) as caught:
        convert(weights, model)
    left_over = set(weights) - set(recorded.manifest("htd", "manifest_r50")["entries"])
    assert len(left_over) == 306 and "in the file, not in the model (306):" in str(caught.value)
    assert all(f"    {key} -> " in str(caught.value) for key in left_over)


def test_wrong_class_count_names_the_parts():
    weights, model = file_of("manifest_r50"), build("htd/htd_r50_fpn_1x", "model.roi_heads.num_classes=3")
    with pytest.raises(UserError, match="81 rows in the file and 4 in the model") as caught:
        convert(weights, model)
    parts = str(caught.value).partition("as new: ")[2].partition(".\n")[0].split()
    assert len(parts) == 3
    _, report = convert(weights, model, new=parts)
    assert report.complete and len(report.new) == 6
