"""The key lists of published RetinaNet, FCOS, ATSS and GFL files against the models of the configs."""

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from torch.nn.functional import conv2d

from htd.checkpoint import convert
from htd.checkpoint.formats import FORMATS, choose
from htd.errors import UserError
from htd.modeling.dense import DenseHead, Predictors, TwinTowers, Unscaled
from tests import recorded
from tests.checkpoint.whole import convert_one_to_one, file_of, model_of

RETINANET, FCOS = "baselines/retinanet_r50_fpn_1x", "baselines/fcos_r50_fpn_1x"
ATSS, GFL = "baselines/atss_r50_fpn_1x", "baselines/gfl_r50_fpn_1x"
PROJECT = "bbox_head.integral.project"


def shapes(towers, layers, scales):
    """Return what a published head of two towers of four convolutions holds."""
    convs = [f"{task}_convs.{layer}" for task in ("cls", "reg") for layer in range(4)]
    found = {f"{conv}.conv.weight": (256, 256, 3, 3) for conv in convs}
    found |= {f"{conv}.{leaf}": (256,) for conv in convs for leaf in towers}
    for name, rows in layers.items():
        found |= {f"{name}.weight": (rows, 256, 3, 3), f"{name}.bias": (rows,)}
    return found | {f"scales.{level}.scale": () for level in range(scales)}


HEADS = {
    "retinanet": shapes(["conv.bias"], {"retina_cls": 720, "retina_reg": 36}, scales=0),
    "fcos": shapes(["gn.weight", "gn.bias"], {"conv_cls": 80, "conv_reg": 4, "conv_centerness": 1}, scales=5),
}


def body():
    """Return the backbone and the neck that all published dense detectors on ResNet-50 have."""
    weights = file_of("tood", "atss_r50_fpn_1x")
    return {key: value for key, value in weights.items() if not key.startswith("bbox_head.")}


def published_head(name, device="meta"):
    return {f"bbox_head.{key}": torch.zeros(shape, device=device) for key, shape in HEADS[name].items()}


def whole_file(config):
    """Return the file of a config: a recorded key list, or one by hand."""
    if config == ATSS:
        return file_of("tood", "atss_r50_fpn_1x")
    if config == GFL:
        return file_of("salt", "manifest_gfl_r50_fpn_1x")
    p6 = "neck.fpn_convs.3.conv.weight"
    from_c5 = {p6: torch.zeros(256, 2048, 3, 3, device="meta")} if config == RETINANET else {}
    return body() | from_c5 | published_head("retinanet" if config == RETINANET else "fcos")


@pytest.mark.parametrize("config", [RETINANET, FCOS, ATSS, GFL])
def test_every_config_takes_its_file_one_to_one(config):
    _, report = convert_one_to_one(whole_file(config), config, [PROJECT] if config == GFL else [])
    assert report.format == config.split("/")[1].split("_")[0]


TOWERS = {
    "cls_convs.0.conv.weight": "towers.classification.0.weight",
    "reg_convs.3.conv.weight": "towers.regression.3.weight",
}
NORMS = {
    "cls_convs.2.gn.weight": "towers.classification.2.norm.weight",
    "reg_convs.0.gn.bias": "towers.regression.0.norm.bias",
    "scales.0.scale": "predictors.scales.0",
    "scales.4.scale": "predictors.scales.4",
}
PREDICTORS = {
    "{}_cls.weight": "predictors.cls_score.weight",
    "{}_cls.bias": "predictors.cls_score.bias",
    "{}_reg.weight": "predictors.bbox_pred.weight",
    "{}_reg.bias": "predictors.bbox_pred.bias",
}
CENTERNESS = {"{}_centerness.weight": "predictors.centerness.weight"}


@pytest.mark.parametrize(
    ("config", "published", "places"),
    [
        (RETINANET, "retina", TOWERS | PREDICTORS | {"reg_convs.1.conv.bias": "towers.regression.1.bias"}),
        (FCOS, "conv", TOWERS | NORMS | PREDICTORS | CENTERNESS),
        (ATSS, "atss", TOWERS | NORMS | PREDICTORS | CENTERNESS),
        (GFL, "gfl", TOWERS | NORMS | PREDICTORS),
    ],
)
def test_places(config, published, places):
    keys = whole_file(config)
    form = choose(keys)
    found = {key: form.place(key, keys)[0] for key in keys if key != PROJECT}
    assert len(set(found.values())) == len(found)
    for key, ours in places.items():
        assert found[f"bbox_head.{key.format(published)}"] == f"head.{ours}"


@pytest.mark.parametrize(
    ("weights", "config"),
    [
        (published_head("retinanet"), RETINANET),
        (published_head("fcos"), FCOS),
        (file_of("tood", "head_atss"), ATSS),
        (file_of("salt", "manifest_gfl_head"), GFL),
    ],
    ids=["retinanet", "fcos", "atss", "gfl"],
)
def test_head_alone(weights, config):
    head = model_of(config).head
    converted, report = convert(weights, head)
    head.load_state_dict(converted, strict=True)
    assert set(report.used) | set(report.ignored) == set(weights) and set(report.ignored) <= {PROJECT}


def test_bins_of_gfl_are_left_out_for_a_reason():
    _, report = convert(file_of("salt", "manifest_gfl_head"), model_of(GFL).head)
    assert report.ignored == {PROJECT: "the numbers 0, 1, 2, ... of the bins"}


@pytest.fixture(scope="module")
def narrow_weights():
    """A narrow published RetinaNet head for K = 2 classes, drawn at random."""
    torch.manual_seed(0)
    rows = {"retina_cls": 18, "retina_reg": 36}
    names = {f"{task}_convs.0.conv": 8 for task in ("cls", "reg")} | rows
    return {
        f"bbox_head.{name}.{leaf}": torch.randn(shape)
        for name, count in names.items()
        for leaf, shape in {"weight": (count, 8, 3, 3), "bias": (count,)}.items()
    }


@pytest.fixture(scope="module")
def narrow_head(narrow_weights):
    """Our head with its weights."""
    predictors = Predictors(num_classes=2, channels=8, num_anchors=9, num_levels=0, box_rule=Unscaled())
    head = DenseHead(towers=TwinTowers(channels=8, num_convs=1, num_groups=None), predictors=predictors)
    head.load_state_dict(convert(narrow_weights, head)[0], strict=True)
    return head


class TestAnchorsOfRetinaNet:
    """Published anchor 3 * ratio + size becomes ours, 3 * size + ratio."""

    # Published number of the anchor that stands at each of our places.
    ORDER = (0, 3, 6, 1, 4, 7, 2, 5, 8)

    def test_rows_by_hand(self):
        rows = torch.arange(9).repeat_interleave(4)  # each the number of its anchor
        form = FORMATS["retinanet"]
        for key in ("bbox_head.retina_cls.bias", "bbox_head.retina_reg.bias"):
            moved = form.place(key)[1].in_our_layout(rows)
            assert moved.view(9, 4)[:, 0].tolist() == list(self.ORDER)
            assert (moved.view(9, 4) == moved.view(9, 4)[:, :1]).all()
        classes = form.place("bbox_head.retina_cls.bias")[1].in_our_layout(torch.arange(18))
        assert classes[:6].tolist() == [0, 1, 6, 7, 12, 13]  # both classes of anchors 0, 3, 6, in order

    def test_order_is_that_of_the_anchors(self):
        """Each of our anchors has the shape of the published one whose rows it gets."""
        generator = LazyConfig.load(f"configs/{RETINANET}.py").model.anchor_generator
        own = next(iter(instantiate(generator).cell_anchors))
        areas = [(32 * 2 ** (size / 3)) ** 2 for size in range(3)]
        sides = [((a / r) ** 0.5, (a * r) ** 0.5) for r in (0.5, 1.0, 2.0) for a in areas]  # published
        found = own[:, 2:] - own[:, :2]
        torch.testing.assert_close(found, torch.tensor([sides[i] for i in self.ORDER]), atol=1e-3, rtol=0)

    def test_predictions_of_an_anchor_stay_its_own(self, narrow_weights, narrow_head):
        torch.manual_seed(1)
        features = torch.randn(2, 8, 3, 4)
        weights, found = narrow_weights, narrow_head([features])
        for task, ours, columns in (("cls", found.logits, 2), ("reg", found.regression, 4)):
            tower = [weights[f"bbox_head.{task}_convs.0.conv.{leaf}"] for leaf in ("weight", "bias")]
            last = [weights[f"bbox_head.retina_{task}.{leaf}"] for leaf in ("weight", "bias")]
            maps = conv2d(conv2d(features, *tower, padding=1).relu(), *last, padding=1)
            published = maps.view(2, 9, columns, 12).permute(0, 3, 1, 2)  # image, cell, anchor, column
            torch.testing.assert_close(ours.view(2, 12, 9, columns), published[:, :, list(self.ORDER)])

    def test_nothing_else_moves(self, narrow_weights, narrow_head):
        weights = narrow_weights
        converted, report = convert(weights, narrow_head)
        same = {k for k, ours in report.used.items() if converted[ours].data_ptr() == weights[k].data_ptr()}
        assert {key.split(".")[1] for key in set(weights) - same} == {"retina_cls", "retina_reg"}
        assert {key.split(".")[1] for key in same} == {"cls_convs", "reg_convs"}

    @pytest.mark.parametrize(
        ("layer", "rows", "text"),
        [("retina_reg", 4, "4 rows of boxes"), ("retina_cls", 80, "80 rows of class scores")],
    )
    def test_other_anchors_are_refused(self, layer, rows, text):
        weights = published_head("retinanet") | {f"bbox_head.{layer}.bias": torch.zeros(rows)}
        with pytest.raises(UserError, match=f"{text}, which is not 9 anchors a cell .3 ratios, 3 sizes"):
            convert(weights, model_of(RETINANET).head)


def test_values_arrive_unchanged():
    weights = recorded.published_weights("salt", "manifest_gfl_head")
    converted, report = convert(weights, model_of(GFL).head)
    assert all(converted[ours].data_ptr() == weights[key].data_ptr() for key, ours in report.used.items())
