"""HTC's drawer: the semantic map and the mask of each stage, by hand and on small models."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from htd.visualize import draw_model
from htd.visualize.canvas import class_color
from htd.visualize.drawers import Call, Scene, recorded
from htd.visualize.drawers.htc import (
    HTCDrawer,
    class_name_list,
    colors_of,
    legend,
    outlines,
    semantic_row,
    stage_masks,
)
from tests.configs.reduced import build
from tests.visualize.small import Captured, inputs_and_image

HTC, PLAIN, INSTANCES, WITH_TSD, BOXES = (
    f"configs/{name}.py"
    for name in (
        "htc/htc_r50_fpn_1x",
        "htc/htc_without_semantic_r50_fpn_1x",
        "htc/htc_r50_fpn_1x_instance_maps",
        "tsd/tsd_htc_r50_fpn_1x",
        "htc/htc_box_r50_fpn_1x",
    )
)


def scene(max_regions=3, names=("disc",)):
    """An image of 64 x 96 pixels, twice its network's input, with one detection."""
    found = Instances((64, 96), pred_boxes=Boxes(torch.tensor([[8.0, 8, 40, 40]])))
    found.pred_classes, found.scores = torch.tensor([0]), torch.tensor([0.9])
    return Scene(np.full((64, 96, 3), 100, np.uint8), (32, 48), found, names, 0.5, max_regions)


def branch_of(logits, background=False):
    """Stands for a semantic branch of stride 8 that gives these logits (K, h, w), and its call."""
    part = SimpleNamespace(stride=8, num_labels=len(logits), has_background=background)
    part.fuse, part.predictor = (lambda maps: maps), (lambda maps: maps)
    return part, Call((logits[None],), None)


def test_semantic_row_by_hand():
    classes = torch.full((4, 6), 2)
    classes[1, 3], classes[2:, :2] = 0, 1
    logits = 30.0 * torch.nn.functional.one_hot(classes, 4).permute(2, 0, 1)
    # The padding of the batch holds a class of its own.
    padded = torch.zeros(4, 8, 8)
    padded[3] = 50
    padded[:, :4, :6] = logits
    detections, semantic, entropy, names = semantic_row(*branch_of(padded), scene())
    assert [c.full for c in (detections, semantic, entropy, names)] == [True] * 4
    np.testing.assert_array_equal(detections.marks[0][1], [8, 8, 40, 40])
    assert "up to 0.00" in entropy.heading
    # Cells are 16 pixels of the image; the commonest class is drawn in the first color.
    ranks = np.array([2, 1, 0])[classes].repeat(16, axis=0).repeat(16, axis=1)
    colors = np.array([[255 * part for part in class_color(rank)] for rank in range(3)])
    np.testing.assert_allclose(semantic.over, 0.6 * colors[ranks] + 0.4 * 100, atol=1.5)
    lines = names.over.reshape(-1, 24, 360, 3)[:, 12, 20]
    np.testing.assert_allclose(lines[:3], colors, atol=1)
    assert not lines[3:].any()


def test_entropy_is_a_share_of_the_most():
    logits = torch.zeros(4, 4, 6)
    logits[0, :, :3] = 30
    _, _, entropy, _ = semantic_row(*branch_of(logits), scene())
    assert "up to 1.00 of the most" in entropy.heading
    brightness = entropy.over.sum(axis=2)
    assert brightness[:, -16:].min() > 2 * brightness[:, :16].max()


def test_the_legend_names_as_many_classes_as_it_has_room_for():
    classes = np.arange(20).repeat(np.arange(20) + 1).reshape(10, 21)
    colors = colors_of(classes, 25)
    picture = legend(classes, colors, [])
    swatches = picture.reshape(-1, 24, 360, 3)[:, 12, 20]
    np.testing.assert_array_equal(swatches[:14], colors[19:5:-1])
    assert not swatches[14].any() and picture[-24:].any()  # of the others
    assert len(np.unique(colors[19:9:-1], axis=0)) == 10
    named, numbered = (legend(classes, colors, names) for names in (["x"] * 20, []))
    assert (named != numbered).any()


def test_classes_have_names_where_they_are_those_of_the_objects():
    three = torch.zeros(3, 4, 6)
    with_background, _ = branch_of(three, background=True)
    stuff, _ = branch_of(three)
    assert class_name_list(with_background, scene(names=("a", "b"))) == ["a", "b", "background"]
    assert class_name_list(with_background, scene(names=("a",))) == []
    assert class_name_list(stuff, scene(names=("a", "b"))) == []


def test_outlines_by_hand():
    mask = np.zeros((8, 8), np.float32)
    mask[2:7, 1:4] = 1
    [line] = outlines(mask, 0.5, np.array([10.0, 20, 90, 60]))
    # Columns 1 to 3 of 10 pixels and rows 2 to 6 of 5; half the probability is reached at their edges.
    np.testing.assert_allclose(line.min(axis=0), [20, 30], atol=10 / 8)
    np.testing.assert_allclose(line.max(axis=0), [50, 55], atol=10 / 8)
    mask[4, 2] = 0
    assert len(outlines(mask, 0.5, np.array([10.0, 20, 90, 60]))) == 2  # with that of the hole
    assert outlines(mask / 4, 0.5, np.array([10.0, 20, 90, 60])) == []
    whole = outlines(np.ones((8, 8), np.float32), 0.5, np.array([0.0, 0, 80, 80]))
    np.testing.assert_allclose([whole[0].min(), whole[0].max()], [0, 80], atol=10 / 8)


class Run:
    """A small model's inference and all that was recorded of it."""

    def __init__(self):
        self.model = build(HTC).eval()
        branch = self.model.roi_heads.mask_branch
        with torch.no_grad():  # masks are to differ from 0.5
            for head in branch.heads:
                head.predictor.weight *= 30
        self.drawer = HTCDrawer.of(self.model)
        (inputs, self.image) = inputs_and_image()
        paste, self.means = branch.paste_masks, []

        def keep(masks, boxes, size, threshold):
            self.means.append(masks)
            return paste(masks, boxes, size, threshold=threshold)

        branch.paste_masks = keep
        with torch.no_grad(), recorded(self.drawer.parts) as self.calls:
            self.found = self.model([inputs])[0]["instances"]
        self.scene = Scene(self.image, inputs["image"].shape[-2:], self.found, ("disc",), 0.0, 3)


@pytest.fixture(scope="module")
def run():
    return Run()


def test_masks_are_those_of_the_heads(run):
    """Each stage's is what its head says by way of all classes, their mean is what was pasted."""
    branch = run.model.roi_heads.mask_branch
    with torch.no_grad():
        masks = stage_masks(branch, run.calls, run.scene)
        extractors = [head.extract for head in branch.heads]
        features = branch.flow.every(extractors, run.calls["rois"][0].output[:3])
        logits = [head.logits(x) for head, x in zip(branch.heads, features, strict=True)]
    expected = torch.stack([x[range(3), run.found.pred_classes[:3]].sigmoid() for x in logits], dim=1)
    assert masks.shape == (3, 3, 28, 28) and masks.std() > 0.05
    torch.testing.assert_close(masks, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(masks.mean(dim=1), run.means[0][:3], rtol=1e-4, atol=1e-5)


def test_what_is_drawn(run, monkeypatch):
    rows = Captured()
    monkeypatch.setattr("htd.visualize.drawers.htc.draw_closeups", rows)
    run.drawer.draw(run.scene, run.calls)
    assert [len(row) for row in rows] == [4] * 4
    titles = [closeup.heading.partition(": ")[2] for closeup in rows[1]]
    assert titles == ["mask of stage 0", "mask of stage 1", "mask of stage 2", "mean"]
    for closeup in rows[2]:
        assert closeup.over.shape == run.image.shape and not closeup.full
        np.testing.assert_array_equal(closeup.marks[0][1], run.found.pred_boxes.tensor[1])
    # Where the pasted mask is, the mean's probability is at least a half.
    inside, box = run.found.pred_masks[1].numpy(), run.found.pred_boxes.tensor[1]
    brightness = rows[2][3].over.astype(float).sum(axis=2)
    x1, y1, x2, y2 = (int(value) for value in box)
    part = np.s_[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2]
    gray = 0.4 * run.image.astype(float).mean(axis=2) * 3
    heat = (brightness - gray)[part]
    assert heat[inside[part]].mean() > heat[~inside[part]].mean() + 40


@pytest.mark.parametrize(
    ("path", "regions", "tiles"), [(HTC, 2, 4), (PLAIN, 1, 4), (INSTANCES, 1, 4), (WITH_TSD, 1, 4)]
)
def test_pictures_of_models(path, regions, tiles):
    model, (inputs, image) = build(path).eval(), inputs_and_image()
    options = {"score_threshold": 0.0, "max_objects": 5, "max_regions": regions}
    pictures = draw_model(model, inputs, image, ["a", "b", "c", "d"], **options)
    assert set(pictures) == {"detections", "htc", *(["tsd"] if path == WITH_TSD else [])}
    rows = regions + (path != PLAIN)
    assert pictures["htc"].shape == (rows * (24 + 360 + 4) + 24, tiles * 364 - 4, 3)
