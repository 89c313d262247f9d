"""The fast second stage equals the plain formulation, for any boxes, levels and images."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from htd.benchmark import plain_second_stage as plain
from htd.layers import FeatureTable
from htd.modeling.cascade import (
    AllLevelsPooler,
    LevelRule,
    RoIContext,
    SingleLevelPooler,
)
from htd.modeling.htd import (
    AddFusion,
    BorderAwareFeatures,
    BorderAwareRegression,
    BorderTerm,
    ConvTower,
    DecoupledHead,
    GraphClassification,
    LevelWeightedTerm,
    ProposalGraph,
)
from tests.boxes import random_boxes

CHANNELS, CLASSES, HEIGHT, WIDTH = 6, 3, 256, 320


@pytest.fixture(scope="module")
def head():
    torch.manual_seed(0)
    head = DecoupledHead(
        classification=GraphClassification(
            features=SingleLevelPooler(),
            graph=ProposalGraph(dim=10),
            num_classes=CLASSES,
            channels=CHANNELS,
            fc_dims=(12, 10),
        ),
        regression=BorderAwareRegression(
            pooler=AllLevelsPooler(),
            features=BorderAwareFeatures(
                terms=[LevelWeightedTerm(channels=CHANNELS, hidden=5), BorderTerm()]
            ),
            fusion=AddFusion(),
            tower=ConvTower(channels=CHANNELS, hidden=8, out_channels=9, num_groups=4),
            num_classes=CLASSES,
        ),
    )
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.3)
    return head


def example(seed, counts):
    """Feature maps, boxes of each image (some of no area), image vectors and the first classifier."""
    generator = torch.Generator().manual_seed(seed)
    maps = [
        torch.randn(len(counts), CHANNELS, HEIGHT // s, WIDTH // s, generator=generator)
        for s in plain.STRIDES
    ]
    boxes = [random_boxes(generator, n, HEIGHT, WIDTH) for n in counts]
    for b in boxes:
        b[3::7, 2] = b[3::7, 0]
    vector = torch.randn(len(counts), CHANNELS, generator=generator)
    classifier = nn.Linear(10, CLASSES + 1)
    nn.init.normal_(classifier.weight, generator=generator)
    return maps, boxes, vector, classifier


def run_both(head, maps, boxes, vector, classifier, rows):
    context = RoIContext(FeatureTable(maps, plain.STRIDES), [], LevelRule(), image_vector=vector)
    rois = context.rois(boxes)
    output = head.classify(context, rois, classifier)
    ours = output.logits, head.regress(context, rois, output, rows)
    flat = torch.cat([rois.image_index[:, None].to(rois.boxes), rois.boxes], 1)
    theirs = (
        plain.classify(head.classification, maps, flat, vector, classifier),
        plain.regress(head.regression, maps, flat[rows], vector),
    )
    return ours, theirs


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), counts=st.lists(st.integers(0, 24), min_size=1, max_size=3))
def test_outputs_are_equal(head, seed, counts):
    example_ = example(seed, counts)
    rows = torch.arange(sum(counts))[seed % 3 :: 2]
    with torch.no_grad():
        for ours, theirs in zip(*run_both(head, *example_, rows), strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=2e-4)


def test_gradients_are_equal(head):
    maps, boxes, vector, classifier = example(3, [20, 9])
    sources = [
        *(m.requires_grad_() for m in maps),
        vector.requires_grad_(),
        *head.parameters(),
        *classifier.parameters(),
    ]
    ours, theirs = run_both(head, maps, boxes, vector, classifier, torch.arange(2, 29, 3))
    totals = [logits.square().mean() + deltas.square().mean() for logits, deltas in (ours, theirs)]
    for a, b in zip(
        *(torch.autograd.grad(t, sources, allow_unused=True, materialize_grads=True) for t in totals),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=2e-3)
