"""Pictures of a model: what is handed to the drawers, and that the model is left as it was."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from htd.visualize import draw_model, draw_side_by_side
from htd.visualize.drawers import DRAWERS
from htd.visualize.drawers.base import Drawer, recorded

IMAGE = np.full((120, 160, 3), 128, np.uint8)
INPUTS = {"image": torch.zeros(3, 60, 80), "height": 120, "width": 160}
NAMES = ["disc", "square"]


class Model(nn.Module):
    """Detects three objects whatever it sees, the best one in the middle."""

    def __init__(self):
        super().__init__()
        self.part = nn.Linear(1, 1)
        self.fails = False

    def forward(self, batch):
        assert not self.training and not torch.is_grad_enabled()
        self.part(torch.full((2, 1), 3.0))
        if self.fails:
            raise RuntimeError
        boxes = torch.tensor([[20.0, 30, 70, 80], [90, 20, 150, 100], [5, 5, 30, 30]])
        found = Instances((batch[0]["height"], batch[0]["width"]), pred_boxes=Boxes(boxes))
        found.scores, found.pred_classes = torch.tensor([0.5, 0.9, 0.2]), torch.tensor([0, 1, 2])
        return [{"instances": found}]


class PartDrawer(Drawer):
    name = "part"
    seen = None

    @classmethod
    def of(cls, model):
        return cls({"linear": model.part}) if hasattr(model, "part") else None

    def draw(self, scene, calls):
        type(self).seen = scene, calls
        return scene.image_rgb


@pytest.fixture
def drawer(monkeypatch):
    """A drawer that is known beside the others, and has seen nothing yet."""
    monkeypatch.setattr("htd.visualize.drawers.DRAWERS", (*DRAWERS, PartDrawer))
    monkeypatch.setattr(PartDrawer, "seen", None)
    return PartDrawer


def hooks_of(model):
    return [hook for module in model.modules() for hook in module._forward_hooks.values()]


def test_detections_are_drawn_of_every_model():
    found = Model().eval().requires_grad_(False)
    with torch.no_grad():
        predictions = found([INPUTS])[0]["instances"]
    pictures = draw_model(Model(), INPUTS, IMAGE, NAMES, score_threshold=0.5)
    assert list(pictures) == ["detections"]
    np.testing.assert_array_equal(
        pictures["detections"], draw_side_by_side(IMAGE, None, predictions, NAMES, 0.5)
    )


def test_the_log_says_why_nothing_is_drawn(drawer, monkeypatch, caplog):
    monkeypatch.setattr(drawer, "draw", lambda *_: None)
    assert list(draw_model(Model(), INPUTS, IMAGE, score_threshold=0.85)) == ["detections"]
    assert not caplog.text
    draw_model(Model(), INPUTS, IMAGE, score_threshold=0.95)
    assert "0.9; lower --score-threshold" in caplog.text
    nothing = Model().eval()
    none = Instances((120, 160), pred_boxes=Boxes(torch.zeros(0, 4)), scores=torch.zeros(0))
    none.pred_classes = torch.zeros(0, dtype=torch.int64)
    nothing.forward = lambda batch: [{"instances": none}]
    draw_model(nothing, INPUTS, IMAGE)
    assert "score_threshold of its config" in caplog.text


@pytest.mark.parametrize(
    ("options", "scores"),
    [({}, [0.9, 0.5]), ({"score_threshold": 0.1}, [0.9, 0.5, 0.2]), ({"max_objects": 1}, [0.9])],
)
def test_a_drawer_sees_the_best_detections(drawer, options, scores):
    draw_model(Model(), INPUTS, IMAGE, NAMES, max_regions=7, **options)
    scene, _ = drawer.seen
    assert scene.detections.scores.tolist() == pytest.approx(scores)
    assert scene.detections.pred_classes.tolist() == [1, 0, 2][: len(scores)]
    assert scene.network_size == (60, 80) and scene.class_names == ("disc", "square")
    assert scene.image_rgb is IMAGE and scene.max_regions == 7


def test_a_drawer_sees_the_calls_of_its_parts(drawer):
    model = Model()
    draw_model(model, INPUTS, IMAGE)
    [call] = drawer.seen[1]["linear"]
    [given] = call.inputs
    assert given.tolist() == [[3.0], [3.0]]
    torch.testing.assert_close(call.output, model.part(given), rtol=0, atol=0)


def test_the_model_is_left_as_it_was(drawer):
    model = Model().train()
    draw_model(model, INPUTS, IMAGE)
    assert model.training and model.part.training and hooks_of(model) == []
    model.fails = True
    with pytest.raises(RuntimeError):
        draw_model(model, INPUTS, IMAGE)
    assert model.training and hooks_of(model) == [] and torch.is_grad_enabled()


def test_calls_are_recorded_in_their_order_and_no_longer_than_wanted():
    part = nn.Identity()
    with recorded({"a": part, "b": nn.Identity()}) as calls:
        part(1), part(2)
    part(3)
    assert [call.output for call in calls["a"]] == [1, 2] and calls["b"] == []
