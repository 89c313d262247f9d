"""All published TOOD models, and ATSS, from an image to detections against the reference arrays.

The maps of backbone and pyramid are compared in the tests of the backbones.
"""

import pytest
import torch
from detectron2.config import instantiate

from htd.checkpoint import convert
from tests.modeling.dense.reference import STRIDES, as_maps, check_detections, decoded, model_config
from tests.modeling.reference import Tolerance
from tests.recorded import image, manifest, published_weights, tensors

FEATURE_SHARE = 1e-3
OUTPUTS = Tolerance(absolute=1e-3)
CANDIDATES = Tolerance(absolute=3)
LARGE, SMALL = (200, 260), (120, 150)
# Name of the manifest -> config, size of the image.
CASES = {
    "tood_r50_fpn_1x": ("tood/tood_r50_fpn_1x", LARGE),
    "tood_r50_fpn_anchor_based_1x": ("tood/tood_r50_fpn_anchor_based_1x", LARGE),
    "atss_r50_fpn_1x": ("baselines/atss_r50_fpn_1x", LARGE),
    "tood_r101_fpn_ms2x": ("tood/tood_r101_fpn_2x_ms", SMALL),
    "tood_r101_dcnv2_c3c5_fpn_ms2x": ("tood/tood_r101_fpn_dcnv2_2x_ms", SMALL),
    "tood_x101_64x4d_fpn_ms2x": ("tood/tood_x101_64x4d_fpn_2x_ms", SMALL),
    "tood_x101_64x4d_dcnv2_c4c5_fpn_ms2x": ("tood/tood_x101_64x4d_fpn_dcnv2_2x_ms", SMALL),
}


class Run:
    """What a model says of the image of a case.

    Attributes:
        maps: p3..p7 of the pyramid, by name.
        outputs: maps of the head's outputs by recorded name, then by level; boxes of TOOD in cells.
        candidates: what the suppression chooses from.
    """

    @torch.no_grad()
    def __init__(self, name, device):
        leaf, size = CASES[name]
        self.case = tensors("tood", f"e2e_{name}")
        self.model = instantiate(model_config(leaf)).eval()
        weights, _ = convert(published_weights("tood", name), self.model)
        self.model.load_state_dict(weights, strict=True)
        self.model.to(device)
        picture = image("img0", *size, manifest("tood", name)["seed"]).transpose(2, 0, 1)
        self.inputs = [{"image": torch.from_numpy(picture.copy())}]
        images = self.model.preprocess_image(self.inputs)
        self.maps = self.model.backbone(images.tensor)
        features = [self.maps[level] for level in STRIDES]
        predicted = decoded(self.model, features)
        self.outputs = outputs(*predicted)
        (self.candidates,) = self.model.postprocessing.pre_nms_boxes(*predicted, images.image_sizes)

    @torch.no_grad()
    def detections(self, most):
        """Return the best detections, ``most`` of them."""
        postprocessing = self.model.postprocessing
        before, postprocessing.max_detections = postprocessing.max_detections, most
        found = postprocessing.select(self.candidates, self.candidates.image_size)
        postprocessing.max_detections = before
        return found


def outputs(priors, predictions, boxes):
    logits = as_maps(predictions.logits, priors)
    if predictions.centerness is not None:
        return {
            "cls_logit": logits,
            "bbox_delta": as_maps(predictions.regression, priors),
            "centerness_logit": as_maps(predictions.centerness[..., None], priors),
        }
    return {
        "cls_score": {level: x.sigmoid() for level, x in logits.items()},
        "bbox_pred": as_maps(boxes / priors.prior_strides[:, None], priors),
    }


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.slow] * ("101" in name)) for name in CASES],
)
def run(request, device):
    return Run(request.param, device)


@pytest.mark.parametrize("level", ["p6", "p7"])
def test_coarsest_maps(run, level):
    largest = run.case[level].abs().max().item()
    Tolerance(absolute=FEATURE_SHARE * largest).check(run.maps[level], run.case[level])


@pytest.mark.parametrize("level", ["p5", "p6", "p7"])
def test_outputs_of_the_head(run, level):
    for name, maps in run.outputs.items():
        OUTPUTS.check(maps[level], run.case[f"{name}_{level}"])


def test_candidates(run):
    """Of the size that goes into the suppression."""
    low, high = run.candidates.boxes.split(2, dim=1)
    CANDIDATES.check((high > low).all(dim=1).sum(), run.case["num_candidates_0"])


def test_detections(run):
    with torch.no_grad():
        found = run.model(run.inputs)[0]["instances"]
    check_detections(run.case, "det", found)
    assert torch.equal(found.pred_boxes.tensor, run.detections(100).pred_boxes.tensor)


def test_more_detections(run):
    check_detections(run.case, "det400", run.detections(400))
