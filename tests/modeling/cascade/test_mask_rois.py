"""From which RoIs mask heads learn, by hand."""

import pytest
import torch
from detectron2.structures import Boxes, Instances

from htd.modeling.cascade import CascadeStage, RefinedPositives, SampledPositives
from tests.modeling.cascade.test_sampling import SIZE, TRUTH, proposals, sampler, target


def stage(**settings):
    return CascadeStage(
        head=torch.nn.Identity(), sampler=sampler(**settings), box_transform=None, num_classes=5
    )


def refined(rows, is_gt):
    """RoIs after refinement, with the flag that they bring from their sample."""
    found = proposals(rows)
    found.is_gt = torch.tensor(is_gt, dtype=torch.bool)
    return found


def test_sampled_positives_are_those_of_the_box_head():
    samples = stage().sampler([proposals([[0, 0, 10, 9], [60, 60, 80, 80]])], [target()])
    (found,) = SampledPositives()(stage(), samples, None, [target()])
    assert not SampledPositives.needs_refined
    assert found.gt_classes.tolist() == [3, 1, 3]
    assert found.gt_index.tolist() == [0, 1, 0]
    assert found.is_gt.tolist() == [True, True, False]
    assert torch.equal(found.proposal_boxes.tensor[:2], TRUTH)


def test_refined_positives_are_drawn_anew():
    """Refined ground truth is left out, ground truth put in again, the others assigned anew."""
    boxes = [[50.0, 50, 60, 60], [0, 0, 10, 9], [21, 20, 40, 40], [70, 70, 80, 80]]
    given = refined(boxes, [True, False, False, False])
    assert RefinedPositives.needs_refined
    (found,) = RefinedPositives()(stage(), None, [given], [target()])
    expected = torch.cat([TRUTH, torch.tensor(boxes)[[1, 2]]])
    assert torch.equal(found.proposal_boxes.tensor, expected)
    assert found.gt_classes.tolist() == [3, 1, 3, 1]
    assert found.gt_index.tolist() == [0, 1, 0, 1]
    assert found.is_gt.tolist() == [True, True, False, False]
    assert torch.equal(found.gt_boxes.tensor, TRUTH[[0, 1, 0, 1]])


def test_refined_ground_truth_is_left_out_even_where_it_fits():
    given = refined([[0, 0, 10, 9]], [True])
    (found,) = RefinedPositives()(stage(), None, [given], [target()])
    assert found.is_gt.tolist() == [True, True]


def test_refined_positives_keep_the_samplers_limits():
    torch.manual_seed(0)
    given = refined([[0, 0, 10, 9]] * 20, [False] * 20)
    small = stage(batch_size_per_image=16, positive_fraction=0.25)
    (found,) = RefinedPositives()(small, None, [given], [target()])
    assert len(found) == 4


@pytest.mark.parametrize("rule", [SampledPositives(), RefinedPositives()])
def test_images_without_objects_have_no_positives(rule):
    nothing = target(TRUTH[:0], ())
    empty = Instances(SIZE, proposal_boxes=Boxes(torch.zeros(0, 4)), is_gt=torch.zeros(0, dtype=torch.bool))
    given = [refined([[0, 0, 10, 10]], [False]), empty]
    samples = stage().sampler(given, [nothing, nothing])
    found = rule(stage(), samples, given, [nothing, nothing])
    assert [len(x) for x in found] == [0, 0]
    assert all(x.has("gt_index") and x.has("gt_boxes") for x in found)
