"""Views of an image, and the way of boxes into them and back."""

import runpy

import numpy as np
import pytest
import torch
from detectron2.data.transforms import RandomCrop, RandomFlip

from htd.data import ResizeCV2
from htd.errors import UserError
from htd.evaluation import View
from htd.evaluation.views import ViewFrame
from htd.layers import ContinuousBoxes, InclusiveBoxes
from tests import recorded
from tests.static.source import ROOT


@pytest.mark.parametrize(
    ("convention", "mirrored", "expected"),
    [
        # An image of 20 x 40 in a view of 30 x 60: all is 1.5 times as large, 60 - x when mirrored.
        (ContinuousBoxes(), False, [6, 3, 15, 12]),
        (ContinuousBoxes(), True, [45, 3, 54, 12]),
        # Pixels 4 to 9 and 2 to 7 become 6 to 13.5 and 3 to 10.5; mirrored 59 - 13.5 to 59 - 6.
        (InclusiveBoxes(), False, [6, 3, 14.5, 11.5]),
        (InclusiveBoxes(), True, [45.5, 3, 54, 11.5]),
    ],
)
def test_boxes_go_into_a_view_and_back(convention, mirrored, expected):
    frame = ViewFrame((20, 40), (30, 60), mirrored, convention)
    box = torch.tensor([[4.0, 2, 10, 8]])
    recorded.close(frame.enter(box), torch.tensor([expected]), atol=1e-5)
    recorded.close(frame.leave(frame.enter(box)), box, atol=1e-5)
    each = torch.stack([box, box + 1])  # as predictions have them: several boxes a row
    recorded.close(frame.enter(each)[0], frame.enter(box), atol=0)


def test_the_published_factor_is_a_frame_too():
    """A side of 33 scaled by 0.5 becomes 17 pixels; with the original size 17 / 0.5 the factor is 0.5."""
    frame = ViewFrame((17 / 0.5, 10 / 0.5), (17, 10), False, ContinuousBoxes())
    recorded.close(frame.enter(torch.tensor([[2.0, 4, 20, 33]])), torch.tensor([[1, 2, 10, 16.5]]), atol=1e-6)


def test_a_view_is_resized_then_mirrored():
    image = torch.arange(3 * 4 * 6, dtype=torch.uint8).reshape(3, 4, 6)
    resize = ResizeCV2(short_edge_length=8, max_size=99)
    plain, mirrored = (View(augmentations=[resize], mirrored=m)(image) for m in (False, True))
    assert plain.shape == (3, 8, 12) and plain.dtype == torch.uint8
    expected = resize.get_transform(np.zeros((4, 6, 3))).apply_image(image.permute(1, 2, 0).numpy())
    assert torch.equal(plain, torch.from_numpy(expected).permute(2, 0, 1))
    assert torch.equal(mirrored, plain.flip(2)) and not torch.equal(mirrored, plain)
    assert torch.equal(View(augmentations=[])(image), image)


@pytest.mark.parametrize("augmentation", [RandomFlip(prob=1.0), RandomCrop("absolute", (2, 2))])
def test_a_view_that_is_more_than_a_resize_is_an_error(augmentation):
    with pytest.raises(UserError, match="does more than resize"):
        View(augmentations=[augmentation])(torch.zeros(3, 16, 24, dtype=torch.uint8))


def test_the_sides_of_the_configs_views_may_come_in_either_order():
    views = runpy.run_path(str(ROOT / "configs/common/test_time.py"))["averaged_views"]
    assert views((128, 200), (300, 400)) == views((200, 128), (400, 300))
    resize = views((128, 200)).views[0].augmentations[0]
    assert (resize.short_edge_length, resize.max_size) == (128, 200)
