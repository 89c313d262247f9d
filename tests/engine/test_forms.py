"""Each form that a user's data allow: trained and evaluated with its own data part, made small."""

import json
import math

import pytest

from htd.data import draw_semantic_maps
from htd.data.toy import make_toy_data
from htd.engine.run import train
from tests.engine.real import real_config

STEPS = 10


def box_losses(stages):
    return {"loss_rpn_cls", "loss_rpn_loc"} | {
        f"loss_{part}_stage{k}" for part in ("cls", "box_reg") for k in range(stages)
    }


BOX_LOSSES = box_losses(stages=3)
MASK_LOSSES = BOX_LOSSES | {f"loss_mask_stage{k}" for k in range(3)}
SEMANTIC_LOSSES = MASK_LOSSES | {"loss_sem_seg"}
TSD_LOSSES = ("cls", "box_reg", "cls_tsd", "box_reg_tsd", "margin_cls", "margin_loc")
TSD_MASK_LOSSES = {f"loss_{part}" for part in (*TSD_LOSSES, "mask", "rpn_cls", "rpn_loc")}
TSD_CASCADE_LOSSES = BOX_LOSSES | {f"loss_{part}_stage{k}" for part in TSD_LOSSES for k in range(3)}
HTD_MASK_LOSSES = box_losses(stages=2) | {"loss_global", "loss_mask_stage1"}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Two images for training and two for validation, drawn maps, and files of boxes alone."""
    folder = make_toy_data(tmp_path_factory.mktemp("forms") / "toy", train=2, val=2)
    annotations = folder / "annotations"
    draw_semantic_maps(annotations / "instances_train.json", folder / "drawn")
    for split in ("train", "val"):
        content = json.loads((annotations / f"instances_{split}.json").read_text())
        for entry in content["annotations"]:
            del entry["segmentation"]
        (annotations / f"boxes_{split}.json").write_text(json.dumps(content))
    return folder


def data_flags(toy, kind, maps):
    """Return overrides that name annotation files and, for a form with semantics, the folder of the maps."""
    files = [
        f"dataloader.{part}.dataset.json_file={toy / 'annotations' / f'{kind}_{split}.json'}"
        for part, split in (("train", "train"), ("test", "val"))
    ]
    return [*files, f"dataloader.train.dataset.semantic_root={toy / maps}"] if maps else files


@pytest.mark.parametrize(
    ("form", "kind", "maps", "losses"),
    [
        ("htc/htc_box_r50_fpn_1x", "boxes", None, BOX_LOSSES),
        ("htc/htc_without_semantic_r50_fpn_1x", "instances", None, MASK_LOSSES),
        ("htc/htc_r50_fpn_1x", "instances", "stuff_train", SEMANTIC_LOSSES),
        ("htc/htc_r50_fpn_1x_instance_maps", "instances", "drawn", SEMANTIC_LOSSES),
        ("htd/htd_mask_r50_fpn_1x", "instances", None, HTD_MASK_LOSSES),
        ("tsd/tsd_mask_r50_fpn_1x", "instances", None, TSD_MASK_LOSSES),
        ("tsd/tsd_cascade_r50_fpn_20e", "boxes", None, TSD_CASCADE_LOSSES),
    ],
)
def test_learns_and_is_evaluated(toy, tmp_path, form, kind, maps, losses):
    flags = [
        *data_flags(toy, kind, maps),
        *(f"train.max_iter={STEPS}", "train.log_period=1", "optimizer.lr=0.005", "train.best_metric="),
    ]
    train(real_config(toy, tmp_path, *flags, leaf=f"configs/{form}.py"))
    records = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    steps = [record for record in records if "total_loss" in record]
    assert len(steps) == STEPS
    assert {key for key in steps[0] if key.startswith("loss_")} == losses
    assert all(math.isfinite(step[name]) for step in steps for name in losses)
    totals = [step["total_loss"] for step in steps]
    assert sum(totals[-3:]) < sum(totals[:3])
    assert "bbox/AP" in records[-1]
    assert ("segm/AP" in records[-1]) == any(name.startswith("loss_mask") for name in losses)
