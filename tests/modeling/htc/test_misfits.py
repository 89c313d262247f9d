"""Mask branches whose parts are for different numbers of heads or stages."""

import pytest
from detectron2.config import instantiate

from tests.configs.reduced import example, reduced_model

LEAF = "configs/htc/htc_without_semantic_r50_fpn_1x.py"


def heads_of(change):
    config = reduced_model(LEAF).roi_heads
    change(config)
    return instantiate(config)


def fewer_stages(heads):
    heads.stages = heads.stages[:2]


def fewer_weights(heads):
    heads.mask_branch.loss_weights = [1.0, 0.5]


def shorter_flow(heads):
    heads.mask_branch.flow.num_heads = 2


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (fewer_stages, "heads"),
        (fewer_weights, "loss_weights"),
        (shorter_flow, "num_heads"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, text):
    with pytest.raises(Exception, match=text):
        heads_of(change)


def test_fewer_heads_than_stages_hang_on_the_last_stages():
    config = reduced_model(LEAF)
    branch = config.roi_heads.mask_branch
    branch.heads, branch.loss_weights, branch.flow.num_heads = branch.heads[:2], [1.0, 0.5], 2
    losses = instantiate(config).train()([example(2)])
    assert {name for name in losses if "mask" in name} == {"loss_mask_stage1", "loss_mask_stage2"}
