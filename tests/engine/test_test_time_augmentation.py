"""Which evaluations use a config's test-time augmentation, and what images they get."""

import json

import pytest
import torch
from detectron2.config import LazyCall, LazyConfig, instantiate
from omegaconf import OmegaConf
from torch import nn

from htd.data import ResizeCV2
from htd.data.toy import make_toy_data
from htd.engine.config import load_config, save_config
from htd.engine.evaluation import Evaluation
from htd.engine.run import evaluate, train
from htd.errors import UserError
from htd.evaluation import AveragedViews, MergedViews, View
from htd.layers import HardNMS
from tests.engine.real import LEAF, real_config
from tests.static.source import ROOT


class SameScore(nn.Module):
    """Gives every detection of a model the score 0.125."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images):
        results = self.model(images)
        for result in results:
            result["instances"].scores = torch.tensor([0.125])
        return results


def test_eval_only_uses_it_and_a_training_does_not(tiny, tmp_path):
    config = tiny("train.eval_period=9")
    config.test_time_augmentation = LazyCall(SameScore)()
    train(config)
    lines = (tmp_path / "run" / "metrics.json").read_text().splitlines()
    (plain,) = {row["bbox/AP"] for row in map(json.loads, lines) if "bbox/AP" in row}

    def evaluated(*overrides):
        file = str(tmp_path / "run" / "config.yaml")
        weights = f"train.init_checkpoint={tmp_path / 'run' / 'model_final.pth'}"
        return evaluate(load_config(file, [weights, *overrides]))["bbox"]["AP"]

    assert evaluated() == 12.5
    assert evaluated("test_time_augmentation=null") == pytest.approx(plain) != 12.5


VIEW = LazyCall(View)(augmentations=[LazyCall(ResizeCV2)(short_edge_length=64, max_size=96)])
AVERAGED = LazyCall(AveragedViews)(
    views=[VIEW], proposal_nms=LazyCall(HardNMS)(iou_threshold=1.0), max_proposals=1000
)
ATSS = str(ROOT / "configs" / "baselines" / "atss_r50_fpn_1x.py")


@pytest.mark.parametrize(
    ("leaf", "part", "augmentation"),
    [
        (LEAF, "roi_heads.postprocessing", AVERAGED),
        (ATSS, "postprocessing.pre_nms", LazyCall(MergedViews)(views=[VIEW])),
    ],
)
def test_one_view_evaluates_as_the_mapper_resizes(tmp_path, leaf, part, augmentation):
    """The views, not the mapper, resize then: with the same resize the results files are the same."""
    toy = make_toy_data(tmp_path / "toy", train=2, val=2)
    plain = real_config(toy, tmp_path / "plain", leaf=leaf)
    weights = tmp_path / "weights.pth"
    torch.save({"model": instantiate(plain.model).state_dict()}, weights)
    plain.train.init_checkpoint = str(weights)
    OmegaConf.update(plain.model, f"{part}.score_threshold", 0.0)
    file = tmp_path / "views.yaml"
    with_views = plain.copy()
    with_views.train.output_dir = str(tmp_path / "views")
    with_views.test_time_augmentation = augmentation
    save_config(with_views, file)
    for config in (plain, load_config(str(file))):
        evaluate(config)
    wanted, found = (
        json.loads((tmp_path / run / "inference" / "coco_instances_results.json").read_text())
        for run in ("plain", "views")
    )
    assert len(found) == len(wanted) > 100
    for one, other in zip(found, wanted, strict=True):
        assert (one["image_id"], one["category_id"]) == (other["image_id"], other["category_id"])
        assert [*one["bbox"], one["score"]] == pytest.approx([*other["bbox"], other["score"]], abs=2e-3)


def test_the_published_views():
    node = LazyConfig.load("configs/common/test_time.py").test_time_augmentation
    model = nn.Module()
    model.roi_heads = nn.Module()
    model.roi_heads.predict = print
    views = instantiate({**node, "model": model}).views
    image = torch.zeros(3, 120, 200, dtype=torch.uint8)
    assert [view.mirrored for view in views] == [False, True] * 4
    # 200 x 120 enlarged until a side meets its limit: 2000 pixels, or 1400, 1200, 800 and 600.
    sizes = [(1200, 2000), (1200, 2000), (800, 1333), (600, 1000)]
    assert [tuple(view(image).shape[1:]) for view in views[::2]] == sizes


@pytest.mark.parametrize("value", ["true", "[1,2]", "{views:[]}"])
def test_what_is_no_call_is_an_error(tiny, value):
    config = tiny(f"+test_time_augmentation={value}")
    with pytest.raises(UserError, match="test_time_augmentation is .*: import it from"):
        Evaluation(config.dataloader, config.test_time_augmentation)
    assert tiny("+test_time_augmentation=null").test_time_augmentation is None
