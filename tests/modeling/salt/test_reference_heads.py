"""SALT-Net's heads, the ordinary and the deformable one, against the reference arrays."""

import pytest
import torch

from tests.modeling.dense.recorded import check
from tests.modeling.dense.reference import as_maps, random_maps
from tests.modeling.salt.reference import DEFORMABLE, R50, head
from tests.recorded import tensors

# Name of the case -> config, images, size of the batch, seed of the maps.
CASES = {
    "head_forward": (R50, 2, (128, 160), 12),
    # Down to maps of one cell, which are smaller than the kernels.
    "head_forward_dcnx": (DEFORMABLE, 1, (64, 80), 13),
}


@pytest.fixture(scope="module", params=CASES)
def forward(request, device):
    """The recorded arrays, and our maps by level, by their names."""
    leaf, images, size, seed = CASES[request.param]
    model, _ = head(leaf, device)
    features = random_maps(seed, images, *size, device)
    with torch.no_grad():
        found = model.eval().head(features)
    priors = model.priors(features)
    rows = {
        "cls_score": found.logits.sigmoid(),
        "bbox_pred": found.regression,
        "bbox_distance": found.coarse,
    }
    return tensors("salt", request.param), {name: as_maps(x, priors) for name, x in rows.items()}


@pytest.mark.parametrize("name", ["cls_score", "bbox_pred", "bbox_distance"])
def test_outputs(forward, name):
    """Probabilities of 81 classes, logits of the bins and coarse distances in cells."""
    case, found = forward
    for i, level in enumerate(found[name].values()):
        check(level, case[f"{name}{i}"])
