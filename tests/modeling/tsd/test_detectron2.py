"""TSD with continuous boxes where Detectron2's own code calls it."""

import torch
from detectron2.config import get_cfg, instantiate
from detectron2.modeling import GeneralizedRCNN, GeneralizedRCNNWithTTA

from tests.configs.reduced import build, example, reduced_model
from tests.modeling.htc.small import seeded_losses, without_gradient
from tests.modeling.tsd.leaves import CONTINUOUS


def stock():
    """The reduced model in Detectron2's own meta-architecture."""
    config = reduced_model(CONTINUOUS)
    config._target_ = GeneralizedRCNN
    torch.manual_seed(0)
    return instantiate(config)


def own_frame(num_objects, seed=0):
    """An input whose output frame is the image itself, where both post-processings do the same."""
    return example(num_objects, seed=seed) | {"height": 64, "width": 96}


def test_stock_meta_architecture_trains_and_detects():
    theirs, ours = stock(), build(CONTINUOUS)
    ours.load_state_dict(theirs.state_dict())
    inputs = [own_frame(2), own_frame(1, seed=1)]
    losses, _ = seeded_losses(theirs, [inputs])
    assert losses == seeded_losses(ours, [inputs])[0] and "loss_margin_loc" in losses
    assert not without_gradient(theirs)
    with torch.no_grad():
        wanted = [x["instances"] for x in theirs.eval()(inputs)]
        found = [x["instances"] for x in ours.eval()(inputs)]
    for one, other in zip(found, wanted, strict=True):
        assert len(one)
        torch.testing.assert_close(one.pred_boxes.tensor, other.pred_boxes.tensor)
        assert torch.equal(one.pred_classes, other.pred_classes)
        assert torch.equal(one.scores, other.scores)


def test_augmentation_by_detectron2_with_one_view_changes_nothing():
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = False
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 4
    cfg.TEST.DETECTIONS_PER_IMAGE = 20
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE, cfg.TEST.AUG.FLIP = (64,), 200, False
    model, inputs = build(CONTINUOUS).eval(), own_frame(2)
    with torch.no_grad():
        found = GeneralizedRCNNWithTTA(cfg, model)([inputs])[0]["instances"]
        wanted = model([inputs])[0]["instances"][:20]
    assert torch.equal(found.scores, wanted.scores)
    torch.testing.assert_close(found.pred_boxes.tensor, wanted.pred_boxes.tensor)
