"""The RoI heads of HTD with the published weights of the reference cases."""

import pytest
from detectron2.config import LazyConfig, instantiate
from torch import nn

from htd.checkpoint import convert
from tests.recorded import published_weights


class Holder(nn.Module):
    """Gives RoI heads the name that they have in a detector."""

    def __init__(self, roi_heads: nn.Module):
        super().__init__()
        self.roi_heads = roi_heads


@pytest.fixture(scope="session")
def model_config():
    return LazyConfig.load("configs/htd/htd_r50_fpn_1x.py").model


@pytest.fixture(scope="session")
def roi_heads(model_config, device):
    """The published RoI heads; tests leave the weights and the training flag as they found them."""
    holder = Holder(instantiate(model_config.roi_heads))
    weights, _ = convert(published_weights("htd", "roi_head"), holder)
    holder.load_state_dict(weights, strict=True)
    return holder.roi_heads.eval().to(device)
