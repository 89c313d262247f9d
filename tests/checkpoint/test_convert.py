"""The conversion itself, on a stand-in model of eleven parameters."""

import pytest
import torch

from htd.checkpoint import convert
from htd.checkpoint.formats import FORMATS, Format, Rule
from htd.checkpoint.formats.class_order import background_last
from htd.errors import UserError
from tests.checkpoint.tiny import ALIAS, NAMES, build, published

CLASSIFIER = "roi_heads.stages.0.head.cls_score"


def test_every_tensor_reaches_its_parameter_without_a_copy():
    weights, model = published(), build()
    converted, report = convert(weights, model)
    model.load_state_dict(converted, strict=True)
    for key, (ours, _) in NAMES.items():
        assert converted[ours].data_ptr() == weights[key].data_ptr()
        assert torch.equal(model.state_dict()[ours], weights[key])
    assert report.complete and report.format == "htd"
    assert report.used == {key: ours for key, (ours, _) in NAMES.items()}
    assert report.aliases == dict([ALIAS])
    assert "filled from the file: 11 of the model's 11 tensors" in str(report)


def test_model_may_be_on_the_meta_device():
    weights = published()
    converted, _ = convert(weights, build().to("meta"))
    assert torch.equal(converted[f"{CLASSIFIER}.bias"], weights["roi_head.bbox_head.0.fc_cls.bias"])


def test_wrapper_prefix_and_moving_averages_are_left_out():
    weights = {f"module.{key}": value for key, value in published().items()}
    weights["module.ema_backbone_conv1_weight"] = torch.zeros(1)
    _, report = convert(weights, build())
    assert list(report.ignored) == ["ema_backbone_conv1_weight"]
    assert "ignored: 1 (moving average kept for training)" in str(report)


def test_one_error_lists_everything_that_does_not_fit():
    weights = published()
    weights["roi_head.bbox_head.1.surprise"] = torch.zeros(1)
    weights["backbone.layer3.6.conv1.weight"] = torch.zeros(1)
    weights["neck.lateral_convs.1.conv.weight"] = torch.zeros(4, 9, 1, 1)
    weights[ALIAS[0]] += 1
    del weights["rpn_head.rpn_cls.bias"], weights["backbone.bn1.weight"]
    with pytest.raises(UserError) as caught:
        convert(weights, build())
    text = str(caught.value)
    for expected in (
        "in the file, not in the model (2):",
        "roi_head.bbox_head.1.surprise\n",
        "backbone.layer3.6.conv1.weight -> backbone.bottom_up.res4.6.conv1.weight",
        "in the model, not in the file (2):",
        "proposal_generator.rpn_head.objectness_logits.bias",
        "backbone.bottom_up.stem.conv1.norm.weight",
        "shapes differ (1):",
        "fpn_lateral3.weight: neck.lateral_convs.1.conv.weight has [4, 9, 1, 1], the model [4, 2, 1, 1]",
        "names of one tensor with different values (1):",
        f"attention.2.bias: {ALIAS[1]}, {ALIAS[0]}",
    ):
        assert expected in text


def test_without_strictness_the_rest_is_reported():
    weights = {key: value for key, value in published().items() if key.startswith("roi_head.")}
    weights["roi_head.bbox_head.1.surprise"] = torch.zeros(1)
    converted, report = convert(weights, build(), strict=False)
    assert sorted(converted) == sorted(o for k, (o, _) in NAMES.items() if k.startswith("roi_head."))
    assert report.unmatched == {"roi_head.bbox_head.1.surprise": None}
    assert sorted(report.missing) == sorted(o for k, (o, _) in NAMES.items() if not k.startswith("roi_head."))
    assert "in the model, not in the file: 6 (backbone.bottom_up 4, backbone.fpn_lateral3 1" in str(report)


@pytest.mark.parametrize(
    "part", ["roi_heads", "roi_heads.stages.0.head", "roi_heads.stages.1.head.regression"]
)
def test_part_of_a_detector_alone(part):
    inside = {key: ours for key, (ours, _) in NAMES.items() if ours.startswith(f"{part}.")}
    weights = {key: value for key, value in published().items() if key in inside}
    module = build().get_submodule(part)
    converted, _ = convert(weights, module, source="htd")
    module.load_state_dict(converted, strict=True)
    assert {f"{part}.{name}" for name in converted} == set(inside.values())


@pytest.mark.parametrize("order", [list, reversed])
def test_differing_names_of_one_tensor(order):
    weights = published()
    second, first = ALIAS
    weights[second] = weights[first] + 1
    weights = {key: weights[key] for key in order(list(weights))}
    converted, report = convert(weights, build(), strict=False)
    assert torch.equal(converted[NAMES[first][0]], weights[first])
    assert report.conflicts == {NAMES[first][0]: [first, second]} and not report.complete


def test_alias_alone_fills_the_parameter():
    weights = published()
    second, first = ALIAS
    value = weights.pop(first)
    converted, report = convert(weights, build())
    assert torch.equal(converted[NAMES[first][0]], value) and report.used[second] == NAMES[first][0]


def test_batch_counters_may_lack_on_either_side():
    weights, model = published(), build()
    counter = weights.pop("backbone.bn1.num_batches_tracked")
    converted, report = convert(weights, model)
    model.load_state_dict(converted, strict=True)
    assert report.counters == ["backbone.bottom_up.stem.conv1.norm.num_batches_tracked"]

    del model.backbone.bottom_up.stem.conv1.norm.num_batches_tracked
    converted, report = convert({**weights, "backbone.bn1.num_batches_tracked": counter}, model)
    model.load_state_dict(converted, strict=True)
    assert list(report.ignored) == ["backbone.bn1.num_batches_tracked"]


class TestNew:
    """Parts that may begin anew."""

    def test_absent_part_gets_the_values_of_the_model(self):
        weights, model = published(), build()
        del weights["rpn_head.rpn_cls.bias"]
        converted, report = convert(weights, model, new=["proposal_generator."])
        model.load_state_dict(converted, strict=True)
        assert report.new == ["proposal_generator.rpn_head.objectness_logits.bias"]
        assert torch.equal(converted[report.new[0]], torch.full((3,), -1.0))

    def test_other_class_count(self):
        model = build(rows=8)
        with pytest.raises(UserError) as caught:
            convert(published(), model)
        assert "classifier has 3 rows in the file and 8 in the model" in str(caught.value)
        assert f"as new: {CLASSIFIER}." in str(caught.value)
        converted, report = convert(published(), model, new=[CLASSIFIER])
        model.load_state_dict(converted, strict=True)
        assert report.new == [f"{CLASSIFIER}.weight", f"{CLASSIFIER}.bias"]
        assert "begin anew: 2 (roi_heads.stages 2)" in str(report)

    def test_what_fits_is_still_taken(self):
        weights = published()
        converted, report = convert(weights, build(), new=[CLASSIFIER])
        assert torch.equal(converted[f"{CLASSIFIER}.bias"], weights["roi_head.bbox_head.0.fc_cls.bias"])
        assert report.new == []

    def test_values_on_the_meta_device_stay_out(self):
        weights = published()
        del weights["rpn_head.rpn_cls.bias"]
        converted, report = convert(weights, build().to("meta"), new=["proposal_generator"])
        assert report.new[0] not in converted and report.complete

    @pytest.mark.parametrize("new", [["roi_heads.mask_head"], "roi_heads"])
    def test_prefix_without_a_parameter_is_an_error(self, new):
        with pytest.raises(UserError, match="roi_heads"):
            convert(published(), build(), new=new)


def test_values_that_need_another_layout(monkeypatch):
    rule = Rule(r"cls\.weight", f"{CLASSIFIER}.weight", transform=background_last)
    form = Format("toy", "Toy", ("^cls",), (rule,), ignored=(), model_marks=(), configs=(), convention=None)
    monkeypatch.setitem(FORMATS, "toy", form)
    rows = torch.arange(15.0).view(3, 5)
    converted, _ = convert({"cls.weight": rows}, build(), source="toy", strict=False)
    assert torch.equal(converted[f"{CLASSIFIER}.weight"], rows[[1, 2, 0]])
    _, report = convert({"cls.weight": torch.tensor(1.0)}, build(), source="toy", strict=False)
    assert report.mismatched == {f"{CLASSIFIER}.weight": ("cls.weight", (), (3, 5))}


def test_value_that_is_no_tensor():
    with pytest.raises(UserError, match="no tensors: roi_head.bbox_head.0.fc_cls.bias"):
        convert({**published(), "roi_head.bbox_head.0.fc_cls.bias": "text"}, build())
