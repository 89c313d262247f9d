"""Sampling, normalisers, losses and the corner cases of the region proposal network."""

import math

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from htd.modeling.rpn import AnchorBudget, SampledAnchors
from tests.modeling.rpn.conftest import CONFIG, config, image_list, targets
from tests.recorded import feature_maps

BOX = torch.tensor([[8.0, 8.0, 40.0, 36.0]])
NONE = torch.zeros(0, 4)


def train(rpn, boxes, sizes, batch=(64, 96)):
    """Run a training step; return proposals and losses, gradients stay in the parameters."""
    rpn.train().zero_grad(set_to_none=True)
    maps = feature_maps(5, len(sizes), *batch)
    proposals, losses = rpn(image_list(sizes, batch), maps, targets(boxes, sizes))
    sum(losses.values()).backward()
    return proposals, losses


def test_normalisers_by_hand():
    """Images with (2, 3), (0, 4), (0, 0) positives and negatives: 5 + 5 + 0 sampled anchors."""
    labels = torch.tensor([[1, 1, 0, 0, 0, -1], [0, 0, 0, 0, -1, -1], [-1] * 6])
    assert SampledAnchors()(labels) == 10
    assert SampledAnchors(least_each=0)(labels) == 9
    assert SampledAnchors()(labels[2:]) == 1
    assert AnchorBudget(anchors_per_image=256)(labels) == 768


def test_losses_by_hand(rpn):
    """One anchor of two is positive and shifted by a tenth of its width, with all outputs zero.

    Cross-entropy: 2 log 2 over N = 2. Smooth L1 of 0.1 below 1/9: 0.5 * 0.01 * 9 = 0.045, over 2.
    """
    anchors = rpn.anchor_generator([torch.zeros(1, 1, 1, 1)] * 5)
    labels = torch.full((1, 15), -1)
    labels[0, :2] = torch.tensor([1, 0])
    every = torch.cat([a.tensor for a in anchors])
    truth = every[None].clone()
    truth[..., 0::2] += 0.1 * (every[:, 2] - every[:, 0])[None, :, None]
    losses = rpn.losses(anchors, [torch.zeros(1, 3)] * 5, labels, [torch.zeros(1, 3, 4)] * 5, truth)
    assert losses["loss_rpn_cls"].item() == pytest.approx(math.log(2))
    assert losses["loss_rpn_loc"].item() == pytest.approx(0.0225)


def test_loss_weights_and_normaliser_are_settings():
    cfg = config()
    cfg.loss_weight = {"loss_rpn_cls": 2.0, "loss_rpn_loc": 0.5}
    cfg.loss_normalizer = {"_target_": "htd.modeling.rpn.AnchorBudget", "anchors_per_image": 100}
    torch.manual_seed(0)
    plain = instantiate(config())
    torch.manual_seed(0)
    other = instantiate(cfg)
    torch.manual_seed(1)
    _, losses = train(plain, [BOX], [(64, 96)])
    torch.manual_seed(1)
    _, weighted = train(other, [BOX], [(64, 96)])
    levels = plain.anchor_generator(list(feature_maps(5, 1, 64, 96).values()))
    labels, _ = plain.label_and_sample_anchors(levels, targets([BOX], [(64, 96)]))
    ratio = SampledAnchors()(labels) / 100
    torch.testing.assert_close(weighted["loss_rpn_cls"], 2 * ratio * losses["loss_rpn_cls"])
    torch.testing.assert_close(weighted["loss_rpn_loc"], 0.5 * ratio * losses["loss_rpn_loc"])


@pytest.mark.parametrize("case", ["no objects", "no candidates", "mixed"])
def test_corner_cases_have_finite_losses_and_all_gradients(rpn, case):
    boxes, sizes = {
        "no objects": ([NONE], [(64, 96)]),
        "no candidates": ([BOX / 8], [(8, 8)]),
        "mixed": ([BOX, NONE, BOX / 8], [(64, 96), (60, 70), (8, 8)]),
    }[case]
    proposals, losses = train(rpn, boxes, sizes)
    assert len(proposals) == len(sizes)
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc"}
    assert all(torch.isfinite(value) for value in losses.values())
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in rpn.parameters())
    if case == "no candidates":
        assert all(value == 0 for value in losses.values())


def test_image_without_candidates_changes_nothing(rpn):
    boxes, sizes = [BOX, BOX + 20], [(60, 90), (64, 96)]
    maps = feature_maps(5, 3, 64, 96)
    rpn.train()
    torch.manual_seed(0)
    _, alone = rpn(image_list(sizes), {k: v[:2] for k, v in maps.items()}, targets(boxes, sizes))
    boxes, sizes = [*boxes, BOX / 8], [*sizes, (8, 8)]
    torch.manual_seed(0)
    _, joined = rpn(image_list(sizes), maps, targets(boxes, sizes))
    for name in alone:
        torch.testing.assert_close(alone[name], joined[name])


def test_sample_has_the_published_size_and_follows_the_seed(rpn):
    sizes = [(256, 384)]
    anchors = rpn.anchor_generator(list(feature_maps(5, 1, 256, 384).values()))
    corner = torch.rand(60, 2, generator=torch.Generator().manual_seed(0)) * 200
    truth = targets([torch.cat([corner, corner + 32], dim=1)], sizes)

    def draw(seed):
        torch.manual_seed(seed)
        return rpn.label_and_sample_anchors(anchors, truth)

    labels, boxes = draw(0)
    assert (labels == 1).sum() == 128 and (labels == 0).sum() == 128
    assert torch.equal(draw(0)[0], labels) and not torch.equal(draw(1)[0], labels)
    assert torch.equal(boxes.any(dim=2), labels == 1)


def test_autocast_keeps_losses_in_float32(rpn):
    rpn.train()
    with torch.autocast("cpu", torch.bfloat16):
        _, losses = rpn(image_list([(64, 96)]), feature_maps(5, 1, 64, 96), targets([BOX], [(64, 96)]))
    assert all(value.dtype == torch.float32 and torch.isfinite(value) for value in losses.values())


def test_non_finite_features_give_no_proposals(rpn):
    maps = {name: torch.full_like(value, torch.nan) for name, value in feature_maps(5, 1, 64, 96).items()}
    with torch.no_grad():
        (found,), _ = rpn.eval()(image_list([(64, 96)]), maps)
    assert len(found) == 0


def test_initial_weights():
    head = instantiate(config()).rpn_head
    for layer in (head.conv, head.objectness_logits, head.anchor_deltas):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert abs(layer.weight.mean().item()) < 1e-3
        assert not layer.bias.any()


def test_config_can_be_saved(tmp_path):
    cfg = LazyConfig.apply_overrides(
        LazyConfig.load(str(CONFIG.with_name("rpn.py"))), ["proposal_generator.proposal_rule.nms_thresh=0.6"]
    )
    LazyConfig.save(cfg, str(tmp_path / "saved.yaml"))
    again = LazyConfig.load(str(tmp_path / "saved.yaml"))
    assert instantiate(again.proposal_generator).proposal_rule.nms_thresh == 0.6
