"""Shifting a map, or an image, shifts what a detector with the SALT operator predicts in the interior."""

import pytest
import torch
from torch import nn

from tests.configs.reduced import build

NET, ATSS, FCOS, RETINANET = (
    f"configs/salt/salt_{host}r50_fpn_1x.py" for host in ("", "atss_", "fcos_", "retinanet_")
)
CHANNELS = 16
# Cells that a prediction looks away: six layers of 3x3, and points in boxes of up to four cells, stretched.
REACH = 16
STEP, SIZE = 128, 768  # pixels: the coarsest stride, an image that is larger than what a prediction sees


def without_statistics(part):
    """Leave out the norms that see a whole map."""
    for name, child in part.named_children():
        if isinstance(child, nn.GroupNorm):
            setattr(part, name, nn.Identity())
        else:
            without_statistics(child)


def detector(leaf):
    """A narrow one whose points lie some cells around and differ from cell to cell."""
    model = build(leaf).eval()
    torch.manual_seed(0)
    without_statistics(model.head)
    with torch.no_grad():
        for parameter in model.head.parameters():
            if parameter.dim() == 4:
                nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
        nn.init.zeros_(model.head.predictors.cls_score.bias)
        operator = model.head.towers.operator
        operator.distances.weight *= 0.4
        operator.distances.bias += 1.5
        operator.vectors.weight *= 0.1
    return model


def predicted(model, maps):
    """Return probabilities, boxes, as distributions if they are, and coarse distances on the finest map."""
    height, width = maps[0].shape[-2:]
    found = model.head(maps)
    per_cell = model.head.predictors.num_anchors
    boxes = found.regression[:, : per_cell * height * width]
    boxes = boxes.unflatten(2, (4, -1)).softmax(3).flatten(2) if boxes.shape[2] > 4 else boxes
    parts = {
        "probabilities": found.logits[:, : per_cell * height * width].sigmoid(),
        "boxes": boxes,
        "coarse": found.coarse[:, : height * width],
    }
    if found.centerness is not None:
        parts["centerness"] = found.centerness[:, : per_cell * height * width, None].sigmoid()
    assert 2 < parts["coarse"].max() < 4
    return {name: value.reshape(height, width, -1) for name, value in parts.items()}


def check_shifted(before, after, by, border):
    inner = slice(border, -border)
    for name, found in after.items():
        wanted = before[name].roll(by, (0, 1))
        torch.testing.assert_close(found[inner, inner], wanted[inner, inner], atol=1e-5, rtol=1e-4)
        assert wanted[inner, inner].flatten(0, 1).std(dim=0).max() > 1e-2, name
        # Near the border it does not hold, so the interior is no accident.
        assert not torch.allclose(found, wanted, atol=1e-3), name


@torch.no_grad()
@pytest.mark.parametrize("leaf", [NET, ATSS, FCOS, RETINANET])
def test_heads(leaf):
    model = detector(leaf)
    x = torch.randn(1, CHANNELS, 44, 46, generator=torch.Generator().manual_seed(1))
    by = (1, -1)
    check_shifted(predicted(model, [x]), predicted(model, [x.roll(by, (2, 3))]), by, REACH)


@torch.no_grad()
def test_a_detector():
    """By the coarsest stride, so that the maps of all levels move by whole cells."""
    model = detector(NET)
    image = torch.randint(0, 256, (3, SIZE, SIZE), generator=torch.Generator().manual_seed(1))
    found = []
    for shifted in (image, image.roll((STEP, -STEP), (1, 2))):
        batch = model.preprocess_image([{"image": shifted}])
        maps = model.backbone(batch.tensor)
        found.append(predicted(model, [maps[name] for name in model.head_in_features]))
    # A cell of the finest map sees 24 cells around it.
    check_shifted(*found, (STEP // 8, -STEP // 8), 24 + REACH)
