"""Which anchors are positive, negative and not used."""

import torch
from detectron2.structures import Boxes, pairwise_iou
from hypothesis import given, settings
from hypothesis import strategies as st

from htd.layers import boxes, paired_iou
from htd.modeling.rpn import AnchorLabeler

STRIDES = (4, 8)


def grid(stride, side, rows, columns):
    """Return square anchors (rows * columns, 4) centred on the cells of a level."""
    y, x = torch.meshgrid(torch.arange(rows) * stride, torch.arange(columns) * stride, indexing="ij")
    centre = torch.stack([x, y, x, y], dim=-1).reshape(-1, 4).float()
    return centre + torch.tensor([-1, -1, 1, 1]) * side / 2


def strip(*spans):
    """Return boxes of height 10 that span the given x."""
    return torch.tensor([[x1, 0.0, x2, 10.0] for x1, x2 in spans])


def test_thresholds_by_hand():
    """IoU with (0, 10): 1.0, 0.8, 0.5 and 0.2; only the last is below 0.3, the third is left out."""
    anchors = strip((0, 10), (0, 8), (0, 5), (0, 2))
    labels, _ = AnchorLabeler().match(anchors, strip((0, 10)))
    assert labels.tolist() == [1, 1, -1, 0]


def test_best_anchor_of_an_object_is_positive_if_good_enough():
    """The best IoU of the object is 0.5 and is attained twice; with 0.6 demanded it claims none."""
    anchors = strip((0, 10), (10, 20), (0, 2))
    truth = strip((5, 15))
    iou = pairwise_iou(Boxes(truth), Boxes(anchors))[0]
    torch.testing.assert_close(iou, torch.tensor([1 / 3, 1 / 3, 0]))
    assert AnchorLabeler().match(anchors, truth)[0].tolist() == [1, 1, 0]
    assert AnchorLabeler(low_quality_iou=0.4).match(anchors, truth)[0].tolist() == [-1, -1, 0]


def test_later_object_takes_the_anchor():
    """Anchor 0 has IoU 1.0 with object 0 and 0.4, the best of object 1: it goes to object 1."""
    anchors, truth = strip((0, 10), (20, 30)), strip((0, 10), (0, 4))
    labels, index = AnchorLabeler().match(anchors, truth)
    assert labels.tolist() == [1, 0]
    assert index[0] == 1
    assert AnchorLabeler(low_quality_iou=0.5).match(anchors, truth)[1][0] == 0


def test_only_anchors_within_the_image_take_part():
    """The best anchor of the object reaches beyond the border; the second best is claimed instead."""
    levels = [grid(4, 8, 4, 4)]
    truth = torch.tensor([[-1.0, 2.0, 7.0, 10.0]])
    labels, _ = AnchorLabeler()(levels, STRIDES[:1], truth, (16, 16))
    inside = ((levels[0] >= 0) & (levels[0] < 16)).all(dim=1)
    assert torch.equal(labels >= 0, inside)
    centre = levels[0][labels == 1].view(-1, 2, 2).mean(dim=1)
    assert centre.tolist() == [[4, 4], [4, 8]]


def test_far_border_is_exclusive_and_near_border_inclusive():
    level = [torch.tensor([[0.0, 0, 8, 8], [0, 0, 7.5, 8], [0, 0, 7.5, 7.5], [-0.5, 0, 7, 7]])]
    assert AnchorLabeler().inside(level, [4], (8, 8)).tolist() == [False, False, True, False]
    wider = AnchorLabeler(allowed_border=1)
    assert wider.inside(level, [4], (8, 8)).tolist() == [True, True, True, True]


def test_cells_beyond_the_images_own_padding_are_left_out():
    """An image of 20 x 40 pads to 32 x 64: of a 16 x 32 grid of stride 4, 8 x 16 cells are its own."""
    labeler = AnchorLabeler(allowed_border=-1)
    inside = labeler.inside([grid(4, 32, 16, 32), grid(8, 64, 8, 16)], STRIDES, (20, 40))
    fine, coarse = inside[:512].view(16, 32), inside[512:].view(8, 16)
    assert fine.sum() == 8 * 16 and fine[:8, :16].all()
    assert coarse.sum() == 4 * 8 and coarse[:4, :8].all()
    centred = labeler.inside([grid(4, 32, 16, 32) + 2], STRIDES[:1], (20, 40)).view(16, 32)
    assert torch.equal(centred, fine)


def test_no_object_and_no_anchor():
    levels, none = [grid(4, 8, 4, 4)], torch.zeros(0, 4)
    labels, index = AnchorLabeler()(levels, STRIDES[:1], none, (16, 16))
    assert set(labels.tolist()) == {0, -1} and not index.any()
    labels, _ = AnchorLabeler()(levels, STRIDES[:1], strip((0, 10)), (4, 4))
    assert (labels == -1).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 200))
def test_memory_limit_changes_nothing(seed, num_gt, pairs_at_once):
    generator = torch.Generator().manual_seed(seed)
    levels = [grid(4, 12, 12, 12), grid(8, 24, 6, 6)]
    # Whole coordinates make equal IoUs, and so shared claims, likely.
    corner = torch.randint(0, 30, (num_gt, 2), generator=generator).float()
    truth = torch.cat([corner, corner + torch.randint(4, 20, (num_gt, 2), generator=generator)], dim=1)
    whole = AnchorLabeler()(levels, STRIDES, truth, (48, 44))
    parts = AnchorLabeler(pairs_at_once=pairs_at_once)(levels, STRIDES, truth, (48, 44))
    assert torch.equal(whole[0], parts[0]) and torch.equal(whole[1], parts[1])
    assert torch.equal(whole[0], plain_labels(torch.cat(levels), truth, (48, 44)))


def plain_labels(anchors, truth, size):
    """The rule again, object by object, without an allowance for speed."""
    x1, y1, x2, y2 = anchors.unbind(dim=1)
    inside = (x1 >= 0) & (y1 >= 0) & (x2 < size[1]) & (y2 < size[0])
    iou = pairwise_iou(Boxes(anchors), Boxes(truth)).masked_fill(~inside[:, None], -1)
    best = iou.max(dim=1).values
    labels = torch.full((len(anchors),), -1)
    labels[inside & (best < 0.3)] = 0
    labels[best >= 0.7] = 1
    for column in iou.T:
        if column.max() >= 0.3:
            labels[column == column.max()] = 1
    return labels


def test_crowd_in_a_large_image_is_matched_in_parts(monkeypatch):
    """At 800 x 1333 there are 200,000 anchors: 100 objects make more pairs than may be held at a time."""
    pairs = []

    def counted(truth, anchors):
        pairs.append(len(truth) * len(anchors))
        return paired_iou(truth, anchors)

    monkeypatch.setattr(boxes, "paired_iou", counted)
    levels = [grid(s, 8 * s, -(-800 // s), -(-1344 // s)).repeat_interleave(3, dim=0) for s in (4, 8, 16)]
    corner = torch.rand(100, 2) * 700
    truth = torch.cat([corner, corner + 20 + torch.rand(100, 2) * 80], dim=1)
    labels, _ = AnchorLabeler()(levels, (4, 8, 16), truth, (800, 1333))
    assert (labels == 1).any()
    assert max(pairs) <= 2**22 < sum(pairs)
