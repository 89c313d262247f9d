"""What the comparison trains, in which order and on how much."""

import copy

import pytest
from detectron2.config import LazyConfig

import compare_train
from compare_cells import PAIRS, Cell, all_cells
from tests.configs.leaves import config_of


def test_one_seed_of_all_systems_comes_first():
    cells = all_cells(["htd", "salt"], [0.0, 0.5], [3, 4])
    assert len(set(cells)) == len(cells) == 16
    assert [cell.seed for cell in cells] == [3] * 8 + [4] * 8
    assert [cell.form.config for cell in cells[:4]] == ["htd_toy", "cascade_rcnn_toy"] * 2
    assert [cell.strength for cell in cells[:4]] == [0.0, 0.0, 0.5, 0.5]


@pytest.mark.parametrize("name", PAIRS)
def test_both_of_a_pair_see_the_same_images(name):
    system, baseline = (copy.deepcopy(config_of(str(form.path))) for form in PAIRS[name])
    for config, form in ((system, PAIRS[name].system), (baseline, PAIRS[name].baseline)):
        LazyConfig.apply_overrides(config, compare_train._lengths(Cell(form, 0.0, 0), 300))
    assert system.train.max_iter == baseline.train.max_iter == system.lr_multiplier.max_iter == 300
    assert system.dataloader.train.total_batch_size == baseline.dataloader.train.total_batch_size == 8
    assert system.model.get("criterion", {}).get("switch_iter", 100) == 100
