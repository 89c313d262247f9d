"""Weights that were trained with boxes of one convention do not go into models of the other."""

import re

import pytest
import torch

from htd.checkpoint import convert
from htd.errors import UserError
from htd.layers import ContinuousBoxes, InclusiveBoxes
from tests.checkpoint import tiny
from tests.checkpoint.whole import build, file_of, model_of

FASTER, PLAIN = "baselines/faster_rcnn_r50_fpn_1x", "baselines/faster_rcnn_r50_fpn_openimages"
TSD, CONTINUOUS = "tsd/tsd_faster_r50_fpn_1x", "tsd/tsd_faster_r50_fpn_1x_continuous"
TSD_FILE = "manifest_faster_rcnn_r50_fpn_TSD_1x"
INCLUSIVE, ENDS = "boxes that name their first and last pixel", "boxes that end between pixels"


def failure(weights, model, **options):
    with pytest.raises(UserError) as caught:
        convert(weights, model, **options)
    return str(caught.value)


def fitting(*configs):
    names = [f"configs/{config}.py" for config in configs]
    return f"boxes would be a pixel off; configs that fit the file: {', '.join(names)}"


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("system", "manifest", "config", "words"),
    [
        ("tsd", TSD_FILE, CONTINUOUS, (INCLUSIVE, fitting(TSD))),
        ("tsd", TSD_FILE, FASTER, (INCLUSIVE, fitting(TSD))),
        ("tsd", "manifest_openimages_r50_fpn_classsampling", FASTER, (INCLUSIVE, fitting(PLAIN))),
        ("htc", "faster_rcnn_r50", PLAIN, (ENDS, fitting(FASTER))),
        ("htc", "faster_rcnn_r50", TSD, (ENDS, fitting(FASTER))),
    ],
)
def test_error_names_the_fitting_config(system, manifest, config, words, strict):
    text = failure(file_of(system, manifest), model_of(config), strict=strict)
    assert all(word in text for word in words)


def faster_rcnn_of_2019():
    """Return the names of MMDetection 2 as version 1 writes them, with a box for the background, too."""
    weights = {key.removeprefix("roi_head."): v for key, v in file_of("htc", "faster_rcnn_r50").items()}
    for key in ("bbox_head.fc_reg.weight", "bbox_head.fc_reg.bias"):
        weights[key] = torch.zeros(324, *weights[key].shape[1:], device="meta")
    return weights


def test_faster_rcnn_of_2019():
    model = build(PLAIN, "model.roi_heads.num_classes=80")
    converted, report = convert(faster_rcnn_of_2019(), model)
    model.load_state_dict(converted, strict=True)
    assert report.complete and report.format == "faster_rcnn_mmdetection1"
    assert fitting(PLAIN) in failure(faster_rcnn_of_2019(), model_of(FASTER))


class TestParts:
    """On the stand-in, with weights of HTD, which knows continuous boxes alone."""

    @pytest.fixture
    def model(self):
        model = tiny.build()
        model.box_convention = model.roi_heads.box_convention = InclusiveBoxes()
        return model

    def test_heads_alone_have_a_convention(self, model):
        heads = {k: v for k, v in tiny.published().items() if k.startswith("roi_head.")}
        assert re.search(rf"weights of HTD were .*{ENDS}", failure(heads, model.roi_heads))
        model.roi_heads.box_convention = ContinuousBoxes()
        assert convert(heads, model.roi_heads)[1].complete

    @pytest.mark.parametrize("part", ["backbone", "roi_heads.stages.0.head"])
    def test_other_parts_have_none(self, model, part):
        converted, _ = convert(tiny.published(), model.get_submodule(part), strict=False)
        assert converted.keys() == model.get_submodule(part).state_dict().keys()

    def test_files_without_heads_have_none(self, model):
        body = {k: v for k, v in tiny.published().items() if not k.startswith("roi_head.")}
        _, report = convert(body, model, strict=False)
        assert report.format == "body" and len(report.used) == len(body)
