"""HTD's drawer: level weights, border ring and graph neighbors of a RoI, by hand and on small models."""

import numpy as np
import pytest
import torch

from htd.modeling.htd import BorderAwareFeatures, BorderTerm, NoGraph
from htd.visualize import draw_model
from htd.visualize.drawers import Call, Scene, recorded
from htd.visualize.drawers.base import index_of, roi_origins
from htd.visualize.drawers.htd import HTDDrawer, Regressed, graph_weights, level_weights, ring
from tests.configs.reduced import build
from tests.visualize.small import Captured, inputs_and_image

HTD, MASKS, WITH_TSD = (f"configs/{x}_r50_fpn_1x.py" for x in ("htd/htd", "htd/htd_mask", "tsd/tsd_htd"))


@pytest.mark.parametrize(("bins", "edge"), [(7, 1), (7, 2), (14, 2), (7, 4)])
def test_the_ring_has_the_bins_that_the_border_keeps(bins, edge):
    points = ring(torch.tensor([10.0, 20, 80, 160]), bins, edge)
    assert (points[:, 0] == points[:, 1]).all()
    at = ((points[:, 0] - torch.tensor([10.0, 20])) / torch.tensor([70.0, 140]) * bins - 0.5).round().long()
    found = torch.zeros(1, 1, bins, bins)
    found[0, 0, at[:, 1], at[:, 0]] = 1
    assert torch.equal(found, BorderTerm(edge=edge)(torch.ones(1, 1, 1, bins, bins)))
    assert len(points) == found.sum()


class Run:
    """A small model's inference and all that was recorded of it."""

    def __init__(self, path=HTD):
        self.model = build(path).eval()
        with torch.no_grad():  # RoIs are to differ: an untrained graph weighs all alike
            for stage in self.model.roi_heads.stages:
                part = getattr(stage.head, "classification", stage.head)
                part.cls_score.weight.mul_(100)
        self.drawer = HTDDrawer.of(self.model)
        stages = self.model.roi_heads.stages
        more = {"cls0": stages[0].head.cls_score, "cls1": stages[1].head.classification.cls_score}
        more["attention"] = self.drawer.parts["weights"].attention
        (inputs, self.image) = inputs_and_image()
        with torch.no_grad(), recorded({**self.drawer.parts, **more}) as self.calls:
            self.found = self.model([inputs])[0]["instances"]
        size = inputs["image"].shape[-2:]
        self.scale = torch.tensor([180 / size[1], 120 / size[0]]).repeat(2)
        self.scene = Scene(self.image, size, self.found, ("disc",), 0.0, 2)
        self.seen = Regressed.of(self.calls["regression"][0])

    @property
    def rows(self):
        """Of each detection the row among all RoIs."""
        rois = self.calls["graph"][0].inputs[1]
        rows = roi_origins(self.drawer.stage, *self.seen, self.scene)
        return [index_of(rois.boxes, self.seen.boxes[row]) for row in rows]


@pytest.fixture(scope="module")
def run():
    return Run()


def test_detections_come_from_the_rois_that_are_found(run):
    """The RoI that is found has the detection's score, which nothing in the search has read."""
    logits = [run.calls[name][0].output for name in ("cls0", "cls1")]
    scores = run.model.roi_heads.fusion(logits)[run.rows, run.found.pred_classes]
    assert len(run.found) > 10 and len(set(run.rows)) > 5
    torch.testing.assert_close(scores, run.found.scores, rtol=1e-5, atol=1e-6)


def test_level_weights_are_those_that_regression_used(run):
    """Read off the scores of the layers, which the drawer does not record; RoIs come in several pieces."""
    weights = level_weights(run.drawer.parts["weights"], run.calls["weights"])
    pieces = [call.output.view(4, -1) for call in run.calls["attention"]]
    assert weights.shape == (4, len(run.seen.boxes))
    torch.testing.assert_close(weights.sum(dim=0), torch.ones(len(run.seen.boxes)))
    torch.testing.assert_close(weights, torch.cat(pieces, dim=1).softmax(dim=0), rtol=0, atol=0)


def test_graph_weights_make_what_the_graph_returned(run):
    [call] = run.calls["graph"]
    embedding, rois, _ = call.inputs
    for row in {*run.rows[:5], 0, len(rois) - 1}:
        rows, weights = graph_weights(call, row)
        assert (rois.levels[rows] == rois.levels[row]).all() and row in rows
        layer = run.drawer.parts["graph"].transforms[rois.levels[row]]
        expected = layer(weights @ embedding[rows]).relu()
        torch.testing.assert_close(call.output[row], expected, rtol=1e-4, atol=1e-5)


def drawn(run, monkeypatch):
    rows = Captured()
    monkeypatch.setattr("htd.visualize.drawers.htd.draw_closeups", rows)
    run.drawer.draw(run.scene, run.calls)
    return rows


def test_what_is_drawn_of_a_roi(run, monkeypatch):
    looked, neighbors = drawn(run, monkeypatch)
    assert len(looked) == len(neighbors) == 2
    row = roi_origins(run.drawer.stage, *run.seen, run.scene)[0]
    with torch.no_grad():
        weights = level_weights(run.drawer.parts["weights"], run.calls["weights"])[:, row]
    assert [bar.label for bar in looked[0].bars] == [f"stride {s}" for s in (4, 8, 16, 32)]
    np.testing.assert_allclose([bar.share for bar in looked[0].bars], weights, rtol=1e-6)
    marks = {style.label.partition(" (")[0]: where for style, where in looked[0].marks}
    np.testing.assert_allclose(marks["detection"], run.found.pred_boxes.tensor[0])
    np.testing.assert_allclose(marks["its RoI"], run.seen.boxes[row] * run.scale, rtol=1e-5)
    assert marks["bins of the border ring"].shape == (24, 2, 2)


def test_neighbors_are_those_that_count_most(run, monkeypatch):
    _, neighbors = drawn(run, monkeypatch)
    [call] = run.calls["graph"]
    with torch.no_grad():
        rows, weights = graph_weights(call, run.rows[0])
    top = weights.topk(4)
    marks = {style.label: where for style, where in neighbors[0].marks}
    expected = call.inputs[1].boxes[rows[top.indices]] * run.scale
    for rank, box in enumerate(expected, 1):
        np.testing.assert_allclose(marks[f"neighbor {rank}"], box, rtol=1e-5)
    shares = [bar.share for bar in neighbors[0].bars]
    np.testing.assert_allclose(shares[:4], top.values / weights.sum(), rtol=1e-5)
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert neighbors[0].bars[-1].label == f"{len(rows) - 4} others"
    assert neighbors[0].full and f"graph of {len(rows)} RoIs" in neighbors[0].heading


@pytest.mark.parametrize("path", [HTD, MASKS, WITH_TSD])
def test_a_picture_has_a_column_for_each_roi(path):
    model, (inputs, image) = build(path).eval(), inputs_and_image()
    options = {"score_threshold": 0.0, "max_objects": 20, "max_regions": 3}
    pictures = draw_model(model, inputs, image, ["disc"], **options)
    assert "htd" in pictures and ("tsd" in pictures) == (path == WITH_TSD)
    # Close-ups with 4 bars above, with 5 below, and a line of the legend.
    assert pictures["htd"].shape == (2 * (24 + 360 + 4) + (4 + 5 + 1) * 24, 3 * 364 - 4, 3)


def test_with_few_rois_there_are_fewer_neighbors(run, monkeypatch):
    embedding, rois, classifier = run.calls["graph"][0].inputs
    some = torch.tensor([run.rows[0]])
    call = Call((embedding[some], rois[some], classifier), None)
    regressed = Call((run.seen.context, rois[some]), torch.zeros(1, 4))
    rows = Captured()
    monkeypatch.setattr("htd.visualize.drawers.htd.draw_closeups", rows)
    run.drawer.draw(run.scene, {"regression": [regressed], "graph": [call]})
    [[looked], [alone]] = rows
    assert [style.label for style, _ in looked.marks] == ["detection", "its RoI"] and not looked.bars
    assert [bar.label for bar in alone.bars] == ["neighbor 1", "none", "none", "none", "0 others"]
    assert [bar.share for bar in alone.bars] == [1, 0, 0, 0, 0]


def test_what_a_model_lacks_is_not_drawn():
    model, (inputs, image) = build(HTD).eval(), inputs_and_image()
    head = model.roi_heads.stages[1].head
    head.classification.graph = NoGraph()
    pictures = draw_model(model, inputs, image, score_threshold=0.0)
    assert pictures["htd"].shape[0] == 24 + 360 + 4 * 24 + 4 + 24
    head.regression.features = BorderAwareFeatures(terms=[])
    assert HTDDrawer.of(model) is None
