"""Mask information flow: what each head sees, and how often anything is computed."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import LazyCall as L

from htd.modeling.cascade import ConvMaskHead, IndependentHeads
from htd.modeling.htc import MaskInformationFlow
from tests.configs.reduced import build, example
from tests.modeling.htc.small import (
    CASCADE_MASK_RCNN,
    HTC,
    WITHOUT_SEMANTIC,
    changed,
    heads_inputs,
    randomise,
    seeded_losses,
)


@pytest.fixture(scope="module")
def parts():
    """Three heads, a flow and RoI features (5, 8, 14, 14)."""
    torch.manual_seed(0)
    heads = [randomise(ConvMaskHead(num_classes=3, channels=8, num_convs=2), seed=k) for k in range(3)]
    return heads, randomise(MaskInformationFlow(num_heads=3, channels=8), seed=3), torch.randn(5, 8, 14, 14)


def extractors(heads):
    return [head.extract for head in heads]


def test_each_head_sees_the_features_of_the_one_before(parts):
    heads, flow, x = parts
    second, third = flow.transforms
    f1 = heads[0].extract(x)
    f2 = heads[1].extract(x + F.relu(second(f1)))
    f3 = heads[2].extract(x + F.relu(third(f2)))
    expected = [f1, f2, f3]
    found = flow.every(extractors(heads), x)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    for k in range(3):
        assert torch.equal(flow.last(extractors(heads)[: k + 1], x), expected[k])
    assert not torch.allclose(f3, heads[2].extract(x))


def test_without_flow_heads_are_independent(parts):
    heads, _, x = parts
    alone = [head.extract(x) for head in heads]
    found = IndependentHeads().every(extractors(heads), x)
    assert all(torch.equal(a, b) for a, b in zip(found, alone, strict=True))
    for k in range(3):
        assert torch.equal(IndependentHeads().last(extractors(heads)[: k + 1], x), alone[k])


def test_a_flow_of_nothing_is_no_flow(parts):
    heads, _, x = parts
    nothing = MaskInformationFlow(num_heads=3, channels=8)
    for parameter in nothing.parameters():
        parameter.data.zero_()
    for one, other in zip(nothing.every(extractors(heads), x), extractors(heads), strict=True):
        assert torch.equal(one, other(x))


def test_last_loss_teaches_all_heads_only_with_the_flow(parts):
    heads, flow, x = parts
    weights = [head.convs[0].weight for head in heads]
    for rule, expected in ((flow, [True] * 3), (IndependentHeads(), [False, False, True])):
        total = rule.last(extractors(heads), x).sum()
        found = torch.autograd.grad(total, weights, allow_unused=True)
        assert [g is not None and bool(g.any()) for g in found] == expected


@pytest.mark.parametrize("leaf", [HTC, CASCADE_MASK_RCNN])
def test_masks_are_the_mean_of_three_probabilities(leaf):
    heads = randomise(build(leaf)).roi_heads.eval()
    images, maps, proposals, _, _ = heads_inputs((4, 3))
    branch = heads.mask_branch
    with torch.no_grad():
        context, _ = heads.make_context(images.image_sizes, maps)
        detections = [heads.postprocessing(p) for p in heads.predict(context, proposals)]
        branch.add_masks(context, detections)
        x = branch.features(context, context.rois([d.pred_boxes.tensor for d in detections]))
        features = branch.flow.every([head.extract for head in branch.heads], x)
        classes = torch.cat([d.pred_classes for d in detections])
        rows = torch.arange(len(classes))
        each = [
            head.logits(f)[rows, classes].sigmoid() for head, f in zip(branch.heads, features, strict=True)
        ]
    found = torch.cat([d.pred_masks for d in detections])[:, 0]
    torch.testing.assert_close(found, sum(each) / 3)
    assert not torch.allclose(found, each[-1], atol=1e-3)


def counted(heads):
    """Count how often parts of RoI heads run; return the counter and the hooks' handles."""
    calls = Counter()
    branch = heads.mask_branch
    parts = {"pool": branch.features}
    for k, head in enumerate(branch.heads):
        parts |= {f"extract{k}": head.convs[0], f"deconv{k}": head.deconv}
    for k, transform in enumerate(getattr(branch.flow, "transforms", [])):
        parts[f"transform{k + 1}"] = transform
    if heads.context.semantic is not None:
        semantic = heads.context.semantic
        parts |= {"semantic": semantic.convs[0], "semantic_logits": semantic.predictor}

    def hook(name):
        return lambda *_: calls.update([name])

    return calls, [part.register_forward_hook(hook(name)) for name, part in parts.items()]


FLOW_TRAINING = {"extract0": 3, "extract1": 2, "extract2": 1, "transform1": 2, "transform2": 1}
FLOW_TEST = {"extract0": 1, "extract1": 1, "extract2": 1, "transform1": 1, "transform2": 1}
ALONE = {"extract0": 1, "extract1": 1, "extract2": 1}
DECONVS = {"deconv0": 1, "deconv1": 1, "deconv2": 1}
EXPECTED = {
    HTC: (FLOW_TRAINING | {"semantic": 1, "semantic_logits": 1}, FLOW_TEST | {"semantic": 1}),
    WITHOUT_SEMANTIC: (FLOW_TRAINING, FLOW_TEST),
    CASCADE_MASK_RCNN: (ALONE, ALONE),
}


@pytest.mark.parametrize("leaf", EXPECTED)
def test_nothing_is_computed_twice(leaf):
    """Stage t trains with heads 1 ... t once each; at test each head runs once; only losses need deconvs."""
    heads = build(leaf).roi_heads
    calls, _ = counted(heads)
    images, maps, proposals, targets, sem_seg = heads_inputs((4, 3))
    heads.train()(images, maps, proposals, targets, sem_seg)
    assert calls == EXPECTED[leaf][0] | DECONVS | {"pool": 3}
    calls.clear()
    with torch.no_grad():
        heads.eval()(images, maps, proposals)
    assert calls == EXPECTED[leaf][1] | DECONVS | {"pool": 1}


def test_checkpointed_heads_are_computed_again_only_in_the_backward_pass():
    heads = build(WITHOUT_SEMANTIC).roi_heads
    heads.mask_branch.checkpoint_heads = True
    calls, _ = counted(heads)
    inputs = heads_inputs((4, 3))
    _, losses = heads.train()(*inputs)
    assert calls == FLOW_TRAINING | DECONVS | {"pool": 3}
    sum(losses.values()).backward()
    assert (calls["extract0"], calls["extract2"], calls["deconv1"]) == (6, 2, 2)
    calls.clear()
    with torch.no_grad():
        heads.eval()(*inputs[:3])
    assert calls == FLOW_TEST | DECONVS | {"pool": 1}


def saved_bytes(heads, inputs):
    """Train one step; return losses, gradients and the bytes that the forward pass keeps."""
    total = [0]

    def pack(tensor):
        total[0] += tensor.nbytes
        return tensor

    heads.train().zero_grad(set_to_none=True)
    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _, losses = heads(*inputs)
    sum(losses.values()).backward()
    return losses, {n: p.grad for n, p in heads.named_parameters()}, total[0]


@pytest.mark.parametrize("leaf", [HTC, CASCADE_MASK_RCNN])
def test_checkpointing_gives_equal_gradients_for_less_memory(leaf):
    heads, inputs = build(leaf).roi_heads, heads_inputs((20, 20), num_gt=4)
    losses, gradients, kept = saved_bytes(heads, inputs)
    heads.mask_branch.checkpoint_heads = True
    found, found_gradients, found_kept = saved_bytes(heads, inputs)
    assert all(torch.equal(found[name], loss) for name, loss in losses.items())
    for name, gradient in gradients.items():
        assert torch.equal(found_gradients[name], gradient), name
    assert found_kept < 0.4 * kept


def test_a_flow_of_nothing_equals_independent_heads_in_the_whole_model():
    def change(config):
        config.roi_heads.mask_branch.flow = L(IndependentHeads)()

    flowing, independent = randomise(build(HTC)), changed(HTC, change)
    for parameter in flowing.roi_heads.mask_branch.flow.parameters():
        parameter.data.zero_()
    unused = independent.load_state_dict(flowing.state_dict(), strict=False)
    assert not unused.missing_keys
    assert all(".flow." in key for key in unused.unexpected_keys)
    inputs = [example(3), example(1, seed=1)]
    losses, _ = seeded_losses(flowing, [inputs])
    assert losses == seeded_losses(independent, [inputs])[0]
    with torch.no_grad():
        one, other = (m.eval()(inputs)[0]["instances"] for m in (flowing, independent))
    assert len(one) and torch.equal(one.pred_masks, other.pred_masks)
