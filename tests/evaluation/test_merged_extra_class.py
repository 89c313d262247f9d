"""Test-time augmentation of dense detectors whose classifier has an output beyond the classes."""

import pytest
import torch
from detectron2.config import instantiate

from htd.evaluation import View
from htd.modeling.dense.postprocessing import RescaleFirst, SuppressFirst
from tests.configs.reduced import example, reduced_model
from tests.evaluation.test_merged_views import SIZE, Told, detector, found_by, merged, picture, resized, same
from tests.recorded import close


@pytest.mark.parametrize("kind", [RescaleFirst, SuppressFirst])
@pytest.mark.parametrize(("most", "scores"), [(50, [0.9, 0.8]), (2, [0.9])])
def test_a_class_beyond_the_classes_is_dropped_last(kind, most, scores):
    """It suppresses nothing of the class, but its detections of both views take their places."""
    box, other = [10.0, 10, 30, 30], [50.0, 10, 70, 30]
    found = {
        96: (torch.tensor([[0.9, 0.0], [0.0, 0.85]]), torch.tensor([box, other])),
        192: (torch.tensor([[0.0, 0.7], [0.8, 0.0]]), 2 * torch.tensor([box, other])),
    }
    model = Told(detector(kind).postprocessing, found).eval()
    model.postprocessing.num_classes, model.postprocessing.max_detections = 1, most
    result = found_by(merged(model, View(augmentations=[]), View(augmentations=[resized(128)])), picture())
    close(result.scores, torch.tensor(scores), 1e-6)
    close(result.pred_boxes.tensor, torch.tensor([box, other][: len(scores)]), 1e-4)
    assert not result.pred_classes.any()


def test_views_of_published_salt_weights():
    """Whose classifier has an output beyond the classes."""
    config = reduced_model("configs/salt/salt_r50_fpn_1x.py")
    config.head.predictors.extra_classes = 1
    config.postprocessing.pre_nms.score_threshold = 0.0
    torch.manual_seed(0)
    model = instantiate(config).eval()
    item = {"image": example(0, seed=5, size=SIZE)["image"], "height": SIZE[0], "width": SIZE[1]}
    views = View(augmentations=[]), View(augmentations=[], mirrored=True)
    for several in (merged(model, *views[:1]), merged(model, *views)):
        model.postprocessing.num_classes = None
        everything = found_by(several, item)
        model.postprocessing.num_classes = 4
        known = everything.pred_classes < 4
        assert not known.all()
        same(found_by(several, item), everything[known])
