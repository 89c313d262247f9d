"""Cascades some of whose stages are TSD's and others plain, in any order."""

import copy

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from tests.configs.reduced import example, narrow, reduced_model
from tests.modeling.htc.small import seeded_losses, without_gradient
from tests.modeling.tsd.leaves import CASCADE

PLAIN = {"loss_cls", "loss_box_reg"}
TSD = PLAIN | {"loss_cls_tsd", "loss_box_reg_tsd", "loss_margin_cls", "loss_margin_loc"}


def cascade(tsd_stages):
    """Return a reduced cascade in which all but the stages ``tsd_stages`` are plain ones."""
    config = reduced_model(CASCADE)
    plain = LazyConfig.load("configs/common/models/faster_rcnn_legacy.py").model.roi_heads.stages[0]
    narrow(plain)
    plain.head.background_box = True
    for k, stage in enumerate(config.roi_heads.stages):
        if k not in tsd_stages:
            changed = copy.deepcopy(plain)
            changed.update(
                sampler=stage.sampler, box_transform=stage.box_transform, refined_class=stage.refined_class
            )
            config.roi_heads.stages[k] = changed
    torch.manual_seed(0)
    return instantiate(config)


@pytest.mark.parametrize("tsd_stages", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_trains_and_detects(tsd_stages):
    model, inputs = cascade(tsd_stages), [example(3), example(0, seed=1), example(1, seed=2)]
    losses, _ = seeded_losses(model, [inputs])
    names = {f"{name}_stage{k}" for k in range(3) for name in (TSD if k in tsd_stages else PLAIN)}
    assert {name for name in losses if "rpn" not in name} == names
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert not without_gradient(model)
    with torch.no_grad():
        together = [x["instances"] for x in model.eval()(inputs)]
        alone = model([inputs[2]])[0]["instances"]
    assert len(together[1])
    torch.testing.assert_close(together[2].scores, alone.scores, atol=1e-5, rtol=1e-4)
