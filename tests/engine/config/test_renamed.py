"""Configs that older versions have saved."""

import difflib
from pathlib import Path

import pytest
import torch

from htd.engine.config import build, config_text, load_config
from htd.engine.config.renamed import rename_keys, renamed_key
from htd.errors import UserError
from tests.configs.leaves import LEAVES, full_size

SAVED = sorted(Path("tests/golden/configs").glob("*.yaml"))
# What a config states today that stood in the class before.
ALSO_STATED = {"min_box_size: -1.0"}


@pytest.mark.parametrize("file", SAVED, ids=lambda file: file.stem)
def test_saved_config_is_that_of_its_leaf_today(file, caplog):
    (leaf,) = (leaf for leaf in LEAVES if Path(leaf).stem == file.stem)
    config = load_config(str(file))
    lines = difflib.ndiff(config_text(config).splitlines(), config_text(load_config(leaf)).splitlines())
    assert {line[2:].strip() for line in lines if line[0] in "+-"} <= ALSO_STATED
    notes = [line for record in caplog.records for line in record.getMessage().splitlines()[1:]]
    assert notes and len(set(notes)) == len(notes)
    with torch.device("meta"):
        model = build(config.model, "model")
    _, today = full_size(leaf)
    shapes = [(name, value.shape) for name, value in model.state_dict().items()]
    assert shapes == [(name, value.shape) for name, value in today.state_dict().items()]
    names = [name for name, _ in today.named_parameters()]
    assert [name for name, _ in model.named_parameters()] == names


def test_interpolations_follow_what_they_name():
    assert renamed_key("model.supervision.switch_iter") == "model.criterion.switch_iter"
    assert renamed_key("model.supervisions") == "model.supervisions"
    settings = {"switch_iter": "${..num_classes}", "length": "${.switch_iter}"}
    config = {"model": {"num_classes": 3, "supervision": settings}, "a": "${model.supervision.length}/x"}
    assert rename_keys(config) == ["model.supervision is now model.criterion"]
    assert config == {"model": {"num_classes": 3, "criterion": settings}, "a": "${model.criterion.length}/x"}
    assert settings == {"switch_iter": "${..num_classes}", "length": "${.switch_iter}"}
    assert rename_keys(config) == []


def test_proposals_without_area_are_dropped_by_the_rule_that_dropped_them(tmp_path):
    """The rule of before had another default than the one that it is now."""
    saved = Path("tests/golden/configs/cascade_mask_rcnn_r50_fpn_1x.yaml").read_text()
    assert saved.count("      min_box_size: 0.0\n") == 1
    (tmp_path / "config.yaml").write_text(saved.replace("      min_box_size: 0.0\n", ""))
    config = load_config(str(tmp_path / "config.yaml"))
    assert config.model.proposal_generator.proposal_rule.min_box_size == 0.0


def test_override_with_an_old_key_is_told_the_new_one():
    with pytest.raises(UserError, match="model.supervision.switch_iter is now model.criterion.switch_iter"):
        load_config("configs/tood/tood_r50_fpn_1x.py", ["model.supervision.switch_iter=5"])
    with pytest.raises(UserError, match=r"smooth_l1_beta is now .*stages.0.losses.box_losses.smooth_l1_beta"):
        load_config("configs/tsd/tsd_faster_r50_fpn_1x.py", ["model.roi_heads.stages.0.smooth_l1_beta=5"])
    with pytest.raises(UserError, match="it is now htd.modeling.dense.PairTopK"):
        build({"_target_": "htd.modeling.dense.PairSelection"}, "part")
