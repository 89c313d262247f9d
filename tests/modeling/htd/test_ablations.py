"""HTD's parts taken out or exchanged, one by one."""

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate

from htd.layers import FeatureTable
from htd.modeling.cascade import (
    ContextParts,
    ImageVectorPooler,
    LevelRule,
    RoIContext,
    RoIs,
    SharedFCHead,
    SingleLevelPooler,
)
from htd.modeling.htd import (
    AddFusion,
    AverageBorderFusion,
    BorderAwareFeatures,
    BorderTerm,
    FCRegression,
    LevelWeightedTerm,
    NoGraph,
    ReplaceBorderFusion,
)
from tests.configs.reduced import example, reduced_model
from tests.modeling.htc.small import given_proposals

LEAF = "configs/htd/htd_r50_fpn_1x.py"
SEPARATE = L(FCRegression)(
    features=L(ImageVectorPooler)(pooler=L(SingleLevelPooler)()),
    num_classes="${...num_classes}",
    channels=16,
    fc_dims=[24, 24],
)


def without_semantic_aggregation(heads):
    heads.context = L(ContextParts)()


def without_graph(heads):
    heads.stages[1].head.classification.graph = L(NoGraph)()


def only_terms(*terms):
    def change(heads):
        heads.stages[1].head.regression.features.terms = list(terms)

    return change


def fused_by(fusion):
    def change(heads):
        heads.stages[1].head.regression.fusion = fusion

    return change


def only_classification_decoupled(heads):
    heads.stages[1].head.regression = SEPARATE


def nothing_decoupled(heads):
    first = heads.stages[0].head
    heads.stages[1].head = L(SharedFCHead)(**{k: first[k] for k in first if k != "_target_"})


CHANGES = {
    "no_sfa": without_semantic_aggregation,
    "no_graph": without_graph,
    "no_border": only_terms(L(LevelWeightedTerm)(channels=16, hidden=8)),
    "no_adaptive_levels": only_terms(L(BorderTerm)(edge=2)),
    "no_border_aware_terms": only_terms(),
    "replace": fused_by(L(ReplaceBorderFusion)(edge=2, alpha=0.5)),
    "average": fused_by(L(AverageBorderFusion)(edge=1)),
    "only_classification_decoupled": only_classification_decoupled,
    "nothing_decoupled": nothing_decoupled,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_model_trains_and_detects(change):
    config = reduced_model(LEAF)
    change(config.roi_heads)
    torch.manual_seed(0)
    model = instantiate(config)
    losses = model([example(3), example(0, seed=1), example(1, seed=2)])
    assert ("loss_global" in losses) == (change is not without_semantic_aggregation)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    model.roi_heads.postprocessing.score_threshold = 0.0
    with torch.no_grad():
        assert len(model.eval()([example(1)])[0]["instances"])


def test_no_graph_and_no_vector_are_zero():
    rois = RoIs(torch.rand(3, 4), torch.zeros(3, dtype=torch.long), torch.zeros(3, dtype=torch.long))
    assert torch.equal(NoGraph()(torch.ones(3, 5), rois, None), torch.zeros(3, 5))


def test_terms_add_up():
    levels = torch.randn(4, 2, 16, 7, 7)
    weighted, border = LevelWeightedTerm(channels=16, hidden=8), BorderTerm(edge=1)
    both = BorderAwareFeatures(terms=[weighted, border])(levels)
    torch.testing.assert_close(both, weighted(levels) + border(levels))
    assert torch.equal(BorderAwareFeatures(terms=[])(levels), torch.zeros_like(levels[0]))


def test_fusions_leave_their_inputs_alone():
    single, enhanced = torch.ones(1, 1, 7, 7), torch.full((1, 1, 7, 7), 4.0)
    assert AddFusion(alpha=0.5)(single, enhanced).unique().tolist() == [3]
    replaced = ReplaceBorderFusion(edge=1, alpha=0.5)(single, enhanced)
    assert replaced[0, 0, 0].unique().tolist() == [2]
    assert replaced[0, 0, 1, 1:-1].unique().tolist() == [3]
    averaged = AverageBorderFusion(edge=1)(single, enhanced)
    assert averaged[0, 0, 0].unique().tolist() == [2.5]
    assert averaged[0, 0, 3, 3] == 3
    assert single.unique().tolist() == [1]


@pytest.fixture(scope="module")
def classification():
    torch.manual_seed(0)
    head = reduced_model(LEAF).roi_heads.stages[1].head
    return instantiate(head.classification), torch.nn.Linear(24, 5)


def classify(branch, classifier, vector):
    generator = torch.Generator().manual_seed(1)
    boxes = torch.tensor([[0.0, 0, 30, 30], [10, 10, 40, 40], [50, 50, 90, 60]])
    rois = RoIs(boxes, torch.zeros(3, dtype=torch.long), torch.zeros(3, dtype=torch.long))
    table = FeatureTable([torch.randn(1, 16, 24, 24, generator=generator)], [4])
    context = RoIContext(table, [(96, 96)], LevelRule(), image_vector=vector)
    with torch.no_grad():
        x = branch.features(context, rois)
        return (
            branch.fcs(x),
            branch.fcs(x + vector[:, :, None, None]),
            branch(context, rois, classifier),
        )


def test_without_graph_only_the_fully_connected_layers_are_left(classification):
    branch, classifier = classification
    vector = torch.ones(1, 16)
    with_graph = classify(branch, classifier, vector)[2].logits
    graph, branch.graph = branch.graph, NoGraph()
    try:
        _, base, found = classify(branch, classifier, vector)
    finally:
        branch.graph = graph
    torch.testing.assert_close(found.features, base)
    assert (found.logits - with_graph).abs().max() > 1e-3


def test_without_vector_both_passes_are_one(classification):
    branch, classifier = classification
    embedding, base, _ = classify(branch, classifier, torch.zeros(1, 16))
    torch.testing.assert_close(base, embedding)
    shifted = classify(branch, classifier, torch.ones(1, 16))
    torch.testing.assert_close(shifted[0], embedding)
    assert (shifted[1] - embedding).abs().max() > 1e-3


@pytest.mark.parametrize("fusion", [ReplaceBorderFusion(edge=2), AverageBorderFusion(edge=2)])
def test_fusion_without_vector_leaves_classification_alone(fusion):
    config = reduced_model(LEAF)
    without_semantic_aggregation(config.roi_heads)
    torch.manual_seed(0)
    heads = instantiate(config).roi_heads.eval()
    images, maps, proposals, _ = given_proposals((6,))
    heads.postprocessing.score_threshold = 0.0
    with torch.no_grad():
        context, _ = heads.make_context(images.image_sizes, maps)
        before = heads.predict(context, proposals)[0]
        heads.stages[1].head.regression.fusion = fusion
        after = heads.predict(context, proposals)[0]
    assert torch.equal(before.scores, after.scores)
    assert not torch.equal(before.boxes, after.boxes)


def test_class_specific_regression():
    config = reduced_model(LEAF)
    config.roi_heads.stages[1].head.regression.class_agnostic = False
    torch.manual_seed(0)
    model = instantiate(config)
    assert model.roi_heads.stages[1].head.regression.bbox_pred.out_features == 16
    sum(model([example(3)]).values()).backward()
    with torch.no_grad():
        model.eval()([example(1)])
