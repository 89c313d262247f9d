"""The meta-architecture of dense detectors: its interface, its frames, its parts in order."""

from functools import partial

import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import EventStorage

from htd.modeling.dense import OneStageDetector
from tests.configs.reduced import build, example, reduced_model, selection_of
from tests.modeling.dense.reference import priced

LEAF = "configs/baselines/atss_r50_fpn_1x.py"


@pytest.fixture(scope="module")
def model():
    found = build(LEAF).eval()
    selection_of(found).score_threshold = 0.001
    return found


def test_it_is_registered():
    assert META_ARCH_REGISTRY.get("OneStageDetector") is OneStageDetector


def test_images_are_normalised_before_they_are_padded(model):
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
