"""The benchmarks of HTC: equal work for every model, and tables that say what was measured."""

import pytest
import torch
from detectron2.config import instantiate

import benchmark
import benchmark_htc
import benchmark_steady
from benchmark_htc import CASCADE, CONFIGS, FORMS, HTC, cascade_with_semantics, detectron2_cascade
from benchmark_models import Candidate, ModelCost, Settings, Subject
from benchmark_steady import steady
from tests.configs.reduced import reduced_model

SETTINGS = Settings((96, 128), images=2, figures=(), repeat=1, threads=1, device="cpu")


def reduced(path):
    """Return a narrow model whose stages draw as many RoIs as they would."""

    def build():
        model = reduced_model(str(CONFIGS / path))
        for stage in model.roi_heads.stages:
            stage.sampler.batch_size_per_image = 512
        return steady(instantiate(model))

    return Subject(Candidate(path, build), SETTINGS)


@pytest.mark.parametrize("path", [CASCADE, HTC])
def test_every_mask_head_learns_from_128_positives_an_image(path):
    subject = reduced(path)
    heads = subject.model.roi_heads
    learnt, drawn = [], []
    heads.mask_branch.features.register_forward_hook(lambda _, args, __: learnt.append(args[1].image_index))
    for stage in heads.stages:
        stage.head.cls_score.register_forward_hook(lambda _, args, __: drawn.append(len(args[0])))
    assert subject.training_bytes() > 0
    assert drawn == [2 * 512] * 3
    assert [torch.bincount(image).tolist() for image in learnt] == [[128, 128]] * 3


def test_every_model_keeps_the_same_detections():
    subjects = [reduced(path) for path in (CASCADE, HTC, FORMS[0])]
    assert [subject.detections() for subject in subjects] == [200] * 3
    first, *others = ([output["instances"] for output in subject._infer()] for subject in subjects)
    assert all(found.pred_classes.eq(0).all() for found in first)
    for other in others:
        for one, two in zip(first, other, strict=True):
            torch.testing.assert_close(one.pred_boxes.tensor, two.pred_boxes.tensor)


def test_detectron2s_model_does_the_same(monkeypatch):
    monkeypatch.setattr(benchmark_steady, "PROPOSALS", 60)
    subject = Subject(Candidate("theirs", detectron2_cascade, masks="polygon"), SETTINGS)
    subject.model.roi_heads.batch_size_per_image = 16
    assert subject.detections() == reduced(CASCADE).detections() > 30
    assert subject.training_seconds() > 0
    stem = subject.model.backbone.bottom_up.stem
    assert not any(p.requires_grad for p in stem.parameters())


def test_the_semantic_branch_beside_the_cascade_is_htcs(monkeypatch):
    monkeypatch.setattr(benchmark_htc, "instantiate", lambda model: model)
    monkeypatch.setattr(benchmark_htc, "steady", lambda model: model)
    model = cascade_with_semantics(["model.roi_heads.selection.score_threshold=0.25"])
    htc = benchmark_htc.steady_model(HTC, [])
    assert model.roi_heads.context.semantic == htc.roi_heads.context.semantic
    assert model.roi_heads.mask_branch == benchmark_htc.steady_model(CASCADE, []).roi_heads.mask_branch
    assert model.roi_heads.selection.score_threshold == 0.25


def given_figures(monkeypatch, **figures):
    """Let the models that are measured next have figures, one value a model, and return their settings."""
    asked = []

    def measure(candidates, settings):
        asked.append((candidates, settings))
        found = [dict(zip(figures, values, strict=True)) for values in zip(*figures.values(), strict=True)]
        return [ModelCost(c.label, f) for c, f in zip(candidates, found, strict=True)]

    monkeypatch.setattr(benchmark_htc, "measure_models", measure)
    monkeypatch.setattr(benchmark_htc, "measure_alone", measure)
    return asked


def printed(capsys, *arguments):
    benchmark.main(list(arguments))
    title, _, _, *rows = capsys.readouterr().out.splitlines()
    return title, [[cell.strip() for cell in row.split("  ") if cell] for row in rows]


def test_the_table_of_memory(monkeypatch, capsys):
    asked = given_figures(monkeypatch, training_bytes=(2e9, 3e9, 4e9, 5.5e9))
    title, rows = printed(capsys, "--component", "htc_memory", "--images", "2")
    assert title.startswith("htc_memory: 2 x 800 x 1333 pixels, CPU, 1 thread(s)")
    assert rows[0] == ["Cascade Mask R-CNN", "2000", "2000"]
    assert rows[-2:] == [
        ["share of the semantic branch in HTC", "1500", "1500"],
        ["HTC / Cascade Mask R-CNN", "2.75", "2.75"],
    ]
    overrides = [[c.build.args[-1] for c in candidates] for candidates, _ in asked]
    assert overrides == [[()] * 4, [("model.roi_heads.mask_branch.checkpoint_heads=True",)] * 4]


def test_the_tables_of_time(monkeypatch, capsys):
    given_figures(monkeypatch, inference_bytes=(1e9, 2e9), inference_seconds=(4, 5), detections=(100, 100))
    _, rows = printed(capsys, "--component", "htc_inference")
    assert rows[1] == ["HTC", "5000", "1.250", "2000", "100"]
    names = ("inference_bytes", "inference_seconds", "training_bytes", "training_seconds")
    given_figures(monkeypatch, **{name: range(1, 7) for name in names})
    _, rows = printed(capsys, "--component", "htc_forms", "--images", "2")
    assert [row[0] for row in rows] == ["Detectron2's Cascade Mask R-CNN", CASCADE, *FORMS]
    assert rows[3][1] == rows[3][3] == "0.5"


@pytest.mark.slow
def test_models_of_components_side_by_side(capsys):
    _, rows = printed(capsys, "--component", "htc_inference", "--size", "96", "128", "--repeat", "1")
    assert [row[-1] for row in rows] == ["100", "100"]
