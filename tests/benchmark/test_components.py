"""Every component of tools/benchmark.py runs, and compares what it says that it compares."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.layers import ShapeSpec
from omegaconf import OmegaConf

from htd.benchmark import ROOT, detectors, inputs, measure, models, operators
from htd.benchmark.detectors import (
    CASCADE,
    COMPONENTS,
    HTC,
    HTC_FORMS,
    SALT,
    cascade_with_semantics,
    detectron2_cascade,
    spread_points,
    without_operator,
)
from htd.benchmark.inputs import fix_work, random_boxes
from htd.benchmark.models import Candidate, LeafModel, MeasuredModel, Settings, load_model_config
from htd.modeling.salt import SALTOperator
from htd.modeling.salt.operator import tap_offsets
from tests.configs.reduced import reduced_model


def reduced(path, overrides=()):
    """Return the narrow model of a leaf."""
    config = OmegaConf.create({"model": reduced_model(str(ROOT / "configs" / path))})
    return LazyConfig.apply_overrides(config, list(overrides)).model


SETTINGS = Settings(
    size=(64, 96), images=2, rois=24, repeat=1, model_config=reduced, separate_processes=False
)
# First cells of the last rows of each component.
ROWS = {
    "roi_align": ["24 RoIs, own level, 2x2 samples, forward + backward"],
    "deform_conv": ["v1, 1024 channels, 64 groups, 4x6, forward + backward"],
    "htd_second_stage": ["training, 2 x 12 RoIs, forward + backward"],
    "offset_roi_pool": ["24 RoIs, one offset, forward + backward"],
    "sampled_boxes": ["8x12 cells, forward", "8x12 cells, forward + backward"],
    "task_decomposition": ["8x12 cells, forward", "8x12 cells, forward + backward"],
    "paste_masks": ["all boxes cover the image"],
    "htc_memory": ["HTC", "share of the semantic branch in HTC", "HTC / Cascade Mask R-CNN"],
    "htc_inference": ["Cascade Mask R-CNN + semantic branch alone", "HTC"],
    "htc_forms": ["Detectron2's Cascade Mask R-CNN", CASCADE, *HTC_FORMS],
    "tsd_inference": ["Faster R-CNN, continuous boxes", "TSD, continuous boxes"],
    "tsd_training": ["Faster R-CNN, continuous boxes", "TSD, continuous boxes"],
    "tood_inference": ["ATSS", "TOOD"],
    "tood_training": ["ATSS", "TOOD, initial phase", "TOOD, aligned phase"],
    "salt_inference": ["GFL", "SALT-Net", "SALT-Net without operator"],
    "salt_training": ["GFL", "SALT-Net"],
    "salt_plug_ins_inference": ["TOOD", "TOOD + SALT"],
    "salt_plug_ins_training": ["TOOD", "TOOD + SALT"],
}


@pytest.fixture
def small(monkeypatch):
    """Few proposals, few pairs, narrow heads in Detectron2's model, and no care for memory."""
    for module in (measure, models):
        # It is slow in a process with many objects, such as that of the tests.
        monkeypatch.setattr(module, "return_freed_memory", lambda device: None)
    monkeypatch.setattr(inputs, "PROPOSALS", 60)
    monkeypatch.setattr(inputs, "TRAINING_PROPOSALS", 240)
    monkeypatch.setattr(detectors, "SALT_PAIRS", {"TOOD": detectors.SALT_PAIRS["TOOD"]})
    load = LazyConfig.load

    def narrowed(path):
        config = load(path)
        heads = config.model.roi_heads
        for head, predictor in zip(heads.box_heads, heads.box_predictors, strict=True):
            head.fc_dims, predictor.input_shape = [24, 24], ShapeSpec(channels=24)
        return config

    monkeypatch.setattr(detectors, "LazyConfig", SimpleNamespace(load=narrowed))


def test_every_component_is_run():
    assert list(ROWS) == list(COMPONENTS)


@pytest.mark.parametrize("name", ROWS)
def test_component(name, small):
    table = COMPONENTS[name](replace(SETTINGS, images=1))
    assert [row[0] for row in table.rows[-len(ROWS[name]) :]] == ROWS[name]
    assert all(len(row) == len(table.head) for row in table.rows)


def test_every_mask_head_learns_from_128_positives_an_image():
    def build(path, settings):
        model = settings.model_config(path)
        for stage in model.roi_heads.stages:
            stage.sampler.batch_size_per_image = 512
        return fix_work(instantiate(model))

    for path in (CASCADE, HTC):
        measured = MeasuredModel(Candidate(path, partial(build, path)), SETTINGS)
        heads = measured.model.roi_heads
        learned, drawn = [], []
        heads.mask_branch.features.register_forward_hook(
            lambda _, args, __, to=learned: to.append(args[1].image_index)
        )
        for stage in heads.stages:
            stage.head.cls_score.register_forward_hook(lambda _, args, __, to=drawn: to.append(len(args[0])))
        measured.train()
        assert drawn == [2 * 512] * 3
        assert [torch.bincount(image).tolist() for image in learned] == [[128, 128]] * 3


def test_every_model_keeps_the_same_detections(small):
    builds = [LeafModel(path, change=fix_work) for path in (CASCADE, HTC, HTC_FORMS[0])]
    builds += [cascade_with_semantics, detectron2_cascade]
    first, *others = [MeasuredModel(Candidate("", build, "polygon"), SETTINGS).infer() for build in builds]
    for other in others:
        for expected, output in zip(first, other, strict=True):
            boxes = [x["instances"].pred_boxes.tensor for x in (expected, output)]
            torch.testing.assert_close(*boxes)
            assert len(boxes[0]) > 15 and output["instances"].pred_classes.eq(0).all()


def test_the_plain_formulation_computes_the_same():
    roi_heads = instantiate(reduced("htd/htd_r50_fpn_1x.py").roi_heads).eval()
    stages = roi_heads.stages
    batch = operators._SecondStage(stages[1].head, stages[0].head.cls_score, SETTINGS, [9, 7])
    kept = torch.tensor([1, 8, 11])
    with torch.no_grad():
        pairs = zip(batch.plain(kept), batch.ours(kept), strict=True)
    for plain, ours in pairs:
        torch.testing.assert_close(plain, ours, rtol=1e-4, atol=1e-5)


def test_folded_weights_are_scaled_layers():
    weights, kernel = torch.rand(1, 6), torch.rand(32, 6 * 32, 1, 1)
    layers = [torch.rand(1, 32, 3, 4) for _ in range(6)]
    forms = (operators.scale_layers, operators.fold_weights)
    torch.testing.assert_close(*(form(weights, kernel, *layers) for form in forms))


def test_random_boxes_lie_in_the_image_on_every_level():
    boxes, levels = random_boxes(50, (800, 1333))
    assert (boxes >= 0).all() and (boxes[:, 2:] <= torch.tensor([1333.1, 800.1])).all()
    assert levels.unique().tolist() == [0, 1, 2, 3]


def test_points_are_spread():
    torch.manual_seed(0)
    operator = spread_points(SALTOperator(32, 1))
    maps, seen = torch.rand(1, 32, 5, 5), []
    operator.regression.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    operator(maps, maps, 0)
    points = (seen[0] - tap_offsets(torch.zeros_like(seen[0]))).unflatten(1, (9, 2))
    assert points.std(dim=1).min() > 1  # cells, both ways


def test_only_the_operator_is_taken_out():
    plain, full = (LeafModel(SALT, change=f)(SETTINGS) for f in (without_operator, spread_points))
    sizes = [sum(p.numel() for p in part.parameters()) for part in (full, plain, full.head.towers.operator)]
    assert sizes[0] - sizes[1] == sizes[2] > 0


def test_a_leaf_takes_overrides():
    model = load_model_config(CASCADE, ["model.roi_heads.num_classes=7"])
    assert model.roi_heads.num_classes == 7
