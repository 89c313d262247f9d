"""A whole SALT-Net at work on the image of a reference case."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.structures import Instances
from torch import nn

from htd.checkpoint import convert
from tests.modeling.dense.reference import STRIDES, as_maps, decoded
from tests.modeling.reference import Tolerance, detections, model_config
from tests.recorded import image, manifest, partners, published_weights, tensors

STAGES = ("res2", "res3", "res4", "res5")
CANDIDATES = Tolerance(absolute=2)
BOX_TOLERANCE, SCORE_TOLERANCE = 0.02, 1e-4
# Detections with scores closer than this may be in either order, or be missing at the end of the list.
TIE = 2e-5
SCORE_THRESHOLD = 0.05
EXTRA_CLASS = 80


def check_maps(found, wanted) -> None:
    """Compare maps, or numbers made of them, of a whole model."""
    Tolerance(max(1e-4 * wanted.abs().max().item(), 1e-6), 1e-4).check(found, wanted)


def model_of(leaf: str, name: str, device) -> tuple[nn.Module, dict[str, str]]:
    """Return a model with the weights of a manifest, and our names of all published ones."""
    config = model_config(leaf)
    config.head.predictors.extra_classes = 1
    model = instantiate(config)
    weights, report = convert(published_weights("salt", f"manifest_{name}"), model)
    assert report.complete
    model.load_state_dict(weights, strict=True)
    return model.to(device), report.used


def picture(name: str, size: tuple[int, int]) -> torch.Tensor:
    """Return the image (3, H, W) of a case."""
    pixels = image("e2e", *size, manifest("salt", f"manifest_{name}")["seed"])
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


class Inference:
    """What a model says of the image of a case.

    Attributes:
        case: the recorded arrays.
        image: the normalised and padded image.
        stages, levels: maps res2..res5 of the backbone and p3..p7 of the pyramid.
        outputs: maps of the head's outputs by recorded name, then by level.
        found: the detections.
        num_candidates: boxes with a class that the suppression chooses from.
    """

    @torch.no_grad()
    def __init__(self, leaf: str, name: str, size: tuple[int, int], scale: float, device):
        self.case = tensors("salt", f"e2e_{name}")
        model, _ = model_of(leaf, name, device)
        item = {"image": picture(name, size)}
        item |= {"height": size[0] / scale, "width": size[1] / scale}
        stages, kept = [getattr(model.eval().backbone.bottom_up, stage) for stage in STAGES], {}
        hooks = [
            module.register_forward_hook(lambda module, inputs, output: kept.update({module: output}))
            for module in [*stages, model.backbone, model.head]
        ]
        self.found = model([item])[0]["instances"]
        for hook in hooks:
            hook.remove()
        images = model.preprocess_image([item])
        self.image = images.tensor
        self.stages = [kept[stage] for stage in stages]
        self.levels, predictions = kept[model.backbone], kept[model.head]
        features = [self.levels[level] for level in STRIDES]
        priors = model.priors(features)
        self.outputs = {
            "cls_score": as_maps(predictions.logits.sigmoid(), priors),
            "bbox_pred": as_maps(predictions.regression, priors),
        }
        predicted = decoded(model, features, predictions)
        (pre_nms_boxes,) = model.postprocessing.pre_nms_boxes(*predicted, images.image_sizes)
        self.num_candidates = len(pre_nms_boxes)

    def check_image(self) -> None:
        """Compare what the network sees."""
        check_maps(self.image.sum(), self.case["image_sum"])

    def check_statistics(self) -> None:
        """Compare mean and deviation of the maps of backbone and pyramid."""
        for maps, name in ((self.stages, "c_mean_std"), ([self.levels[p] for p in STRIDES], "p_mean_std")):
            found = torch.stack([torch.stack([x.mean(), x.std()]) for x in maps])
            check_maps(found, self.case[name])

    def check_levels(self) -> None:
        """Compare the finest, the middle and the coarsest map of the pyramid."""
        every = self.levels["p3"].shape[1] // self.case["p3_sub"].shape[1]
        check_maps(self.levels["p3"][:, ::every], self.case["p3_sub"])
        for level in ("p5", "p7"):
            check_maps(self.levels[level], self.case[level])

    def check_outputs(self) -> None:
        """Compare probabilities of classes and logits of bins."""
        for (name, maps), (i, level) in itertools.product(self.outputs.items(), enumerate(STRIDES)):
            if i:  # of P3 nothing is recorded
                check_maps(maps[level], self.case[f"{name}{i}"])

    def check_detections(self) -> None:
        """Compare the detections, in their order."""
        CANDIDATES.check(self.num_candidates, self.case["num_candidates"])
        check_detections(self.case, self.found)


def check_detections(case: dict[str, torch.Tensor], found: Instances) -> None:
    """Compare detections with recorded ones, of which those of the extra class do not count."""
    kept = (case["labels"] != EXTRA_CLASS).numpy()
    dets, labels = case["dets"].numpy()[kept], case["labels"].numpy()[kept]
    wanted = {"boxes": dets[:, :4], "scores": dets[:, 4], "labels": labels}
    scores = wanted["scores"]
    rows = partners(wanted, detections(found), box_tolerance=BOX_TOLERANCE, score_tolerance=SCORE_TOLERANCE)
    doubtful = np.abs(scores - scores[-1]) < TIE
    doubtful |= np.abs(scores - SCORE_THRESHOLD) < TIE
    assert (rows >= 0)[~doubtful].all() and abs(len(found) - len(scores)) <= doubtful.sum()
    paired = np.flatnonzero(rows >= 0)
    for first, second in itertools.combinations(paired, 2):
        assert rows[first] < rows[second] or scores[first] - scores[second] < TIE
