"""The key lists of SALT-Net, and of dense detectors with SALT, against the models of the configs."""

import pytest
import torch

from htd.checkpoint import convert
from htd.checkpoint.formats import FORMATS, choose
from htd.errors import UserError
from htd.modeling.salt import SALTOperator
from tests import recorded
from tests.checkpoint.salt_files import (
    PLUG_INS,
    R2_101_DCNX,
    R50,
    SALT_ATSS,
    SALT_NET,
    SALT_RETINANET,
    THREE_LAYERS,
    X101_DCNX,
    head_of,
    plug_in,
    salt_net,
)
from tests.checkpoint.test_dense_files import PROJECT
from tests.checkpoint.whole import convert_one_to_one, file_of, model_of

UNREAD = [f"bbox_head.scales.{level}.scale" for level in range(5)]
EXTRA_CLASS = FORMATS["salt"].overrides


@pytest.mark.parametrize("config", SALT_NET)
def test_every_config_takes_its_file_one_to_one(config):
    weights = salt_net(config)
    converted, report = convert_one_to_one(weights, config, [PROJECT])
    assert report.format == "salt"
    assert all(converted[ours].shape == weights[key].shape for key, ours in report.used.items())
    assert converted["head.predictors.cls_score.bias"].shape == (81,)


@pytest.mark.parametrize("config", PLUG_INS)
def test_detectors_with_salt(config):
    weights = plug_in(config)
    _, report = convert_one_to_one(weights, config, UNREAD if config == SALT_RETINANET else [])
    assert report.format == config.split("/")[1].partition("_r50")[0]


OPERATOR = {
    "reg_init_out.conv.bias": "coarse_conv.bias",
    "reg_init_out.bn.weight": "coarse_conv.norm.weight",
    "reg_init_out.regression.weight": "distances.weight",
    "reg_init_out.scale_fs.bias": "factors.bias",
    "{}_cls_refinement.conv.weight": "vector_conv.weight",
    "{}_cls_refinement.bn.bias": "vector_conv.norm.bias",
    "{}_cls_refinement.proposal.bias": "vectors.bias",
    "{}_reg_conv.conv.weight": "regression.weight",
    "{}_reg_conv.bn.bias": "regression.norm.bias",
    "{}_cls_conv.conv.weight": "classification.weight",
    "{}_cls_conv.bn.weight": "classification.norm.weight",
}
PLACES = {
    "neck.lateral_convs.2.conv.weight": "backbone.fpn_lateral5.weight",
    "neck.lateral_convs.0.gn.weight": "backbone.fpn_lateral3.norm.weight",
    "neck.fpn_convs.2.gn.bias": "backbone.fpn_output5.norm.bias",
    "neck.fpn_convs.3.conv.weight": "backbone.top_block.p6.weight",
    "neck.fpn_convs.4.gn.bias": "backbone.top_block.p7.norm.bias",
    "bbox_head.cls_convs.1.conv.weight": "head.towers.towers.classification.1.weight",
    "bbox_head.cls_convs.2.gn.weight": "head.towers.towers.classification.2.norm.weight",
    "bbox_head.reg_convs.2.conv.weight": "head.towers.towers.regression.2.weight",
    "bbox_head.reg_convs.2.conv.conv_offset.bias": "head.towers.towers.regression.2.offset.bias",
    "bbox_head.scales_init.3.scale": "head.towers.operator.scales.3",
    "bbox_head.salt_cls.weight": "head.predictors.cls_score.weight",
    "bbox_head.salt_reg.bias": "head.predictors.bbox_pred.bias",
    "bbox_head.reg_conf.0.weight": "head.predictors.quality.0.weight",
    "bbox_head.reg_conf.2.bias": "head.predictors.quality.2.bias",
    "bbox_head.scales.3.scale": "head.predictors.scales.3",
}
BODIES = {
    X101_DCNX: {
        "backbone.conv1.weight": "stem.conv1.weight",
        "backbone.layer2.0.bn1.bias": "res3.0.conv1.norm.bias",
        "backbone.layer2.0.downsample.1.bias": "res3.0.shortcut.norm.bias",
        "backbone.layer2.3.conv2.conv_offset.weight": "res3.3.conv2_offset.weight",
    },
    R2_101_DCNX: {
        "backbone.stem.4.running_var": "stem.4.running_var",
        "backbone.layer2.0.bn1.bias": "res3.0.bn1.bias",
        "backbone.layer2.0.downsample.1.weight": "res3.0.downsample.1.weight",
        "backbone.layer4.2.convs.1.conv_offset.bias": "res5.2.convs.1.offset.bias",
        "backbone.layer4.2.bns.2.weight": "res5.2.bns.2.weight",
    },
}


@pytest.mark.parametrize("config", BODIES)
def test_places(config):
    keys = recorded.manifest("salt", SALT_NET[config])["entries"]
    form = choose(keys)
    found = {key: form.place(key, keys)[0] for key in keys if key != PROJECT}
    assert len(set(found.values())) == len(found)
    assert {key: found[key] for key in PLACES} == PLACES
    body = BODIES[config]
    assert {key: found[key].removeprefix("backbone.bottom_up.") for key in body} == body


@pytest.mark.parametrize(
    ("keys", "prefix"),
    [(salt_net(R50), "salt"), *((head_of(config), "ram") for config in PLUG_INS)],
    ids=["salt_net", *PLUG_INS],
)
def test_places_of_the_operator(keys, prefix):
    form = choose(keys)
    for key, ours in OPERATOR.items():
        assert form.place(f"bbox_head.{key.format(prefix)}", keys)[0] == f"head.towers.operator.{ours}"


@pytest.mark.parametrize(("manifest", "config"), [("manifest_head", R50), ("manifest_head_dcnx", X101_DCNX)])
def test_head_alone(manifest, config):
    weights, head = file_of("salt", manifest), model_of(config, *EXTRA_CLASS).head
    converted, report = convert(weights, head)
    head.load_state_dict(converted, strict=True)
    assert set(report.used) == set(weights) - {PROJECT}
    assert report.ignored == {PROJECT: "the numbers 0, 1, 2, ... of the bins"}


@pytest.mark.parametrize("config", PLUG_INS)
def test_head_alone_of_detectors_with_salt(config):
    weights = head_of(config)
    head = model_of(config, *choose(weights).overrides, THREE_LAYERS).head
    converted, report = convert(weights, head)
    head.load_state_dict(converted, strict=True)
    assert set(report.used) | set(report.ignored) == set(weights)
    assert list(report.ignored) == (UNREAD if config == SALT_RETINANET else [])


def test_scalars_that_are_left_out_for_a_reason():
    form = FORMATS["salt_retinanet"]
    assert form.reason_to_ignore(UNREAD[0]) == "a scalar of each level that the published head never reads"
    assert not form.reason_to_ignore("bbox_head.scales_init.0.scale")


def test_operator_alone():
    weights = recorded.published_weights("salt", "manifest_operator")
    with torch.device("meta"):
        operator = SALTOperator(num_levels=1)
    converted, report = convert(weights, operator, source="salt")
    assert all(converted[ours].data_ptr() == weights[key].data_ptr() for key, ours in report.used.items())
    assert report.complete and set(converted) == set(operator.state_dict())


def test_values_arrive_unchanged():
    weights = recorded.published_weights("salt", "manifest_head_dcnx")
    converted, report = convert(weights, model_of(X101_DCNX, *EXTRA_CLASS).head)
    assert all(converted[ours].data_ptr() == weights[key].data_ptr() for key, ours in report.used.items())


def test_more_anchors_than_the_published_head_can_have_are_refused():
    weights = head_of(SALT_RETINANET) | {"bbox_head.retina_reg.bias": torch.zeros(36)}
    with pytest.raises(UserError, match="36 rows of boxes, which is not one anchor a cell"):
        convert(weights, model_of(SALT_RETINANET).head)


def test_marks_of_the_detector_do_not_hide_the_operator():
    """A key of the operator is enough, wherever it stands."""
    weights = head_of(SALT_ATSS)
    host = {key: value for key, value in weights.items() if "ram_" not in key}
    assert choose(host).name == "atss" and choose(weights).name == "salt_atss"
