"""HTD R-50 from an image to detections against the reference arrays."""

import pytest
import torch
from detectron2.config import instantiate

from htd.checkpoint import convert
from tests.modeling.reference import detections
from tests.recorded import close, image, published_weights, tensors, unpaired

# Smaller than published, as in the reference case.
RPN_CANDIDATES, RPN_PROPOSALS, DETECTIONS = 150, 300, 400


@pytest.fixture(scope="module")
def case():
    return tensors("htd", "e2e_r50")


@pytest.fixture(scope="module")
def model(model_config, device):
    config = model_config.copy()
    config.proposal_generator.proposal_rule.pre_nms_topk = [2000, RPN_CANDIDATES]
    config.proposal_generator.proposal_rule.post_nms_topk = [2000, RPN_PROPOSALS]
    config.roi_heads.postprocessing.max_detections = DETECTIONS
    model = instantiate(config).eval()
    weights, _ = convert(published_weights("htd", "manifest_r50"), model)
    model.load_state_dict(weights, strict=True)
    return model.to(device)


@pytest.fixture(scope="module")
def inputs():
    picture = torch.from_numpy(image("htd", 288, 400, 21).transpose(2, 0, 1).copy())
    return [{"image": picture, "height": 288 / 1.25, "width": 400 / 1.25}]


@pytest.fixture(scope="module")
def steps(model, inputs):
    """Feature maps, proposals and both stages' outputs for the recorded rows."""
    with torch.no_grad():
        images = model.preprocess_image(inputs)
        features = model.backbone(images.tensor)
        proposals, _ = model.proposal_generator(images, features, None)
    return images, features, proposals[0]


def test_feature_maps(case, steps):
    _, features, _ = steps
    for name, x in features.items():
        close(x.mean(), case[f"{name}_mean"][0], 1e-5)
        close(x.std(), case[f"{name}_std"][0], 1e-5)
    close(features["p6"], case["p6"], 1e-4)
    close(features["p2"][:, ::16, ::8, ::8], case["p2_slice"], 1e-4)
    close(features["p5"][:, ::4], case["p5_slice"], 1e-4)


def test_proposals(case, steps):
    proposals = steps[2].to("cpu")
    found = {"boxes": proposals.proposal_boxes.tensor, "scores": proposals.objectness_logits.sigmoid()}
    wanted = {"boxes": case["proposals0"].numpy(), "scores": case["objectness0"].numpy()}
    assert len(found["scores"]) == RPN_PROPOSALS
    assert not len(unpaired(wanted, found, box_tolerance=5e-3, score_tolerance=1e-5))


def test_stages(case, steps, model):
    images, features, proposals = steps
    first, second = model.roi_heads.stages
    count = len(case["s0_cls"])
    distance = torch.cdist(case["proposals0"][:count], proposals.proposal_boxes.tensor.cpu(), p=float("inf"))
    order = distance.argmin(dim=1)
    with torch.no_grad():
        context, _ = model.roi_heads.make_context(images.image_sizes, features)
        boxes = [proposals.proposal_boxes.tensor]
        rois, rows = context.rois(boxes), torch.arange(RPN_PROPOSALS, device=model.device)
        common = first.head.classify(context, rois)
        deltas = first.head.regress(context, rois, common, rows)
        refined = first.refine(context, rois, common, deltas)
        rois = context.rois(refined)
        decoupled = second.head.classify(context, rois, common.classifier)
        close(common.logits[order], case["s0_cls"], 1e-3)
        close(deltas[order], case["s0_reg"], 2e-4)
        close(refined[0][order], case["rois1"][:, 1:], 5e-3)
        close(decoupled.logits[order], case["s1_cls"], 3e-3)
        order = order.to(model.device)
        close(second.head.regress(context, rois, decoupled, order), case["s1_reg"], 2e-4)


def test_detections(case, model, inputs):
    with torch.no_grad():
        found = model(inputs)[0]["instances"]
    assert found.image_size == (230.4, 320)
    found = detections(found)
    wanted = {name: case[f"{name}0"].numpy() for name in found}
    assert len(found["scores"]) == DETECTIONS
    assert not len(unpaired(wanted, found, box_tolerance=1e-2, score_tolerance=5e-4))
