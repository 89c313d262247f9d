"""HTD's RoI heads, trained and run on given proposals, against the reference arrays."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, ImageList, Instances

from htd.layers import HardNMS, SoftNMS
from htd.modeling.cascade import DetectionPostProcessing
from tests.modeling.reference import detections, on
from tests.recorded import close, feature_maps, tensors, unpaired

GRAPH = "stages.1.head.classification.graph.transforms"


def inputs(case, seed, device, *, grad=False):
    maps = on(device, feature_maps(seed, 2, *case["batch_hw"].tolist()))
    sizes = [tuple(hw) for hw in case["image_hw"].tolist()]
    images = ImageList(torch.zeros(2, 3, *case["batch_hw"].tolist()), sizes)
    proposals = [
        Instances(size, proposal_boxes=Boxes(case[f"proposals{i}"].to(device)))
        for i, size in enumerate(sizes)
    ]
    return images, {name: x.requires_grad_(grad) for name, x in maps.items()}, proposals


def test_stages_at_inference(roi_heads, device):
    case = tensors("htd", "infer")
    images, features, proposals = inputs(case, 14, device)
    boxes = [p.proposal_boxes.tensor for p in proposals]
    first, second = roi_heads.stages
    with torch.no_grad():
        context, _ = roi_heads.make_context(images.image_sizes, features)
        rois = context.rois(boxes)
        everything = torch.arange(len(rois), device=device)
        common = first.head.classify(context, rois)
        deltas = first.head.regress(context, rois, common, everything)
        close(common.logits, case["s0_cls"], 1e-3)
        close(deltas, case["s0_reg"], 5e-4)
        refined = first.refine(context, rois, common, deltas)
        close(torch.cat(refined), case["rois1"][:, 1:], 5e-3)
        rois = context.rois(refined)
        decoupled = second.head.classify(context, rois, common.classifier)
        close(decoupled.logits, case["s1_cls"], 5e-3)
        close(second.head.regress(context, rois, decoupled, everything), case["s1_reg"], 5e-4)


@pytest.mark.parametrize(
    ("kind", "nms", "tolerance"),
    [("hard", HardNMS(iou_threshold=0.5), 5e-4), ("soft", SoftNMS(method="linear"), 1e-3)],
)
def test_detections(roi_heads, device, kind, nms, tolerance):
    case = tensors("htd", "infer")
    select = DetectionPostProcessing(score_threshold=0.05, nms=nms, max_detections=400)
    with torch.no_grad():
        images, features, proposals = inputs(case, 14, device)
        context, _ = roi_heads.make_context(images.image_sizes, features)
        predictions = roi_heads.predict(context, proposals)
    for i, predicted in enumerate(predictions):
        (height, width), scale = predicted.image_size, case["scale_factor"][i].tolist()
        found = detections(select(predicted.resized(height / scale[1], width / scale[0])))
        wanted = {name: case[f"{kind}_{name}{i}"].numpy() for name in found}
        missing = unpaired(wanted, found, box_tolerance=1e-2, score_tolerance=tolerance)
        assert len(missing) <= 0.01 * len(wanted["scores"])
        np.testing.assert_allclose(wanted["scores"][missing], 0.05, atol=2e-4)
        assert abs(len(found["scores"]) - case[f"{kind}_total"][i]) <= len(missing)
        assert (found["scores"].diff() <= 0).all()


@pytest.fixture(scope="module")
def trained(roi_heads, device):
    """Losses of the training case, the rows that each stage saw, and gradients of their sum."""
    case = tensors("htd", "train")
    images, features, proposals = inputs(case, 15, device, grad=True)
    targets = [
        Instances(
            p.image_size,
            gt_boxes=Boxes(case[f"gt_boxes{i}"].to(device)),
            gt_classes=case[f"gt_labels{i}"].to(device),
        )
        for i, p in enumerate(proposals)
    ]
    seen = []
    originals = [stage.losses for stage in roi_heads.stages]

    def recorder(original):
        def losses(stage, classified, deltas, rows, samples):
            seen.append((classified.logits.detach(), deltas.detach(), rows, samples))
            return original(stage, classified, deltas, rows, samples)

        return losses

    for stage, original in zip(roi_heads.stages, originals, strict=True):
        stage.losses = recorder(original)
    try:
        _, losses = roi_heads.train()(images, features, proposals, targets)
        roi_heads.zero_grad()
        sum(losses.values()).backward()
        gradients = {name: p.grad.clone() for name, p in roi_heads.named_parameters()}
    finally:
        roi_heads.eval().zero_grad()
        for stage, original in zip(roi_heads.stages, originals, strict=True):
            stage.losses = original
    return case, losses, seen, gradients, {name: x.grad for name, x in features.items()}


def test_losses(trained):
    case, losses, *_ = trained
    names = {
        "loss_global": "loss_global",
        "s0_loss_cls": "loss_cls_stage0",
        "s0_loss_bbox": "loss_box_reg_stage0",
        "s1_loss_cls": "loss_cls_stage1",
        "s1_loss_bbox": "loss_box_reg_stage1",
    }
    assert set(losses) == set(names.values())
    for theirs, ours in names.items():
        close(losses[ours], case[theirs], 0, rtol=1e-4)
    close(sum(losses.values()), case["total"], 0, rtol=1e-4)


@pytest.mark.parametrize("stage", [0, 1])
def test_samples_and_outputs_of_a_stage(trained, stage):
    case, _, seen, *_ = trained
    logits, deltas, rows, samples = seen[stage]
    samples = [s.to("cpu") for s in samples]
    image = torch.cat([torch.full((len(s),), float(i)) for i, s in enumerate(samples)])
    boxes = torch.cat([s.proposal_boxes.tensor for s in samples])
    labels = torch.cat([s.gt_classes for s in samples])
    assert [len(s) for s in samples] == case[f"s{stage}_num"].tolist()
    assert [(s.gt_classes < 80).sum().item() for s in samples] == case[f"s{stage}_num_pos"].tolist()
    assert torch.equal(labels, case[f"s{stage}_labels"])
    close(torch.cat([image[:, None], boxes], dim=1), case[f"s{stage}_rois"], 5e-3)
    close(logits, case[f"s{stage}_cls"], (1e-3, 5e-3)[stage])
    close(deltas, case[f"s{stage}_reg"][rows.cpu()], 5e-4)


def test_box_targets(trained, roi_heads):
    case, _, seen, *_ = trained
    for k, (_, _, _, samples) in enumerate(seen):
        boxes = torch.cat([s.proposal_boxes.tensor for s in samples])
        truth = torch.cat([s.gt_boxes.tensor for s in samples])
        positive = torch.cat([s.gt_classes for s in samples]) < 80
        found = roi_heads.stages[k].box_transform.get_deltas(boxes[positive], truth[positive])
        close(found, case[f"s{k}_targets"][positive.cpu()], 5e-4)


def test_gradients_of_parameters(trained):
    case, *_, gradients, _ = trained
    names = {
        "glbctx_head.convs.0.conv.weight": "context.global_vector.convs.0.weight",
        "glbctx_head.fc.weight": "context.global_vector.fc.weight",
        "bbox_roi_extractor.1.att.1.weight": "stages.1.head.regression.features.terms.0.attention.0.weight",
        "bbox_roi_extractor.1.att.3.weight": "stages.1.head.regression.features.terms.0.attention.2.weight",
        "bbox_head.0.shared_fcs.0.weight": "stages.0.head.fcs.0.weight",
        "bbox_head.0.shared_fcs.1.bias": "stages.0.head.fcs.1.bias",
        "bbox_head.0.fc_cls.weight": "stages.0.head.cls_score.weight",
        "bbox_head.0.fc_cls.bias": "stages.0.head.cls_score.bias",
        "bbox_head.0.fc_reg.weight": "stages.0.head.bbox_pred.weight",
        "bbox_head.1.fcs.0.weight": "stages.1.head.classification.fcs.0.weight",
        "bbox_head.1.fcs.2.weight": "stages.1.head.classification.fcs.1.weight",
        "bbox_head.1.convs.0.conv.weight": "stages.1.head.regression.tower.0.weight",
        "bbox_head.1.convs.0.gn.weight": "stages.1.head.regression.tower.0.norm.weight",
        "bbox_head.1.convs.3.conv.weight": "stages.1.head.regression.tower.3.weight",
        **{f"bbox_head.1.graph_lvl{i}_cls.weight": f"{GRAPH}.{i}.weight" for i in range(4)},
        "bbox_head.1.fc_cls.weight": "stages.1.head.classification.cls_score.weight",
        "bbox_head.1.fc_reg.weight": "stages.1.head.regression.bbox_pred.weight",
    }
    recorded = {k.removeprefix("gradnorm_roi_head.") for k in case if k.startswith("gradnorm_roi_head.")}
    assert recorded == set(names)
    for theirs, ours in names.items():
        rtol = 1e-2 if ".att." in theirs else 5e-3
        close(gradients[ours].norm(), case[f"gradnorm_roi_head.{theirs}"], 0, rtol=rtol)
    biases = {
        "0.fc_cls": "stages.0.head.cls_score",
        "0.fc_reg": "stages.0.head.bbox_pred",
        "1.fc_cls": "stages.1.head.classification.cls_score",
        "1.fc_reg": "stages.1.head.regression.bbox_pred",
    }
    for theirs, ours in biases.items():
        close(gradients[f"{ours}.bias"], case[f"grad_roi_head.bbox_head.{theirs}.bias"], 5e-4)


def test_gradients_of_feature_maps(trained):
    case, *_, maps = trained
    for name, gradient in maps.items():
        close(gradient.norm(), case[f"gradnorm_{name}"], 0, rtol=5e-3)
