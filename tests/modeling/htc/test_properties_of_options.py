"""HTC's parts taken out or exchanged, one by one and together."""

import itertools

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate

from configs.common.models.htc import fuse_into_boxes, fuse_into_masks
from htd.modeling.cascade import IndependentHeads, SampledPositives
from htd.modeling.htc import MeanOverAll
from tests.configs.reduced import build, example, reduced_model
from tests.modeling.htc.small import (
    HTC,
    changed,
    heads_inputs,
    heads_inputs_near_objects,
    randomise,
    seeded_losses,
    without_gradient,
)

BOTH = ("bbox", "mask")
FUSIONS = [(), ("bbox",), ("mask",), BOTH]
OPTIONS = list(itertools.product([True, False], [True, False], FUSIONS))


def set_options(heads, *, interleaved=True, flow=True, fusion=BOTH):
    """Give the config of HTC's RoI heads the options of the published implementation."""
    if not interleaved:
        heads.mask_branch.roi_rule = L(SampledPositives)()
    if not flow:
        heads.mask_branch.flow = L(IndependentHeads)()
    if "bbox" not in fusion:
        for stage in heads.stages:
            stage.head.features = stage.head.features.poolers[0]
    if "mask" not in fusion:
        heads.mask_branch.features = heads.mask_branch.features.poolers[0]


def htc_heads(**options):
    config = reduced_model(HTC).roi_heads
    set_options(config, **options)
    torch.manual_seed(0)
    return instantiate(config)


@pytest.mark.parametrize("interleaved, flow, fusion", OPTIONS)
def test_every_combination_trains_and_detects(interleaved, flow, fusion):
    heads = htc_heads(interleaved=interleaved, flow=flow, fusion=fusion)
    inputs = heads_inputs((4, 0, 3))
    losses, _ = seeded_losses(heads, inputs)
    stages = [f"loss_{part}_stage{k}" for part in ("cls", "box_reg", "mask") for k in range(3)]
    assert set(losses) == {"loss_sem_seg", *stages}
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())
    # The embedding gives features to RoIs and nothing else: without fusion nobody asks for them.
    unused = [] if fusion else ["context.semantic.embedding.weight", "context.semantic.embedding.bias"]
    assert without_gradient(heads) == unused
    with torch.no_grad():
        found, _ = heads.eval()(*inputs[:3])
    assert [len(x) > 0 for x in found] == [True, False, True]
    assert all(x.pred_masks.shape == (len(x), 1, 28, 28) for x in found)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_fusion_reaches_what_it_names(fusion):
    heads = htc_heads(fusion=fusion).eval()
    images, maps, proposals, _, _ = heads_inputs((6,))

    def outputs():
        with torch.no_grad():
            context, _ = heads.make_context(images.image_sizes, maps)
            scores = heads.predict(context, proposals)[0].scores
            given = [proposals[0][:6]]
            given[0].pred_boxes, given[0].pred_classes = given[0].proposal_boxes, torch.arange(6) % 4
            heads.mask_branch.add_masks(context, given)
            return scores, given[0].pred_masks

    scores, masks = outputs()
    heads.context.semantic.embedding.bias.data += 1.0
    other_scores, other_masks = outputs()
    assert torch.equal(scores, other_scores) == ("bbox" not in fusion)
    assert torch.equal(masks, other_masks) == ("mask" not in fusion)


@pytest.mark.parametrize("interleaved", [True, False])
def test_masks_learn_from_refined_boxes_only_if_interleaved(interleaved):
    """All candidates are drawn; apart from ground truth, box and mask head share all RoIs or none."""
    heads = randomise(htc_heads(interleaved=interleaved), box_std=0.02)
    pooled, sampled = [], []
    heads.mask_branch.features.register_forward_hook(lambda _, args, __: pooled.append(args[1].boxes))
    for stage in heads.stages:
        stage.sampler.batch_size_per_image, stage.sampler.positive_fraction = 1000, 1.0
        stage.head.features.register_forward_hook(lambda _, args, __: sampled.append(args[1].boxes))
    inputs = heads_inputs_near_objects((64, 128), distance=0.5)
    seeded_losses(heads, inputs)
    truth = torch.cat([target.gt_boxes.tensor for target in inputs[3]])

    def among(boxes, others):
        return (boxes[:, None] == others[None]).all(dim=2).any(dim=1)

    assert len(pooled) == len(sampled) == 3
    for masks, boxes in zip(pooled, sampled, strict=True):
        assert among(truth, masks).all() and among(truth, boxes).all()
        others = masks[~among(masks, truth)]
        assert len(others) and among(others, boxes).tolist() == [not interleaved] * len(others)


def test_fusing_functions_of_the_config_undo_what_was_taken_out():
    config = reduced_model(HTC).roi_heads
    set_options(config, fusion=())
    fuse_into_boxes(config.stages)
    fuse_into_masks(config.mask_branch)
    torch.manual_seed(0)
    heads, inputs = instantiate(config), heads_inputs((4,))
    assert seeded_losses(heads, inputs)[0] == seeded_losses(htc_heads(), inputs)[0]


def test_mean_over_all_pixels_is_a_choice():
    """A quarter of the pixels is labeled: the mean over all is a quarter of the mean over those."""

    def change(config):
        config.roi_heads.context.semantic.loss_mean = L(MeanOverAll)()

    labels = torch.full((1, 16, 16), 255)
    labels[:, :8, :8] = 2
    logits = torch.zeros(1, 183, 2, 2)
    labeled, everything = (
        m.roi_heads.context.semantic.loss(logits, labels) for m in (build(HTC), changed(HTC, change))
    )
    torch.testing.assert_close(everything, labeled / 4)


def test_maps_of_instances_have_one_more_class_for_no_object():
    model = build("configs/htc/htc_r50_fpn_1x_instance_maps.py")
    inputs = example(2)
    inputs["sem_seg"] = inputs["sem_seg"].clamp(max=4)  # 255 becomes "no object" of 4 classes
    losses, _ = seeded_losses(model, [[inputs]])
    assert torch.isfinite(losses["loss_sem_seg"])
    assert not without_gradient(model)
    assert model.roi_heads.context.semantic.predictor.out_channels == 5
