"""Training of HTC's and Cascade Mask R-CNN's RoI heads from fixed proposals against the reference arrays."""

from dataclasses import dataclass

import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling.matcher import Matcher
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from torch import Tensor, nn

from htd.modeling.cascade import GroundTruth, mask_targets
from htd.modeling.htc import MeanOverAll
from tests.modeling.htc.reference import (
    BOXES,
    FEATURES,
    LOSSES,
    SIZE_OF_MASK,
    TARGET_BITS,
    check_gradients,
    joined,
    maps_of,
    proposals_of,
    unpacked,
    with_weights,
)
from tests.modeling.reference import EXACT, Recorder, model_config
from tests.recorded import tensors

# Name of the case -> config and seed.
CASES = {
    "roi_head_train": ("htc/htc_r50_fpn_1x", 104),
    "cascade_mask_rcnn_train": ("baselines/cascade_mask_rcnn_r50_fpn_1x", 107),
}
STAGES = (0, 1, 2)
HTC_ONLY = pytest.mark.parametrize("step", ["roi_head_train"], indirect=True, scope="module")
OUR_NAMES = {"loss_cls": "loss_cls", "loss_bbox": "loss_box_reg", "loss_mask": "loss_mask"}
# The first stage of HTC without the rule by which objects claim their best RoIs.
WITHOUT_CLAIMS = {"loss_cls": 5.08010, "loss_box_reg": 1.53564}


@dataclass
class Step:
    """One training step: what went in, what each stage drew, and the losses.

    Attributes:
        samples: of each stage, one ``Instances`` an image.
        mask_samples: the same for the stage's mask head.
    """

    name: str
    case: dict
    heads: nn.Module
    maps: dict
    proposals: list
    truth: GroundTruth
    samples: list
    mask_samples: list
    losses: dict


def truth_of(case, device) -> GroundTruth:
    instances = []
    for i, (height, width) in enumerate(case["image_sizes"].tolist()):
        target = Instances((height, width), gt_boxes=Boxes(case[f"gt_boxes_{i}"]))
        target.gt_classes = case[f"gt_labels_{i}"].long()
        target.gt_masks = BitMasks(unpacked(case[f"gt_masks_{i}"], width))
        instances.append(target.to(device))
    sem_seg = case["sem_seg"].long().to(device) if "sem_seg" in case else None
    return GroundTruth(instances, sem_seg)


@pytest.fixture(scope="module", params=CASES)
def step(request, device):
    name = request.param
    leaf, seed = CASES[name]
    case = tensors("htc", name)
    heads = with_weights(instantiate(model_config(leaf).roi_heads), name, device).train()
    for stage in heads.stages:
        stage.sampler = Recorder(stage.sampler)
    heads.mask_branch.roi_rule = Recorder(heads.mask_branch.roi_rule)
    maps = maps_of(name, seed, case["batch_size_hw"], device, grad=True)
    proposals, truth = proposals_of(case, device), truth_of(case, device)
    images = ImageList(torch.zeros(0), [p.image_size for p in proposals])
    _, losses = heads(images, maps, proposals, truth.instances, truth.sem_seg)
    sum(losses.values()).backward()
    samples = [stage.sampler.results[0] for stage in heads.stages]
    drawn = heads.mask_branch.roi_rule.results
    return Step(name, case, heads, maps, proposals, truth, samples, drawn, losses)


def column(instances: list[Instances], name: str) -> Tensor:
    return torch.cat([getattr(x, name) for x in instances])


@pytest.mark.parametrize("stage", STAGES)
def test_samples(step, stage):
    samples = step.samples[stage]
    BOXES.check(joined(samples), step.case[f"s{stage}_rois"])
    EXACT.check(column(samples, "gt_classes"), step.case[f"s{stage}_labels"])
    EXACT.check([(s.gt_classes < 80).sum().item() for s in samples], step.case[f"s{stage}_num_pos"])


@pytest.mark.parametrize("stage", STAGES)
def test_box_targets(step, stage):
    samples, wanted = step.samples[stage], step.case[f"s{stage}_targets"]
    positive = column(samples, "gt_classes") < 80
    boxes = torch.cat([s.proposal_boxes.tensor for s in samples])[positive]
    truth = torch.cat([s.gt_boxes.tensor for s in samples])[positive]
    found = step.heads.stages[stage].box_transform.get_deltas(boxes, truth)
    FEATURES.check(found, wanted[positive.cpu()])
    EXACT.check(wanted[~positive.cpu()], torch.zeros(len(wanted) - len(found), 4))


@pytest.mark.parametrize("stage", STAGES)
def test_mask_samples(step, stage):
    samples, case = step.mask_samples[stage], step.case
    BOXES.check(joined(samples), case[f"s{stage}_mask_rois"])
    EXACT.check(column(samples, "gt_classes"), case[f"s{stage}_mask_labels"])
    EXACT.check(column(samples, "gt_index"), case[f"s{stage}_mask_gt_index"])


@pytest.mark.parametrize("stage", STAGES)
def test_mask_targets(step, stage):
    case = step.case
    found = mask_targets(step.truth.instances, step.mask_samples[stage], SIZE_OF_MASK).cpu()
    wanted = unpacked(case[f"s{stage}_mask_targets"], SIZE_OF_MASK)
    TARGET_BITS.check((found != wanted).sum(dim=(1, 2)), torch.zeros(len(wanted)))
    TARGET_BITS.check(found.sum(dim=(1, 2)), case[f"s{stage}_mask_target_area"])


def test_losses(step):
    wanted = {}
    for key, value in step.case.items():
        if key.startswith("loss/s"):
            stage, name = key.removeprefix("loss/s").split(".")
            wanted[f"{OUR_NAMES[name]}_stage{stage}"] = value
    if step.truth.sem_seg is not None:
        wanted["loss_sem_seg"] = step.case["loss/loss_semantic_seg"]
    assert set(step.losses) == set(wanted)
    for name, value in wanted.items():
        LOSSES.check(step.losses[name], value)
    LOSSES.check(sum(step.losses.values()), step.case["total"])


def test_gradients(step):
    check_gradients(step.name, step.heads, step.maps)


@HTC_ONLY
def test_semantic_loss_averaged_over_all_pixels(step, monkeypatch):
    part = step.heads.context.semantic
    monkeypatch.setattr(part, "loss_mean", MeanOverAll())
    with torch.no_grad():
        losses = part(step.maps, step.truth)[1]
    LOSSES.check(losses["loss_sem_seg"], step.case["loss_semantic_seg_mean_over_all"])


@HTC_ONLY
def test_first_stage_without_claims(step, monkeypatch):
    """Objects claim their best RoIs in HTC; where they do not, other RoIs belong to other objects."""
    stage = step.heads.stages[0]
    matcher = Matcher([0.5], [0, 1], allow_low_quality_matches=False)
    monkeypatch.setattr(stage.sampler.rule, "matcher", matcher)
    with torch.no_grad():
        context, _ = step.heads.make_context([p.image_size for p in step.proposals], step.maps)
        samples = stage.sampler.rule(step.proposals, step.truth.instances)
        rois = context.rois([s.proposal_boxes.tensor for s in samples])
        classified = stage.head.classify(context, rois)
        rows = torch.arange(len(rois), device=rois.boxes.device)
        deltas = stage.head.regress(context, rois, classified, rows)
        losses = stage.losses(stage, classified, deltas, rows, samples)
    assert set(losses) == set(WITHOUT_CLAIMS)
    for name, value in WITHOUT_CLAIMS.items():
        LOSSES.check(losses[name], value)
