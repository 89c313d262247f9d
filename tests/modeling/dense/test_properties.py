"""What must hold for every dense detector with any weights: batches, empty images, extreme outputs."""

import copy
from functools import partial

import pytest
import torch

from tests.configs.reduced import build, example, iterations_of_phases
from tests.modeling.dense.reference import priced
from tests.modeling.htc.small import randomise, without_gradient

LEAVES = {
    "retinanet": "configs/baselines/retinanet_r50_fpn_1x.py",
    "fcos": "configs/baselines/fcos_r50_fpn_1x.py",
    "atss": "configs/baselines/atss_r50_fpn_1x.py",
    "gfl": "configs/baselines/gfl_r50_fpn_1x.py",
    "tood": "configs/tood/tood_r50_fpn_1x.py",
    "tood_anchor_based": "configs/tood/tood_r50_fpn_anchor_based_1x.py",
    "tood_salt": "configs/salt/salt_tood_r50_fpn_1x.py",
    "salt": "configs/salt/salt_r50_fpn_1x.py",
    "retinanet_salt": "configs/salt/salt_retinanet_r50_fpn_1x.py",
}
# What an image without objects adds to the normalizers; to those of other losses nothing.
EXTRA = {
    "retinanet": {"loss_cls": 1, "loss_box_reg": 1},
    "fcos": {"loss_cls": 1},
    "atss": {"loss_cls": 1, "loss_centerness": 1},
    "gfl": {"loss_cls": 1},
    "tood": {},
    "tood_anchor_based": {},
    "tood_salt": {},
    "salt": {"loss_cls": 1},
    "retinanet_salt": {"loss_cls": 1, "loss_box_reg": 1},
}
EXTREME = 1e4


def with_scores_apart(model):
    """Draw the predictors so that rounding does not change the order of scores."""
    randomise(model)
    model.head.predictors.cls_score.weight.data *= 30
    return model


@pytest.mark.parametrize("leaf", LEAVES.values(), ids=LEAVES)
def test_a_batch_equals_its_images_one_by_one(leaf):
    """At sizes that are padded alike."""
    model = with_scores_apart(build(leaf)).eval()
    inputs = [example(2, seed=5), example(0, seed=6, size=(48, 80)), example(1, seed=7, size=(33, 96))]
    with torch.no_grad():
        together = [x["instances"] for x in model(inputs)]
        alone = [model([item])[0]["instances"] for item in inputs]
    for one, other, item in zip(together, alone, inputs, strict=True):
        assert len(one) > 3 and one.image_size == (item["height"], item["width"])
        assert torch.equal(one.pred_classes, other.pred_classes)
        torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(one.pred_boxes.tensor, other.pred_boxes.tensor, atol=1e-3, rtol=1e-5)
    assert not torch.equal(together[0].scores[:3], together[2].scores[:3])


@pytest.fixture(
    scope="module",
    params=[(name, phase) for name in LEAVES for phase in range(1 + name.startswith("tood"))],
    ids=lambda param: "-".join(map(str, param)),
)
def trained(request):
    """Name and model of each detector, in each of its phases."""
    name, phase = request.param
    model = randomise(build(LEAVES[name])).train()
    iterations = iterations_of_phases(model)
    assert len(iterations) == 1 + name.startswith("tood")
    if name.startswith("tood"):
        model.criterion.set_iteration(iterations[phase])
        assert model.criterion.aligned_now == bool(phase)
    return name, model


@torch.no_grad()
def test_an_empty_image_changes_the_losses_only_as_the_normalizer_says(trained):
    name, model = trained
    full, empty = example(3, seed=1), example(0, seed=2)
    alone, nothing, both = (
        priced(model, partial(model, batch)) for batch in ([full], [empty], [full, empty])
    )
    assert alone.targets.positive.sum() > 1
    for loss in both.losses:
        in_full, in_empty, in_both = (x.losses[loss] * x.divisors[loss] for x in (alone, nothing, both))
        torch.testing.assert_close(in_both, in_full + in_empty, rtol=1e-4, atol=1e-6)
        assert in_full > 0 and (in_empty > 0) == (loss == "loss_cls")
        added = both.norms[loss] - alone.norms[loss]
        assert added.item() == pytest.approx(EXTRA[name].get(loss, 0), abs=1e-5)


@pytest.mark.parametrize("sign", ["+", "-", "both"])
def test_gradients_of_extreme_outputs_are_finite(trained, sign):
    """Whatever the convolutions say: logits, distances, deltas, distributions, offsets of ten thousand."""
    model, generator = copy.deepcopy(trained[1]), torch.Generator().manual_seed(0)
    for name, parameter in model.head.predictors.named_parameters():
        if name.endswith("bias"):
            signs = 1 - 2 * torch.randint(0, 2, parameter.shape, generator=generator)
            parameter.data.fill_(EXTREME).mul_({"+": 1, "-": -1, "both": signs}[sign])
    losses = model([example(3, seed=1), example(0, seed=2)])
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert not without_gradient(model)
