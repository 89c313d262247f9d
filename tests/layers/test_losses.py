"""Cross-entropy of RoIs, plain and truncated, against reference arrays and numbers worked out by hand."""

import math

import pytest
import torch

from htd.layers.losses import SoftmaxCrossEntropy, TruncatedCrossEntropy
from tests.recorded import close, random_input, tensors

LN2 = math.log(2.0)
SHAPE, SEED, SCALE = (24, 9), 111, 2.5


def background_last(columns):
    """Return what has a column a class with the first, the background, moved to the end."""
    return torch.cat((columns[:, 1:], columns[:, :1]), dim=1)


def reference():
    """Return the reference arrays, and logits and classes of their RoIs with background last."""
    case = tensors("tsd", "trunc_ce")
    logits = background_last(random_input("tce.logits", SHAPE, SEED) * SCALE)
    return case, logits, (case["targets"] - 1) % SHAPE[1]


@pytest.mark.parametrize(
    "name, settings", [("default", {}), ("thr03", {"threshold": 0.3, "decay": 0.2})], ids=["default", "0.3"]
)
def test_reference_arrays(device, name, settings):
    case, logits, classes = reference()
    logits = logits.to(device).requires_grad_()
    loss = TruncatedCrossEntropy(**settings)(logits, classes.to(device)) / len(classes)
    loss.backward()
    close(loss, case[f"loss_{name}"], atol=1e-5)
    close(logits.grad, background_last(case[f"grad_{name}"]), atol=1e-5)


def test_only_a_doubted_background_loses_weight():
    """Two classes and background, probabilities 1/4 each or one of 3/4 (threshold 1/2).

    The background RoI with 3/4 on a class has loss ln 8 (its own probability is 1/8) times 0.1; the
    background RoI in balance ln 4 - ln 2 = ln 2 (probability 1/2); the wrong object ln 8, in full.
    """
    doubted, balanced = torch.tensor([6.0, 1.0, 1.0]).log(), torch.tensor([1.0, 1.0, 2.0]).log()
    logits = torch.stack((doubted, balanced, doubted))
    found = TruncatedCrossEntropy()(logits, torch.tensor([2, 2, 1]))
    close(found, torch.tensor(0.1 * 3 * LN2 + LN2 + 3 * LN2), atol=1e-6)


def test_plain_is_the_sum_and_the_truncated_without_doubt():
    _, logits, classes = reference()
    chosen = -logits.log_softmax(dim=1)[torch.arange(len(classes)), classes]
    found = SoftmaxCrossEntropy()(logits, classes)
    close(found, chosen.sum(), atol=1e-4)
    close(TruncatedCrossEntropy(threshold=1.0)(logits, classes), found, atol=1e-4)


def test_exactly_at_the_threshold_is_no_doubt():
    logits = torch.zeros(1, 2)
    close(TruncatedCrossEntropy()(logits, torch.tensor([1])), torch.tensor(LN2), atol=1e-6)


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(), TruncatedCrossEntropy()], ids=["plain", "truncated"])
def test_no_rois_and_half_precision(device, loss):
    logits = torch.zeros(0, 4, device=device, requires_grad=True)
    found = loss(logits, torch.zeros(0, dtype=torch.int64, device=device))
    found.backward()
    assert found.item() == 0 and logits.grad.shape == (0, 4)
    with torch.autocast(device_type=device.type, dtype=torch.bfloat16):
        half = loss(torch.zeros(3, 4, device=device).bfloat16(), torch.tensor([0, 1, 3], device=device))
    assert half.dtype == torch.float32
    close(half, torch.tensor(3 * math.log(4.0)), atol=1e-6)
