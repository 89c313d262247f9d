"""TSD's head against the reference arrays: RoI features, offsets, displaced features, both heads' outputs."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from htd.modeling.cascade import ClassificationOutput, RoIContext, RoIs
from htd.modeling.tsd.head import TSDOutput
from tests.modeling.tsd.small import background_last, maps, roi_heads
from tests.recorded import close, extents, tensors

SIZE, BATCH = (480, 640), 2
# Absolute, as stated with the arrays.
FEATURES, OFFSETS, DISPLACED, LOGITS, DELTAS = 5e-4, 5e-4, 1e-3, 3e-3, 1e-3
ROWS, CHANNELS = slice(12), slice(8)  # what is stored of the features


@dataclass
class Run:
    """What the head of one case gave in training mode.

    Attributes:
        pooled: (R, C, S, S), the plain RoI features.
        displaced: the features (R, C, S, S) that the two towers were given: ``"c"`` and ``"r"``.
    """

    arrays: dict[str, Tensor]
    head: nn.Module
    context: RoIContext
    rois: RoIs
    pooled: Tensor
    classified: TSDOutput
    deltas: Tensor
    sibling_deltas: Tensor
    displaced: dict[str, Tensor]


@pytest.fixture(scope="module", params=["small", "full"])
def run(request, device):
    case = f"head_{request.param}"
    arrays = tensors("tsd", case)
    heads = roi_heads(case).to(device)
    features = maps(case, f"head.{request.param}", BATCH, SIZE)
    context, _ = heads.make_context([SIZE] * BATCH, {name: m.to(device) for name, m in features.items()})
    regions = arrays["rois"].to(device)
    rois = context.rois([extents(regions[regions[:, 0] == image, 1:]) for image in range(BATCH)])
    head = heads.stages[0].head.train()
    displaced, hooks = {}, []
    for key, tower in (("c", head.classification), ("r", head.regression)):
        hooks.append(
            tower.pooler.register_forward_hook(lambda *call, key=key: displaced.update({key: call[-1]}))
        )
    with torch.no_grad():
        pooled = head.features(context, rois)
        classified = head.classify(context, rois)
        rows = torch.arange(len(rois), device=device)
        deltas = head.regress(context, rois, classified, rows)
        sibling_deltas = head.sibling.bbox_pred(classified.sibling.features[rows])
    for hook in hooks:
        hook.remove()
    yield Run(arrays, head, context, rois, pooled, classified, deltas, sibling_deltas, displaced)
    heads.eval().cpu()


def test_roi_features_and_levels(run):
    assert torch.equal(run.rois.levels.cpu(), run.arrays["levels"])
    assert set(run.arrays["levels"].tolist()) == {0, 1, 2, 3}
    close(run.pooled[ROWS, CHANNELS], run.arrays["roi_feat"], FEATURES)


def test_offsets(run):
    head = run.head
    with torch.no_grad():
        hidden = head.trunk(run.pooled.flatten(1)).relu()
        close(head.classification.shift.offsets(hidden, 1.0).flatten(1), run.arrays["delta_c"], OFFSETS)
        close(head.regression.shift.offsets(hidden, 1.0), run.arrays["delta_r"], OFFSETS)
    # What a tower is given are fractions of the box.
    close(run.classified.box_offsets, 0.1 * run.arrays["delta_r"], 0.1 * OFFSETS)


@pytest.mark.parametrize("tower", ["c", "r"])
def test_displaced_features(run, tower):
    close(run.displaced[tower][ROWS, CHANNELS], run.arrays[f"pool_{tower}"], DISPLACED)


def test_outputs_of_the_towers(run):
    close(run.classified.logits, background_last(run.arrays["tsd_cls_score"]), LOGITS)
    close(run.deltas, run.arrays["tsd_bbox_pred"][:, 4:], DELTAS)


def test_outputs_of_the_sibling(run):
    close(run.classified.sibling.logits, background_last(run.arrays["cls_score"]), LOGITS)
    close(run.sibling_deltas, run.arrays["bbox_pred"][:, 4:], DELTAS)


def test_evaluation_gives_the_same_without_the_sibling(run, monkeypatch):
    def refuse(*_):
        raise AssertionError("the sibling runs in evaluation")

    for module in run.head.sibling.modules():
        monkeypatch.setattr(module, "forward", refuse)
    with pytest.raises(AssertionError, match="sibling runs"):
        run.head.classify(run.context, run.rois)
    run.head.eval()
    try:
        with torch.no_grad():
            found = run.head.classify(run.context, run.rois)
            deltas = run.head.regress(run.context, run.rois, found, torch.arange(len(run.rois)))
    finally:
        run.head.train()
    assert found.sibling is None
    assert torch.equal(found.logits, run.classified.logits)
    assert torch.equal(found.boxes, run.classified.boxes)
    assert torch.equal(deltas, run.deltas)


def test_shifted_boxes(run):
    """Boxes move by a tenth of their sizes times the offsets, not rounded and not clipped."""
    boxes, (dx, dy) = run.rois.boxes.cpu(), run.arrays["delta_r"].unbind(dim=1)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    move = 0.1 * torch.stack([dx * width, dy * height, dx * width, dy * height], dim=1)
    # The largest boxes have a side of several hundred pixels.
    close(run.classified.boxes, boxes + move, 0.1 * OFFSETS * 640)
    assert isinstance(run.classified.sibling, ClassificationOutput)
    assert torch.equal(run.classified.sibling.boxes, run.rois.boxes)


def test_some_rows_regress_alike(run):
    rows = torch.tensor([5, 3, 11], device=run.deltas.device)
    with torch.no_grad():
        close(run.head.regress(run.context, run.rois, run.classified, rows), run.deltas[rows], 1e-4)
