"""GFL's head, losses and detections against the reference arrays."""

from functools import partial

import pytest
import torch
from detectron2.structures import Boxes, ImageList, Instances

from htd.modeling.dense import DensePredictions
from tests.golden import random_input, tensors
from tests.modeling.dense.reference import STRIDES, as_maps, check_losses, priced, shapes, without_backbone
from tests.modeling.htc.reference import EXACT, Tolerance

# The least difference that is allowed whatever the values are.
LEAST = 1e-6
NORMS_SHARE, NORMS_RELATIVE = 1e-6, 2e-3
BOXES, SCORES = Tolerance(absolute=0.02), Tolerance(absolute=1e-4)
BATCH_SIZE = (256, 320)
# Sizes of the images of the losses, and of the detections with what those were enlarged by.
TRAINED = [(250, 310), (256, 320), (190, 250)]
DETECTED = [((250, 310), (0.505, 0.5)), ((200, 320), (1.25, 1.25))]


def check(found, wanted, relative=1e-4, share=1e-5):
    """Compare values: ``share`` is the allowed difference as a part of the largest value."""
    Tolerance(max(share * wanted.abs().max().item(), LEAST), relative).check(found, wanted)


def check_norms(found, wanted):
    limit = NORMS_SHARE * wanted.max().item()
    Tolerance(limit, NORMS_RELATIVE).check([g.double().norm().item() for g in found], wanted)


@pytest.fixture(scope="module")
def model(device):
    return without_backbone("baselines/gfl_r50_fpn_1x", "salt", "manifest_gfl_head", device)[0]


@torch.no_grad()
def test_head(model, device):
    case = tensors("salt", "gfl_head_forward")
    sizes = [case[f"cls_score{i}"].shape[2:] for i in range(5)]
    features = [
        random_input(level, (1, 256, *size), 71).to(device)
        for level, size in zip(STRIDES, sizes, strict=True)
    ]
    found, priors = model.eval().head(features), model.priors(features)
    assert found.centerness is None
    for name, rows in (("cls_score", found.logits), ("bbox_pred", found.regression)):
        for i, level in enumerate(as_maps(rows, priors).values()):
            check(level, case[f"{name}{i}"])


def recorded_outputs(seed, images, logit, factor, device):
    """The maps of class logits and of distributions that a case takes for a head's output."""
    logits, sides = (
        [
            random_input(f"{name}{i}", (images, channels, *size), seed).to(device)
            for i, size in enumerate(shapes(*BATCH_SIZE))
        ]
        for name, channels in (("cls", 80), ("reg", 68))
    )
    return [1.5 * x + logit for x in logits], [factor * x for x in sides]


def as_rows(maps):
    """Maps (N, D, H, W) of all levels as rows (N, P, D)."""
    return torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)


class Trained:
    """The case of the losses."""

    def __init__(self, model, device):
        self.case = tensors("salt", "gfl_loss")
        self.logits, self.sides = recorded_outputs(72, len(TRAINED), -3, 2, device)
        for x in (*self.logits, *self.sides):
            x.requires_grad_()
        predictions = DensePredictions(as_rows(self.logits), as_rows(self.sides))
        self.truth = [
            Instances(
                size, gt_boxes=Boxes(self.case[f"gt_boxes{i}"]), gt_classes=self.case[f"gt_classes{i}"]
            ).to(device)
            for i, size in enumerate(TRAINED)
        ]
        train = partial(model.forward_training, None, self.logits, predictions, self.truth)
        self.priced = priced(model, train)


@pytest.fixture(scope="module")
def trained(model, device):
    return Trained(model.train(), device)


def test_targets(trained):
    """Which objects anchors have: -2 for those of the padding alone, 0 for none."""
    case, matched = trained.case, trained.priced.matched
    EXACT.check(matched.priors.boxes, case["anchors"])
    EXACT.check(matched.gt_classes, case["labels"])
    EXACT.check(matched.counted, case["label_weights"])
    positive = matched.positive[..., None]
    EXACT.check(torch.where(positive, matched.gt_boxes, 0), case["bbox_targets"])
    EXACT.check(matched.counted, case["gt_inds"] != -2)
    EXACT.check(matched.positive, case["gt_inds"] > 0)
    for i, target in enumerate(trained.truth):
        rows = case["gt_inds"][i] > 0
        objects = target.gt_boxes.tensor.cpu()[case["gt_inds"][i][rows] - 1]
        EXACT.check(matched.gt_boxes[i][rows.to(matched.gt_boxes.device)], objects)
    background = matched.counted & ~matched.positive
    EXACT.check(background.sum(), case["num_total_neg"])


def test_losses(trained):
    check_losses(trained.case, trained.priced, total="loss_total")


def test_normalisers(trained):
    norms, matched = trained.priced.norms, trained.priced.matched
    EXACT.check(norms["loss_cls"], trained.case["num_total_pos"])
    score = matched.predictions.logits.detach().amax(dim=-1).sigmoid() * matched.positive
    levels = torch.stack([x.sum() for x in matched.priors.split(score, dim=1)])
    check(levels, trained.case["weight_sum"])
    for name in ("loss_box_reg", "loss_dfl"):
        check(norms[name], trained.case["weight_sum"].sum())


def test_gradients(trained):
    total, outputs = sum(trained.priced.losses.values()), [*trained.logits, *trained.sides]
    found = torch.autograd.grad(total, outputs, retain_graph=True)
    for name, levels in (("cls", found[:5]), ("reg", found[5:])):
        check_norms(levels, trained.case[f"gradnorm_{name}"])
        for i in (2, 3, 4):
            check(levels[i], trained.case[f"grad_{name}{i}"])


@torch.no_grad()
def test_detections(model, device):
    """By the parts of the config, in the frame of images of another size."""
    case = tensors("salt", "gfl_inference")
    logits, sides = recorded_outputs(73, len(DETECTED), -6, 3, device)
    images = ImageList(torch.zeros(len(DETECTED), 3, *BATCH_SIZE, device=device), [s for s, _ in DETECTED])
    predictions = DensePredictions(as_rows(logits), as_rows(sides))
    each = model.eval().forward_inference(images, logits, predictions)
    for i, (candidates, (size, factors)) in enumerate(zip(each, DETECTED, strict=True)):
        assert len(candidates) == case[f"num_candidates{i}"]
        frame = tuple(side / factor for side, factor in zip(size, factors, strict=True))
        found = model.postprocessing.detections(candidates, frame)
        EXACT.check(found.pred_classes, case[f"labels{i}"])
        SCORES.check(found.scores, case[f"dets{i}"][:, 4])
        BOXES.check(found.pred_boxes.tensor, case[f"dets{i}"][:, :4])
