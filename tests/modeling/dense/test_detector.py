"""The meta-architecture of dense detectors: frames, parts that fit, values that are refused."""

import copy
from functools import partial

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf
from torch import nn

from htd.modeling.dense import DistanceDecoder, DistributionDecoder
from htd.modeling.tood import SampledBoxDecoder
from tests.configs.reduced import build, example, reduced_model, selection_of
from tests.modeling.dense.reference import priced

LEAF = "configs/baselines/atss_r50_fpn_1x.py"


@pytest.fixture(scope="module")
def model():
    found = build(LEAF).eval()
    selection_of(found).score_threshold = 0.001
    return found


def test_images_are_normalized_before_they_are_padded(model):
    item = example(1, size=(40, 50))
    images = model.preprocess_image([item])
    assert images.tensor.shape == (1, 3, 64, 64)
    wanted = (item["image"].float() - model.pixel_mean) / model.pixel_std
    torch.testing.assert_close(images.tensor[0, :, :40, :50], wanted)
    assert not images.tensor[0, :, 40:].any() and not images.tensor[0, :, :, 50:].any()


def test_detections_are_in_the_frame_that_the_input_names(model):
    item = {"image": example(1)["image"]}
    plain = model([item])[0]["instances"]
    larger = model([item | {"height": 96.0, "width": 48.0}])[0]["instances"]
    assert plain.image_size == (64, 96) and larger.image_size == (96.0, 48.0)
    # Suppression ignores how a frame is stretched, so the same boxes remain.
    torch.testing.assert_close(larger.scores, plain.scores)
    factors = torch.tensor([0.5, 1.5, 0.5, 1.5])
    torch.testing.assert_close(larger.pred_boxes.tensor, plain.pred_boxes.tensor * factors)
    assert len(plain) and plain.scores.tolist() == sorted(plain.scores.tolist(), reverse=True)


def test_training_needs_instances_of_every_image(model):
    model.train()
    try:
        with pytest.raises(ValueError, match="instances"):
            model([example(1), {"image": example(1)["image"]}])
    finally:
        model.eval()


def test_positives_an_image_are_written_every_twenty_iterations():
    detector, batch = build(LEAF).train(), [example(3), example(0, seed=1)]
    written = {}
    for iteration in (0, 18, 19, 20, 39):
        with EventStorage(iteration) as storage:
            matched = priced(detector, partial(detector, batch)).targets
            written[iteration] = storage.latest().get("dense/num_pos")
    positives = matched.positive.sum().item()
    assert positives > 0
    assert written == {0: None, 18: None, 19: (positives / 2, 19), 20: None, 39: (positives / 2, 39)}


def test_the_head_works_on_the_named_levels_only():
    config = reduced_model(LEAF)
    config.head_in_features = ["p4", "p5"]
    config.anchor_generator.update(sizes=[[128], [256]], strides=[16, 32])
    config.head.predictors.num_levels = 2
    detector = instantiate(config).eval()
    images = detector.preprocess_image([{"image": example(1)["image"]}])
    features = detector.backbone(images.tensor)
    priors = detector.priors([features["p4"], features["p5"]])
    assert priors.shapes == ((4, 6), (2, 3)) and priors.strides == (16, 32)
    detector([{"image": example(1)["image"]}])


RETINANET, FCOS, ATSS, GFL = (
    f"configs/baselines/{name}_r50_fpn_1x.py" for name in ("retinanet", "fcos", "atss", "gfl")
)
TOOD, SALT, SALT_ATSS = (f"configs/{x}_r50_fpn_1x.py" for x in ("tood/tood", "salt/salt", "salt/salt_atss"))
NAN = float("nan")


def changed(leaf, values):
    """The reduced model of a config with other values by key."""
    config = reduced_model(leaf)
    for key, value in values.items():
        OmegaConf.update(config, key, value, merge=False)
    return config


def refused(config, word):
    with pytest.raises(ValueError, match=word):
        instantiate(config)


@pytest.mark.parametrize(
    ("leaf", "key", "value", "word"),
    [
        (ATSS, "criterion.assigner.topk", 0, "topk is 0"),
        (TOOD, "criterion.aligned.assigner.topk", -3, "topk is -3"),
        (FCOS, "criterion.pad_divisor", 0, "pad_divisor is 0"),
        (ATSS, "criterion.terms", [], "terms"),
        (ATSS, "criterion.terms.1.weight", -0.25, "loss_box_reg"),
        (ATSS, "criterion.terms.1.weight", NAN, "loss_box_reg"),
        (ATSS, "postprocessing.max_detections", 0, "max_detections"),
        (ATSS, "postprocessing.pre_nms.topk", 0, "topk is 0"),
        (TOOD, "postprocessing.pre_nms.topk", -1, "topk is -1"),
        (ATSS, "pixel_mean", [1.0], "1 pixel means and 3"),
        (ATSS, "pixel_std", [0, 1, 1], "pixel_std"),
        (ATSS, "pixel_std", [57.0, NAN, 57.0], "pixel_std"),
        (ATSS, "head.predictors.prior_probability", 1, "prior_probability is 1"),
        (TOOD, "head.predictors.prior_probability", NAN, "prior_probability is nan"),
        (FCOS, "head.predictors.num_levels", 0, "num_levels is 0"),
        (ATSS, "head.predictors.centerness_from", "reg", "centerness_from is 'reg'"),
        (SALT, "head.predictors.extra_classes", -1, "extra_classes is -1"),
        (SALT, "head.predictors.topk", 0, "topk is 0"),
        (TOOD, "head.towers.num_layers", 0, "num_layers is 0"),
        (TOOD, "head.towers.num_deformable", 7, "from 0 to 6"),
        (SALT, "head.towers.towers.num_convs", -1, "num_convs is -1"),
        (SALT, "head.towers.operator.num_levels", 0, "num_levels is 0"),
    ],
)
def test_values(leaf, key, value, word):
    refused(changed(leaf, {key: value}), word)


@pytest.mark.parametrize(
    ("leaf", "values", "word"),
    [
        # Detectron2's generator makes anchors for the shorter of the two lists, and checks neither.
        (ATSS, {"head_in_features": ["p4", "p5", "p6"]}, r"\[16, 32, 64\]"),
        (ATSS, {"head_in_features": ["p4", "p3", "p5", "p6", "p7"]}, r"\[16, 8, 32, 64, 128\]"),
        (ATSS, {"anchor_generator.strides": [8, 16], "anchor_generator.sizes": [[64], [128]]}, r"\[8, 16\]"),
        (ATSS, {"anchor_generator.sizes": [[64], [128], [256, 300], [512], [1024]]}, r"\[1, 2\] anchors"),
        (RETINANET, {"anchor_generator.aspect_ratios": [1.0]}, r"\[3\] anchors"),
        (FCOS, {"head.predictors.num_levels": 6}, "6 levels"),
        (TOOD, {"head.predictors.num_levels": 3}, "3 levels"),
        (SALT, {"head.towers.operator.num_levels": 6}, "6 levels"),
        (ATSS, {"head.predictors.centerness_from": None}, "centerness"),
        (SALT, {"head.towers.operator.coarse": False}, "coarse"),
    ],
)
def test_parts(leaf, values, word):
    refused(changed(leaf, values), word)


def test_a_loss_of_a_missing_branch_in_one_of_two_phases():
    config = reduced_model(TOOD)
    config.criterion.aligned.terms.append(copy.deepcopy(reduced_model(ATSS).criterion.terms[2]))
    refused(config, "centerness")


@pytest.mark.parametrize(
    ("leaf", "box_dim"), [(RETINANET, 5), (FCOS, 68), (GFL, 4), (GFL, 66), (SALT, 12), (SALT, 66)]
)
def test_numbers_that_a_decoder_reads(leaf, box_dim):
    refused(changed(leaf, {"head.predictors.box_dim": box_dim}), str(box_dim))


def test_decoders_of_another_head():
    plain = L(DistanceDecoder)(in_cells=True)
    refused(changed(FCOS, {"decoder": L(SampledBoxDecoder)(decoder=plain)}), "SampledBoxDecoder")
    refused(changed(TOOD, {"decoder": plain}), "DistanceDecoder.* 12 ")
    bins = L(SampledBoxDecoder)(decoder=L(DistributionDecoder)())
    refused(changed(TOOD, {"decoder": bins}), "SampledBoxDecoder")


@pytest.mark.parametrize(("extra", "kept"), [(1, None), (1, 5), (1, 3), (0, 3), (0, 5)])
def test_detections_of_extra_classes_alone_are_dropped(extra, kept):
    values = {"head.predictors.extra_classes": extra, "postprocessing.num_classes": kept}
    refused(changed(SALT, values), f"4 classes and {extra} extra")


@pytest.mark.parametrize(
    ("leaf", "key", "value"),
    [
        (ATSS, "criterion.terms.1.weight", 0),
        (TOOD, "head.towers.num_deformable", 6),
        (SALT, "head.towers.towers.num_convs", 0),  # the operator works on the map itself
        (GFL, "head.predictors.box_dim", 8),
        (SALT_ATSS, "head.towers.operator.coarse", False),
    ],
)
def test_what_is_unusual_works(leaf, key, value):
    config = changed(leaf, {key: value})
    if leaf == SALT_ATSS:
        config.criterion.terms.pop()
    if leaf == GFL:
        # Two bins hold distances of up to one cell.
        config.criterion.terms.pop()
    model = instantiate(config).train()
    if leaf == TOOD:
        model.criterion.set_iteration(0)
    assert all(loss.isfinite() for loss in model([example(2)]).values())


class Maps(nn.Module):
    """A backbone that does not say what it gives."""

    size_divisibility = 0

    def forward(self, x):
        return {f"p{level}": x.new_zeros(1, 16, 128 // 2**level, 128 // 2**level) for level in range(3, 8)}


def test_other_parts_are_not_looked_into():
    """A stand-in for a backbone, for a head, or none."""
    config = changed(GFL, {"backbone": None})
    detector = instantiate(config)
    assert detector.backbone is None
    parts = {key: instantiate(value) for key, value in config.items() if key not in ("_target_", "backbone")}
    built = type(detector)(backbone=Maps(), **parts).eval()
    built([{"image": torch.zeros(3, 128, 128)}])
    type(detector)(backbone=Maps(), **parts | {"head": nn.Identity()})
