"""The region proposal network: anchors, labels, sampling, normalizer, losses and proposals."""

import math

import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals
from detectron2.structures import Boxes, pairwise_iou
from hypothesis import given, settings
from hypothesis import strategies as st

from htd.layers import ContinuousBoxes, InclusiveBoxes
from htd.layers.boxes import ClampedBox2BoxTransform
from htd.modeling.rpn import AnchorLabeler, ProposalRule, RoundedAnchorGenerator, SampledAnchors
from tests.modeling.rpn.conftest import config, image_list, targets
from tests.recorded import feature_maps, inclusive

CONTINUOUS, INCLUSIVE = ContinuousBoxes(), InclusiveBoxes()
BOX = torch.tensor([[8.0, 8.0, 40.0, 36.0]])
NONE = torch.zeros(0, 4)
ROUNDED_STRIDES, RATIOS = [4, 8, 16, 32, 64], [0.5, 1.0, 2.0]
# First and last pixels of the anchors of the first cell; the height over the width is 0.5, 1, 2.
BASE = {
    4: [[-21, -9, 24, 12], [-14, -14, 17, 17], [-9, -21, 12, 24]],
    8: [[-41, -19, 48, 26], [-28, -28, 35, 35], [-19, -41, 26, 48]],
    16: [[-83, -37, 98, 52], [-56, -56, 71, 71], [-37, -83, 52, 98]],
    32: [[-165, -75, 196, 106], [-112, -112, 143, 143], [-75, -165, 106, 196]],
    64: [[-330, -149, 393, 212], [-224, -224, 287, 287], [-149, -330, 212, 393]],
}


def takes_part(labeler, levels, strides, size, convention=CONTINUOUS):
    """Return which anchors (R,) take part: without ground truth those that are negative."""
    return labeler(levels, strides, NONE, size, convention)[0] == 0


def match(anchors, truth, **settings):
    """Return labels and index (R,) of anchors that all take part."""
    labeler = AnchorLabeler(allowed_border=-1, **settings)
    return labeler([anchors], [1], truth, (1000, 1000), CONTINUOUS)


@pytest.fixture(scope="module")
def generator():
    return RoundedAnchorGenerator(
        sizes=[[8 * s] for s in ROUNDED_STRIDES], aspect_ratios=[RATIOS], strides=ROUNDED_STRIDES
    )


def maps_of(height, width):
    """Return a map for each level of a padded batch."""
    return [torch.zeros(1, 1, -(-height // s), -(-width // s)) for s in ROUNDED_STRIDES]


def test_base_anchors(generator):
    assert list(generator.strides) == ROUNDED_STRIDES
    assert generator.num_anchors == [3] * 5
    for base, stride in zip(generator.cell_anchors, ROUNDED_STRIDES, strict=True):
        assert inclusive(base).tolist() == BASE[stride]


def test_order_of_the_grid(generator):
    """Row by row, in a cell one ratio after the other."""
    for level, stride in zip(generator(maps_of(96, 160)), ROUNDED_STRIDES, strict=True):
        rows, columns = -(-96 // stride), -(-160 // stride)
        found = inclusive(level.tensor).view(rows, columns, 3, 4)
        for i, j in {(0, 0), (0, columns - 1), (rows - 1, 0), (rows - 1, columns - 1)}:
            shift = torch.tensor([j, i, j, i]) * stride
            assert torch.equal(found[i, j], torch.tensor(BASE[stride]) + shift)


@pytest.mark.parametrize("border", [0, 16, -1])
def test_which_take_part(generator, border):
    """An image of 300 x 410 in a batch of 416 x 512; its own padding ends at 320 x 416."""
    height, width, own = 300, 410, (320, 416)
    levels = [level.tensor for level in generator(maps_of(416, 512))]
    labeler = AnchorLabeler(allowed_border=border)
    found = takes_part(labeler, levels, ROUNDED_STRIDES, (height, width), INCLUSIVE).split(
        [len(level) for level in levels]
    )
    for inside, level, stride in zip(found, levels, ROUNDED_STRIDES, strict=True):
        rows, columns = -(-416 // stride), -(-512 // stride)
        i, j = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        wanted = ((i < -(-own[0] // stride)) & (j < -(-own[1] // stride))).flatten().repeat_interleave(3)
        if border >= 0:
            x1, y1, x2, y2 = inclusive(level).unbind(dim=1)
            wanted &= (x1 >= -border) & (y1 >= -border) & (x2 < width + border) & (y2 < height + border)
        assert torch.equal(inside, wanted)
    assert 0 < torch.cat(found).sum() < len(torch.cat(levels))


def test_last_pixel_of_the_image_is_inside():
    """An anchor over pixels 0 to 7 fills an image of 8; one more pixel is too many."""
    level = [torch.tensor([[0.0, 0, 8, 8], [0, 0, 9, 8], [0, 0, 8, 9], [-1, 0, 7, 7]])]
    labeler = AnchorLabeler()
    assert takes_part(labeler, level, [16], (8, 8), INCLUSIVE).tolist() == [True, False, False, False]
    assert takes_part(labeler, level, [16], (8, 8)).tolist() == [False] * 4
    truth = torch.tensor([[0.0, 0, 8, 8]])
    assert labeler(level, [16], truth, (8, 8), INCLUSIVE)[0].tolist() == [1, -1, -1, -1]


STRIDES = (4, 8)


def grid(stride, side, rows, columns):
    """Return square anchors (rows * columns, 4) centered on the cells of a level."""
    y, x = torch.meshgrid(torch.arange(rows) * stride, torch.arange(columns) * stride, indexing="ij")
    center = torch.stack([x, y, x, y], dim=-1).reshape(-1, 4).float()
    return center + torch.tensor([-1, -1, 1, 1]) * side / 2


def strip(*spans):
    """Return boxes of height 10 that span the given x."""
    return torch.tensor([[x1, 0.0, x2, 10.0] for x1, x2 in spans])


def test_thresholds_by_hand():
    """IoU with (0, 10): 1.0, 0.8, 0.5 and 0.2; only the last is below 0.3, the third is left out."""
    anchors = strip((0, 10), (0, 8), (0, 5), (0, 2))
    labels, _ = match(anchors, strip((0, 10)))
    assert labels.tolist() == [1, 1, -1, 0]


def test_best_anchor_of_an_object_is_positive_if_good_enough():
    """The best IoU of the object is 0.5 and is attained twice; with 0.6 demanded it claims none."""
    anchors = strip((0, 10), (10, 20), (0, 2))
    truth = strip((5, 15))
    iou = pairwise_iou(Boxes(truth), Boxes(anchors))[0]
    torch.testing.assert_close(iou, torch.tensor([1 / 3, 1 / 3, 0]))
    assert match(anchors, truth)[0].tolist() == [1, 1, 0]
    assert match(anchors, truth, low_quality_iou=0.4)[0].tolist() == [-1, -1, 0]


def test_later_object_takes_the_anchor():
    """Anchor 0 has IoU 1.0 with object 0 and 0.4, the best of object 1: it goes to object 1."""
    anchors, truth = strip((0, 10), (20, 30)), strip((0, 10), (0, 4))
    labels, index = match(anchors, truth)
    assert labels.tolist() == [1, 0]
    assert index[0] == 1
    assert match(anchors, truth, low_quality_iou=0.5)[1][0] == 0


def test_only_anchors_within_the_image_take_part():
    """The best anchor of the object reaches beyond the border; the second best is claimed instead."""
    levels = [grid(4, 8, 4, 4)]
    truth = torch.tensor([[-1.0, 2.0, 7.0, 10.0]])
    labels, _ = AnchorLabeler()(levels, STRIDES[:1], truth, (16, 16), CONTINUOUS)
    inside = ((levels[0] >= 0) & (levels[0] < 16)).all(dim=1)
    assert torch.equal(labels >= 0, inside)
    center = levels[0][labels == 1].view(-1, 2, 2).mean(dim=1)
    assert center.tolist() == [[4, 4], [4, 8]]


def test_far_border_is_exclusive_and_near_border_inclusive():
    level = [torch.tensor([[0.0, 0, 8, 8], [0, 0, 7.5, 8], [0, 0, 7.5, 7.5], [-0.5, 0, 7, 7]])]
    assert takes_part(AnchorLabeler(), level, [4], (8, 8)).tolist() == [False, False, True, False]
    wider = AnchorLabeler(allowed_border=1)
    assert takes_part(wider, level, [4], (8, 8)).tolist() == [True, True, True, True]


def test_cells_beyond_the_images_own_padding_are_left_out():
    """An image of 20 x 40 pads to 32 x 64: of a 16 x 32 grid of stride 4, 8 x 16 cells are its own."""
    labeler = AnchorLabeler(allowed_border=-1)
    inside = takes_part(labeler, [grid(4, 32, 16, 32), grid(8, 64, 8, 16)], STRIDES, (20, 40))
    fine, coarse = inside[:512].view(16, 32), inside[512:].view(8, 16)
    assert fine.sum() == 8 * 16 and fine[:8, :16].all()
    assert coarse.sum() == 4 * 8 and coarse[:4, :8].all()
    centered = takes_part(labeler, [grid(4, 32, 16, 32) + 2], STRIDES[:1], (20, 40)).view(16, 32)
    assert torch.equal(centered, fine)


def test_no_object_and_no_anchor():
    levels = [grid(4, 8, 4, 4)]
    labels, index = AnchorLabeler()(levels, STRIDES[:1], NONE, (16, 16), CONTINUOUS)
    assert set(labels.tolist()) == {0, -1} and not index.any()
    labels, _ = AnchorLabeler()(levels, STRIDES[:1], strip((0, 10)), (4, 4), CONTINUOUS)
    assert (labels == -1).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 200))
def test_memory_limit_changes_nothing(seed, num_gt, pairs_at_once):
    generator = torch.Generator().manual_seed(seed)
    levels = [grid(4, 12, 12, 12), grid(8, 24, 6, 6)]
    # Whole coordinates make equal IoUs, and so shared claims, likely.
    corner = torch.randint(0, 30, (num_gt, 2), generator=generator).float()
    truth = torch.cat([corner, corner + torch.randint(4, 20, (num_gt, 2), generator=generator)], dim=1)
    whole = AnchorLabeler()(levels, STRIDES, truth, (48, 44), CONTINUOUS)
    parts = AnchorLabeler(pairs_at_once=pairs_at_once)(levels, STRIDES, truth, (48, 44), CONTINUOUS)
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


def train(rpn, boxes, sizes, batch=(64, 96)):
    """Run a training step; return proposals and losses, gradients stay in the parameters."""
    rpn.train().zero_grad(set_to_none=True)
    maps = feature_maps(5, len(sizes), *batch)
    proposals, losses = rpn(image_list(sizes, batch), maps, targets(boxes, sizes))
    sum(losses.values()).backward()
    return proposals, losses


def test_normalizers_by_hand():
    """Images with (2, 3), (0, 4), (0, 0) positives and negatives: 5 + 5 + 0 sampled anchors."""
    labels = torch.tensor([[1, 1, 0, 0, 0, -1], [0, 0, 0, 0, -1, -1], [-1] * 6])
    assert SampledAnchors()(labels) == 10
    assert SampledAnchors(least_each=0)(labels) == 9
    assert SampledAnchors()(labels[2:]) == 1


def test_losses_by_hand(rpn):
    """One anchor of two is positive and shifted by a tenth of its width, with all outputs zero.

    Cross-entropy: 2 log 2 over N = 2. Smooth L1 of 0.1 below 1/9: 0.5 * 0.01 * 9 = 0.045, over 2.
    """
    anchors = rpn.anchor_generator([torch.zeros(1, 1, 1, 1)] * 5)
    labels = torch.full((1, 15), -1)
    labels[0, :2] = torch.tensor([1, 0])
    every = torch.cat([a.tensor for a in anchors])
    truth = every[None].clone()
    truth[..., 0::2] += 0.1 * (every[:, 2] - every[:, 0])[None, :, None]
    losses = rpn.losses(anchors, [torch.zeros(1, 3)] * 5, labels, [torch.zeros(1, 3, 4)] * 5, truth)
    assert losses["loss_rpn_cls"].item() == pytest.approx(math.log(2))
    assert losses["loss_rpn_loc"].item() == pytest.approx(0.0225)


def test_loss_weights_and_normalizer_are_settings():
    cfg = config()
    cfg.loss_weight = {"loss_rpn_cls": 2.0, "loss_rpn_loc": 0.5}
    cfg.loss_normalizer.least_each = 100
    torch.manual_seed(0)
    plain = instantiate(config())
    torch.manual_seed(0)
    other = instantiate(cfg)
    torch.manual_seed(1)
    _, losses = train(plain, [BOX], [(64, 96)])
    torch.manual_seed(1)
    _, weighted = train(other, [BOX], [(64, 96)])
    levels = plain.anchor_generator(list(feature_maps(5, 1, 64, 96).values()))
    labels, _ = plain.label_and_sample_anchors(levels, targets([BOX], [(64, 96)]))
    ratio = SampledAnchors()(labels) / SampledAnchors(least_each=100)(labels)
    torch.testing.assert_close(weighted["loss_rpn_cls"], 2 * ratio * losses["loss_rpn_cls"])
    torch.testing.assert_close(weighted["loss_rpn_loc"], 0.5 * ratio * losses["loss_rpn_loc"])


@pytest.mark.parametrize("case", ["no objects", "no candidates", "mixed"])
def test_corner_cases_have_finite_losses_and_all_gradients(rpn, case):
    boxes, sizes = {
        "no objects": ([NONE], [(64, 96)]),
        "no candidates": ([BOX / 8], [(8, 8)]),
        "mixed": ([BOX, NONE, BOX / 8], [(64, 96), (60, 70), (8, 8)]),
    }[case]
    proposals, losses = train(rpn, boxes, sizes)
    assert len(proposals) == len(sizes)
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc"}
    assert all(torch.isfinite(value) for value in losses.values())
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in rpn.parameters())
    if case == "no candidates":
        assert all(value == 0 for value in losses.values())


def test_image_without_candidates_changes_nothing(rpn):
    boxes, sizes = [BOX, BOX + 20], [(60, 90), (64, 96)]
    maps = feature_maps(5, 3, 64, 96)
    rpn.train()
    torch.manual_seed(0)
    _, alone = rpn(image_list(sizes), {k: v[:2] for k, v in maps.items()}, targets(boxes, sizes))
    boxes, sizes = [*boxes, BOX / 8], [*sizes, (8, 8)]
    torch.manual_seed(0)
    _, joined = rpn(image_list(sizes), maps, targets(boxes, sizes))
    for name in alone:
        torch.testing.assert_close(alone[name], joined[name])


def test_sample_has_the_published_size_and_follows_the_seed(rpn):
    sizes = [(256, 384)]
    anchors = rpn.anchor_generator(list(feature_maps(5, 1, 256, 384).values()))
    corner = torch.rand(60, 2, generator=torch.Generator().manual_seed(0)) * 200
    truth = targets([torch.cat([corner, corner + 32], dim=1)], sizes)

    def draw(seed):
        torch.manual_seed(seed)
        return rpn.label_and_sample_anchors(anchors, truth)

    labels, boxes = draw(0)
    assert (labels == 1).sum() == 128 and (labels == 0).sum() == 128
    assert torch.equal(draw(0)[0], labels) and not torch.equal(draw(1)[0], labels)
    assert torch.equal(boxes.any(dim=2), labels == 1)


def test_autocast_keeps_losses_in_float32(rpn):
    rpn.train()
    with torch.autocast("cpu", torch.bfloat16):
        _, losses = rpn(image_list([(64, 96)]), feature_maps(5, 1, 64, 96), targets([BOX], [(64, 96)]))
    assert all(value.dtype == torch.float32 and torch.isfinite(value) for value in losses.values())


def test_non_finite_features_give_no_proposals(rpn):
    maps = {name: torch.full_like(value, torch.nan) for name, value in feature_maps(5, 1, 64, 96).items()}
    with torch.no_grad():
        (found,), _ = rpn.eval()(image_list([(64, 96)]), maps)
    assert len(found) == 0


def test_initial_weights():
    head = instantiate(config()).rpn_head
    for layer in (head.conv, head.objectness_logits, head.anchor_deltas):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert abs(layer.weight.mean().item()) < 1e-3
        assert not layer.bias.any()


TRANSFORM = ClampedBox2BoxTransform((1, 1, 1, 1))


def propose(rule, anchors, logits, sizes, *, deltas=None, training=False, convention=CONTINUOUS):
    """Call a rule on levels of anchors, all deltas zero unless given."""
    if deltas is None:
        deltas = [torch.zeros(*scores.shape, 4) for scores in logits]
    return rule(anchors, logits, deltas, sizes, transform=TRANSFORM, convention=convention, training=training)


def rule(**settings):
    """Return a rule with limits that do not bind."""
    return ProposalRule(**{"pre_nms_topk": (100, 100), "post_nms_topk": (100, 100), **settings})


def test_suppression_stays_within_a_level():
    box = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9]])
    logits = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0]])]
    (found,) = propose(rule(), [box, box], logits, [(20, 20)])
    assert found.objectness_logits.tolist() == [3, 2]
    assert found.proposal_boxes.tensor.tolist() == [[0, 0, 10, 10], [0, 0, 10, 9]]


def test_limits_differ_between_training_and_test():
    boxes = torch.tensor([[10.0 * i, 0, 10.0 * i + 5, 5] for i in range(6)])
    logits = [torch.arange(6.0)[None], 10 + torch.arange(6.0)[None]]
    limited = rule(pre_nms_topk=(3, 2), post_nms_topk=(5, 3))
    (train,) = propose(limited, [boxes, boxes], logits, [(99, 99)], training=True)
    assert train.objectness_logits.tolist() == [15, 14, 13, 5, 4]
    (test,) = propose(limited, [boxes, boxes], logits, [(99, 99)])
    assert test.objectness_logits.tolist() == [15, 14, 5]


def test_boxes_without_area_stay_only_by_the_published_rule():
    anchors = [torch.tensor([[30.0, 0, 40, 10], [0, 0, 10, 10], [35, 0, 45, 10]])]
    logits = [torch.tensor([[2.0, 1.0, 3.0]])]
    (ours,) = propose(rule(), anchors, logits, [(20, 20)])
    assert ours.objectness_logits.tolist() == [3, 2, 1]
    assert ours.proposal_boxes.tensor[0].tolist() == [20, 0, 20, 10]
    (theirs,) = propose(rule(min_box_size=0), anchors, logits, [(20, 20)])
    assert theirs.objectness_logits.tolist() == [1]


def test_each_image_is_clipped_to_its_own_size():
    anchors = [torch.tensor([[-5.0, -5, 50, 50]])]
    found = propose(rule(), anchors, [torch.zeros(2, 1)], [(20, 30), (40, 10)])
    assert [f.proposal_boxes.tensor[0].tolist() for f in found] == [[0, 0, 30, 20], [0, 0, 10, 40]]
    assert [f.image_size for f in found] == [(20, 30), (40, 10)]


def test_clipping_to_the_last_pixel():
    """In 20 x 20 pixels the last is 19: a box beyond it keeps that one, and suppresses another of the same.

    Clipped as an area it would be without width, and would suppress nothing.
    """
    anchors = [torch.tensor([[30.0, 0, 40, 10], [0, 0, 10, 10], [15, 5, 25, 25], [19, 0, 21, 10]])]
    logits = [torch.tensor([[4.0, 3.0, 2.0, 1.0]])]
    (found,) = propose(rule(), anchors, logits, [(20, 20)], convention=INCLUSIVE)
    assert found.proposal_boxes.tensor.tolist() == [[19, 0, 20, 10], [0, 0, 10, 10], [15, 5, 20, 20]]
    assert found.objectness_logits.tolist() == [4, 3, 2]
    (found,) = propose(rule(min_box_size=0), anchors, logits, [(20, 20)], convention=INCLUSIVE)
    assert found.objectness_logits.tolist() == [4, 3, 2]
    (found,) = propose(rule(), anchors, logits, [(20, 20)])
    assert found.objectness_logits.tolist() == [4, 3, 2, 1]


def test_non_finite_predictions_are_left_out():
    boxes = torch.tensor([[0.0, 0, 5, 5], [10, 0, 15, 5], [20, 0, 25, 5]])
    deltas = [torch.zeros(1, 3, 4)]
    deltas[0][0, 1, 0] = torch.nan
    logits = [torch.tensor([[1.0, 2.0, torch.inf]])]
    (found,) = propose(rule(), [boxes], logits, [(30, 30)], deltas=deltas, training=True)
    assert found.objectness_logits.tolist() == [1]
    drops = rule(min_box_size=0)
    (found,) = propose(drops, [boxes], logits, [(30, 30)], deltas=deltas, training=True)
    assert found.objectness_logits.tolist() == [1]


def test_low_precision_and_no_images():
    boxes = torch.rand(50, 4) * 10
    boxes[:, 2:] += 10
    (found,) = propose(rule(), [boxes], [torch.randn(1, 50).bfloat16()], [(30, 30)])
    assert found.objectness_logits.dtype == found.proposal_boxes.tensor.dtype == torch.float32
    (found,) = propose(rule(), [boxes.double()], [torch.randn(1, 50).double()], [(30, 30)])
    assert found.objectness_logits.dtype == torch.float64
    assert propose(rule(), [boxes], [torch.zeros(0, 50)], []) == []


def test_detectron2s_rule_is_detectron2s():
    torch.manual_seed(0)
    anchors = [torch.rand(n, 4) * 40 for n in (60, 20)]
    for level in anchors:
        level[:, 2:] += level[:, :2]
    logits, deltas = [torch.randn(2, n) for n in (60, 20)], [torch.randn(2, n, 4) / 2 for n in (60, 20)]
    limits = {"pre_nms_topk": (30, 20), "post_nms_topk": (25, 15), "nms_thresh": 0.6}
    found = propose(
        ProposalRule(min_box_size=2, **limits), anchors, logits, [(50, 60), (40, 40)], deltas=deltas
    )
    decoded = [
        torch.stack([Box2BoxTransform((1, 1, 1, 1)).apply_deltas(d, a) for d in level])
        for a, level in zip(anchors, deltas, strict=True)
    ]
    wanted = find_top_rpn_proposals(decoded, logits, [(50, 60), (40, 40)], 0.6, 20, 15, 2.0, False)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.proposal_boxes.tensor, theirs.proposal_boxes.tensor)
        assert torch.equal(ours.objectness_logits, theirs.objectness_logits)
