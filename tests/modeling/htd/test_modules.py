"""HTD's modules against the reference arrays of the published implementation."""

from copy import copy

import pytest
import torch
from detectron2.structures import Instances

from htd.layers import FeatureTable
from htd.modeling.cascade import GroundTruth, LevelRule, RoIContext, RoIs
from htd.modeling.htd import DecoupledHead
from tests.modeling.reference import on
from tests.recorded import close, feature_maps, random_input, tensors

LEVELS = ("p2", "p3", "p4", "p5")


class Given(torch.nn.Module):
    """Stands for a pooler whose result is given."""

    def __init__(self, result):
        super().__init__()
        self.result = result

    def forward(self, *_):
        return self.result


def context_of(maps, image_vector=None):
    table = FeatureTable([maps[name] for name in LEVELS], [4, 8, 16, 32])
    return RoIContext(table, (), LevelRule(), image_vector)


def rois_of(array):
    boxes = array[:, 1:]
    return RoIs(boxes, array[:, 0].long(), LevelRule()(boxes))


def test_semantic_aggregation(roi_heads, device):
    case = tensors("htd", "sfa")
    part = roi_heads.context.global_vector
    p6 = random_input("p6", (2, 256, 5, 7), 11).to(device).requires_grad_()
    labels = case["labels_flat"].split(case["labels_count"].tolist())
    targets = [Instances((160, 224), gt_classes=x.to(device)) for x in labels]
    vector, losses = part({"p6": p6}, GroundTruth(targets))
    loss = losses["loss_global"]
    gradients = torch.autograd.grad(loss, [p6, part.convs[0].weight, part.fc.weight, part.fc.bias])
    close(vector, case["global_feat"], 1e-5)
    close(part.fc(vector), case["mc_pred"], 1e-5)
    close(loss, case["loss_global"], 2e-5)
    close(gradients[0][:, :8], case["grad_p6"], 1e-8)
    names = ("gradnorm_p6", "gradnorm_convs0_weight", "gradnorm_fc_weight")
    for gradient, name in zip(gradients, names, strict=False):
        close(gradient.norm(), case[name], 0, rtol=1e-4)
    close(gradients[3], case["grad_fc_bias"], 1e-6)


def test_border_aware_features(roi_heads, device):
    case = on(device, tensors("htd", "ba"))
    branch = roi_heads.stages[1].head.regression
    context = context_of(on(device, feature_maps(12, 2, 160, 224)))

    def features(rows):
        return branch.pooler(context, rois_of(rows))

    with torch.no_grad():
        levels = features(case["rois"])
        close(branch.features(levels), case["out"], 2e-4)
        close(branch.features.terms[0].weights(levels), case["att"], 1e-5)
        one = case["rois"][case["one_index"]][None]
        close(branch.features(features(one)), case["one"], 2e-4)
        assert branch.features(features(case["rois"][:0])).shape == (0, 256, 7, 7)


def test_heterogeneous_head_on_given_features(roi_heads, device, monkeypatch):
    case = on(device, tensors("htd", "pgraph"))
    shared = roi_heads.stages[1].head
    # The parts are shared with other tests, so what is replaced are members of copies.
    head = DecoupledHead(classification=copy(shared.classification), regression=copy(shared.regression))
    for part in (head.classification, head.regression):
        part._modules = dict(part._modules)
    rois = rois_of(case["rois"])
    x = random_input("roi_feat", (26, 256, 7, 7), 13).to(device)
    enhanced = random_input("enhanced", (26, 256, 7, 7), 13).to(device)
    vector = random_input("global", (2, 256, 1, 1), 13).to(device).flatten(1)
    context = context_of(on(device, feature_maps(12, 2, 160, 224)), vector)
    head.classification.features = Given(x)
    head.regression.pooler = Given(x.expand(4, *x.shape))
    head.regression.features = Given(enhanced)
    monkeypatch.setattr("htd.modeling.htd.head.ROIS_AT_ONCE", len(rois))
    prototypes = roi_heads.stages[0].head.cls_score
    assert torch.equal(rois.levels, case["levels"])
    with torch.no_grad():
        embedding = head.classification.fcs(x)
        close(embedding, case["embed"], 3e-4)
        close(head.classification.graph(embedding, rois, prototypes), case["graph_out"], 3e-4)
        output = head.classify(context, rois, prototypes)
        close(output.features, case["cls_feat"], 3e-4)
        close(output.logits, case["cls_score"], 2e-3)
        seen = []
        hook = head.regression.bbox_pred.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
        deltas = head.regress(context, rois, output, torch.arange(len(rois), device=device))
        hook.remove()
        close(seen[0], case["reg_feat"], 1e-4)
        close(deltas, case["bbox_pred"], 1e-4)


@pytest.mark.parametrize(("size", "level"), [(111.999, 0), (112 - 2.8e-5, 1), (112, 1), (448, 3), (0, 0)])
def test_level_rule_has_its_offset_inside_the_logarithm(size, level):
    assert LevelRule()(torch.tensor([[0.0, 0.0, size, size]])).item() == level
