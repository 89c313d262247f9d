"""Every leaf: loads, is saved and read back, builds in full size, trains and detects in small."""

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf

from tests.configs.leaves import LEAVES, config_of, full_size
from tests.configs.reduced import (
    as_mapped,
    build,
    example,
    iterations_of_phases,
    reduced_model,
    selection_of,
)
from tests.static.test_zoo import ROWS

KEYS = {"model", "dataloader", "optimizer", "lr_multiplier", "train"}


def distinct(leaves):
    """Return one leaf for each different reduced model: equal copies would run the same code twice."""
    seen = {}
    for leaf in leaves:
        seen.setdefault(OmegaConf.to_yaml(as_text(reduced_model(leaf))), leaf)
    return sorted(seen.values())


def as_text(model):
    """Return a config whose classes are named, so that it can be written."""
    return OmegaConf.create({"model": model}, flags={"allow_objects": True})


def has_masks(model):
    """Whether a model predicts masks."""
    return hasattr(model, "roi_heads") and bool(model.roi_heads.mask_branch.num_heads)


@pytest.mark.parametrize("leaf", LEAVES)
def test_load_save_and_load(leaf, tmp_path):
    cfg = config_of(leaf)
    assert KEYS == set(cfg) - {"test_time_augmentation"}
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    LazyConfig.save(cfg, str(first))
    LazyConfig.save(LazyConfig.load(str(first)), str(second))
    assert first.read_text() == second.read_text()
    assert "bottom_up" in first.read_text()


@pytest.mark.parametrize("leaf", LEAVES)
def test_schedule_fits_the_length(leaf):
    cfg, _ = full_size(leaf)
    assert cfg.dataloader.train.total_batch_size == cfg.train.reference_batch_size
    multiplier = instantiate(cfg.lr_multiplier)
    assert multiplier(0.0) < 0.1 * multiplier(0.5)
    assert multiplier(1 - 1e-6) < 0.05 * multiplier(0.5)


@pytest.mark.parametrize("leaf", LEAVES)
def test_full_size_model_is_built_without_weights(leaf):
    _, model = full_size(leaf)
    state = model.state_dict()
    assert len(state) > 50 and all(value.is_meta for value in state.values())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.config)
def test_full_size_model_has_the_parameters_that_the_zoo_states(row):
    _, model = full_size(row.target)
    assert f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}" == row.parameters


@pytest.mark.parametrize("leaf", LEAVES)
def test_training_data_hold_what_the_model_learns_from(leaf):
    cfg, model = full_size(leaf)
    data, heads = cfg.dataloader.train, getattr(model, "roi_heads", None)
    masks = has_masks(model)
    assert (bool(data.dataset.get("masks")), bool(data.mapper.get("mask_format"))) == (masks, masks)
    maps = instantiate(data.mapper.get("semantic_maps"))
    semantic = getattr(getattr(heads, "context", None), "semantic", None)
    assert bool(data.dataset.get("semantic_root")) == bool(maps) == bool(semantic)
    if semantic:
        expected = semantic.num_labels, semantic.ignore_value, semantic.ignore_value
        assert (maps.channels, maps.ignore_value, model.sem_seg_ignore_value) == expected


@pytest.fixture(scope="module", params=distinct(LEAVES))
def leaf_and_model(request):
    return request.param, build(request.param)


@pytest.fixture
def model(leaf_and_model):
    return leaf_and_model[1]


@pytest.mark.parametrize("objects", [(3,), (2, 0), (1, 0, 4), (0,)])
def test_training_step(leaf_and_model, objects):
    leaf, model = leaf_and_model
    mapper = config_of(leaf).dataloader.train.mapper
    inputs = [as_mapped(example(n, seed=i), mapper) for i, n in enumerate(objects)]
    for iteration in iterations_of_phases(model):
        model.train().zero_grad(set_to_none=True)
        with EventStorage(iteration):
            losses = model(inputs)
        assert all(name.startswith("loss_") for name in losses)
        sum(losses.values()).backward()
        assert all(torch.isfinite(loss) for loss in losses.values())
        missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_detection(model):
    inputs = [example(2, seed=7), example(0, seed=8, size=(48, 80))]
    selection_of(model).score_threshold = 0.0
    with torch.no_grad():
        together = model.eval()(inputs)
        alone = [model([item])[0] for item in inputs]
    for item, batched, single in zip(inputs, together, alone, strict=True):
        found = batched["instances"]
        assert found.image_size == (item["height"], item["width"])
        assert 0 < len(found) <= 100
        torch.testing.assert_close(found.scores, single["instances"].scores, atol=1e-5, rtol=1e-4)
        assert torch.isfinite(found.pred_boxes.tensor).all()
        assert found.has("pred_masks") == has_masks(model)
        if found.has("pred_masks"):
            height, width = (round(side) for side in found.image_size)
            assert found.pred_masks.shape == (len(found), height, width)
            assert 0 < found.pred_masks.float().mean() < 1


def test_features_that_are_not_numbers_give_no_detections(model):
    inputs = [example(0, seed=9)]
    inputs[0]["image"] = torch.full((3, 64, 96), float("nan"))
    with torch.no_grad():
        found = model.eval()(inputs)[0]["instances"]
    assert len(found) == 0
