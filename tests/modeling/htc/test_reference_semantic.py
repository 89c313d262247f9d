"""HTC's semantic branch against the reference arrays, and its features for RoIs."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import instantiate
from torchvision.ops import roi_align

from htd.modeling.cascade import GroundTruth, LevelRule, RoIContext, SemanticPooler
from htd.modeling.htc import MeanOverAll
from tests.modeling.htc.reference import FEATURES, LOSSES, check_gradients, maps_of, with_weights
from tests.modeling.reference import EXACT, model_config
from tests.recorded import tensors

NAME, SEED = "semantic_head", 101
# XYXY pixels of the 96 x 128 input: one cell and less, wide, high, all of the image and beyond.
REGIONS = [
    [10.0, 20.0, 13.0, 22.5],
    [40.0, 8.0, 48.0, 16.0],
    [5.5, 30.25, 120.75, 44.5],
    [64.0, 2.0, 75.0, 93.0],
    [0.0, 0.0, 128.0, 96.0],
    [-40.0, -30.0, 60.0, 50.0],
    [100.0, 60.0, 190.0, 160.0],
    [-200.0, -100.0, 400.0, 300.0],
    [140.0, 110.0, 180.0, 150.0],
    [33.0, 33.0, 33.0, 33.0],
]


@pytest.fixture(scope="module")
def head(device):
    part = instantiate(model_config("htc/htc_r50_fpn_1x").roi_heads.context.semantic)
    return with_weights(part, NAME, device)


@pytest.fixture(scope="module")
def case():
    return tensors("htc", NAME)


@pytest.fixture(scope="module")
def truth(case, device):
    return GroundTruth([], case["labels"].long().to(device))


@pytest.fixture(scope="module")
def maps(truth, device):
    return maps_of(NAME, SEED, torch.tensor(truth.sem_seg.shape[1:]), device, grad=True)


def test_logits_and_features(case, head, maps):
    with torch.no_grad():
        FEATURES.check(head.predictor(head.fuse(maps))[:, ::3], case["logits"])
        FEATURES.check(head(maps)[0].maps[0][:, ::2], case["feat"])


def test_labels(case, head, truth):
    EXACT.check(head.labels(truth.sem_seg), case["labels_down"])


def test_loss_and_gradients(case, head, maps, truth):
    table, losses = head(maps, truth)
    assert list(losses) == ["loss_sem_seg"]
    LOSSES.check(losses["loss_sem_seg"], case["loss_mean_over_valid"])
    total = losses["loss_sem_seg"] + table.maps[0].square().mean()
    LOSSES.check(total, case["total_for_grad"])
    total.backward()
    check_gradients(NAME, head, maps)


def test_loss_averaged_over_all_pixels(case, head, maps, truth, monkeypatch):
    monkeypatch.setattr(head, "loss_mean", MeanOverAll())
    with torch.no_grad():
        LOSSES.check(head(maps, truth)[1]["loss_sem_seg"], case["loss_mean_over_all"])


@pytest.mark.parametrize(("output_size", "sub_bins"), [(7, 2), (14, 1)], ids=["boxes", "masks"])
def test_roi_features(head, maps, device, output_size, sub_bins):
    """All RoIs are pooled at 14 x 14 from the one map; box heads get the means of 2 x 2."""
    with torch.no_grad():
        table, _ = head(maps)
        boxes = torch.tensor(REGIONS, device=device)
        context = RoIContext(table, [(96, 128)] * 2, LevelRule(), semantic_features=table)
        rois = context.rois([boxes, boxes.flip(0)])
        pooler = SemanticPooler(output_size=output_size, sub_bins=sub_bins)
        regions = torch.cat([rois.image_index[:, None].float(), rois.boxes], dim=1)
        wanted = roi_align(table.maps[0], regions, 14, spatial_scale=1 / 8, sampling_ratio=0, aligned=True)
        wanted = F.adaptive_avg_pool2d(wanted, output_size)
        FEATURES.check(pooler(context, rois), wanted)
        beyond = [i for i, (x1, *_) in enumerate(rois.boxes.tolist()) if x1 == 140.0]
        assert wanted.abs().max() > 1 and not wanted[beyond].any()


def test_roi_features_of_the_published_config():
    """The config asks for the sizes that :func:`test_roi_features` compares."""
    heads = model_config("htc/htc_r50_fpn_1x").roi_heads
    poolers = [stage.head.features.poolers[1] for stage in heads.stages]
    assert [(p.output_size, p.sub_bins) for p in poolers] == [(7, 2)] * 3
    pooler = heads.mask_branch.features.poolers[1]
    assert (pooler.output_size, pooler.sub_bins) == (14, 1)
