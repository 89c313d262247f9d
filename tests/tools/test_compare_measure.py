"""The candidates of which the comparison correlates scores and IoUs."""

import copy

import pytest
import torch
from detectron2.config import instantiate

from compare_cells import PAIRS
from compare_measure import keep_candidates
from tests.configs.leaves import config_of


@pytest.mark.parametrize("form", [form for pair in PAIRS.values() for form in pair], ids=lambda f: f.config)
def test_candidates_are_chosen_by_their_score_alone(form):
    model, before = copy.deepcopy(config_of(str(form.path)).model), config_of(str(form.path)).model
    keep_candidates(model)
    part = model.get("postprocessing") or model.roi_heads.selection
    selection = part.get("selection", part)
    assert selection.score_threshold == 0.05 and selection.get("topk", 10**6) >= 10**6
    assert part.nms.iou_threshold == 1.0 and part.max_detections >= 10**6
    # What chooses proposals and what assigns objects stay as they were.
    for key in ("proposal_generator", "criterion"):
        assert model.get(key) == before.get(key)


def test_no_candidate_is_suppressed():
    model = copy.deepcopy(config_of(str(PAIRS["htd"].system.path)).model)
    keep_candidates(model)
    suppression = instantiate(model.roi_heads.selection).nms
    same = torch.tensor([[0.1, 0.2, 30.7, 41.3]]).expand(300, 4)
    keep, _ = suppression(same, torch.rand(300), torch.zeros(300, dtype=torch.int64))
    assert len(keep) == 300
