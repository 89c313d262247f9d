"""Losses of classes and boxes, and products of probabilities: published values, hand numbers, extremes."""

import math

import pytest
import torch
from fvcore.nn import sigmoid_focal_loss
from torch.autograd import gradcheck
from torch.nn import functional as F

from htd.layers import distribution_focal_loss, expected_value, focal_loss, product_logits, quality_focal_loss
from htd.layers.losses import SoftmaxCrossEntropy, TruncatedCrossEntropy
from tests.recorded import close, random_input, tensors

LN2 = math.log(2.0)
SHAPE, TRUNCATED_SEED, SCALE = (24, 9), 111, 2.5


def background_last(columns):
    """Return what has a column a class with the first, the background, moved to the end."""
    return torch.cat((columns[:, 1:], columns[:, :1]), dim=1)


def truncated_case():
    """Return the truncated_case arrays, and logits and classes of their RoIs with background last."""
    case = tensors("tsd", "trunc_ce")
    logits = background_last(random_input("tce.logits", SHAPE, TRUNCATED_SEED) * SCALE)
    return case, logits, (case["targets"] - 1) % SHAPE[1]


@pytest.mark.parametrize(
    "name, settings", [("default", {}), ("thr03", {"threshold": 0.3, "decay": 0.2})], ids=["default", "0.3"]
)
def test_truncated_cross_entropy_equals_published(device, name, settings):
    case, logits, classes = truncated_case()
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
    _, logits, classes = truncated_case()
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


SEED = 74


def draw(*shape, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()


def one_hot(classes, num_classes):
    return (classes[..., None] == torch.arange(num_classes)).double()


@pytest.fixture(scope="module")
def reference():
    return tensors("salt", "gfl_units")


def agrees(found, wanted):
    """Within the tolerance of forward maps, losses and loss gradients."""
    close(found, wanted, atol=max(1e-5 * wanted.abs().max().item(), 1e-6), rtol=1e-4)


def test_distribution_focal_loss_equals_published(reference):
    logits = (2 * random_input("dfl_logits", (24, 17), SEED)).requires_grad_()
    each = 0.25 * distribution_focal_loss(logits, reference["dfl_target"])
    total = (each * reference["dfl_weight"]).sum() / 4
    total.backward()
    agrees(each, reference["dfl_per"])
    agrees(total, reference["dfl_total"])
    agrees(logits.grad, reference["dfl_grad"])


def test_expected_value_equals_published(reference):
    logits = (2 * random_input("integral_logits", (24, 68), SEED)).requires_grad_()
    value = expected_value(logits.view(24, 4, 17))
    (value * random_input("integral_grad", (24, 4), SEED)).sum().backward()
    agrees(value, reference["integral_out"])
    agrees(logits.grad, reference["integral_grad"])


def test_quality_focal_loss_equals_published(reference):
    logits = (2 * random_input("qfl_sigmoid", (24, 6), SEED)).requires_grad_()
    each = quality_focal_loss(logits, reference["qfl_label"], reference["qfl_score"])
    total = (each * reference["qfl_weight"]).sum() / 7
    total.backward()
    agrees(each, reference["qfl_sigmoid_per"])
    agrees(total, reference["qfl_sigmoid_total"])
    agrees(logits.grad, reference["qfl_sigmoid_grad"])


def test_quality_focal_loss_equals_the_published_one_on_probabilities(reference):
    """Of seven classes; its gradient is that of the probabilities, dL/dx = dL/dp p (1 - p)."""
    logits = (2 * random_input("qfl_prob", (24, 7), SEED)).requires_grad_()
    label = reference["qfl_label"]
    background = torch.where(label == 6, -1, label)
    each = quality_focal_loss(logits, background, reference["qfl_score"])
    total = (each * reference["qfl_weight"]).sum() / 7
    total.backward()
    probability = logits.detach().sigmoid()
    agrees(each, reference["qfl_prob_per"])
    agrees(total, reference["qfl_prob_total"])
    agrees(logits.grad, reference["qfl_prob_grad"] * probability * (1 - probability))


def plain_focal_loss(logits, classes, alpha=0.25, gamma=2.0):
    """Return the loss as it is defined on probabilities, each logarithm clamped at -100."""
    p, y = logits.sigmoid(), one_hot(classes, logits.shape[-1])
    p_t = y * p + (1 - y) * (1 - p)
    weight = y * alpha + (1 - y) * (1 - alpha)
    return (-weight * (1 - p_t) ** gamma * p_t.log().clamp(min=-100)).sum(-1)


def plain_quality_focal_loss(logits, classes, quality, beta=2.0):
    """Return the loss as it is defined on probabilities, each logarithm clamped at -100."""
    p, y = logits.sigmoid(), one_hot(classes, logits.shape[-1]) * quality[..., None]
    return (F.binary_cross_entropy(p, y, reduction="none") * (y - p).abs() ** beta).sum(-1)


CLASSES = torch.tensor([[0, 4, 5], [-1, 2, -2]])  # of five; the third, the fourth and the last are background
QUALITY = torch.tensor([[0.9, 0.0, 0.7], [0.3, 1.0, float("nan")]], dtype=torch.float64)


def both_losses(logits, classes, quality):
    return focal_loss(logits, classes), quality_focal_loss(logits, classes, quality)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_equal_to_the_formulas_on_probabilities(gamma, scale):
    logits, quality = draw(2, 3, 5, scale=scale), torch.nan_to_num(QUALITY)
    pairs = [
        (focal_loss(logits, CLASSES, 0.3, gamma), plain_focal_loss(logits, CLASSES, 0.3, gamma)),
        (
            quality_focal_loss(logits, CLASSES, quality, gamma),
            plain_quality_focal_loss(logits, CLASSES, quality, gamma),
        ),
    ]
    weight = torch.arange(1.0, 7).view(2, 3)
    for found, wanted in pairs:
        close(found, wanted, atol=1e-9)
        slopes = (torch.autograd.grad((t * weight).sum(), logits)[0] for t in (found, wanted))
        close(*slopes, atol=1e-7)


def test_focal_loss_equals_fvcore():
    logits = draw(2, 3, 5, scale=3).detach().float()
    target = one_hot(CLASSES, 5).float()
    close(focal_loss(logits, CLASSES), sigmoid_focal_loss(logits, target, 0.25, 2).sum(-1), atol=1e-5)


def test_focal_losses_by_hand():
    """Two classes of probability 1/2, where BCE is log 2 and the factor 1/4."""
    logits, log2 = torch.zeros(2, 2), torch.tensor(2.0).log()
    classes, quality = torch.tensor([1, 2]), torch.tensor([1.0, 0.0])
    close(focal_loss(logits, classes), log2 / 4 * torch.tensor([0.25 + 0.75, 0.75 + 0.75]), atol=1e-6)
    close(quality_focal_loss(logits, classes, quality), log2 / 4 * torch.tensor([2.0, 2.0]), atol=1e-6)
    # A score that is the quality costs nothing: only the other class counts.
    close(quality_focal_loss(logits, classes, quality / 2), log2 / 4 * torch.tensor([1.0, 2.0]), atol=1e-6)


def test_gradients_by_differences():
    logits, bins = draw(2, 3, 5, scale=2), draw(3, 4, 6, scale=2)
    distance = torch.tensor([0.0, 1.0, 2.3, 4.95], dtype=torch.float64)
    assert gradcheck(lambda x: both_losses(x, CLASSES, QUALITY), (logits,))
    assert gradcheck(lambda x: distribution_focal_loss(x, distance.expand(3, 4)), (bins,))
    assert gradcheck(expected_value, (bins,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [-1e4, -100.0, 0.0, 100.0, 1e4])
def test_extreme_logits_have_bounded_gradients(value, dtype):
    """A sure mistake costs its logit, so the slope there is 1; it is little more in between."""
    logits = torch.full((2, 3, 5), value).to(dtype).requires_grad_()
    for loss in both_losses(logits, CLASSES, QUALITY):
        assert loss.dtype == torch.float32
        assert loss.isfinite().all()
        (grad,) = torch.autograd.grad(loss.sum(), logits)
        assert grad.dtype == dtype
        assert (grad.abs() <= 1.3).all()


def test_sure_mistakes_by_hand():
    logits = torch.tensor([[1e4, -1e4], [-1e4, -1e4], [-1e4, -1e4]])
    classes, quality = torch.tensor([2, 0, 1]), torch.tensor([0.0, 1.0, 0.5])
    close(focal_loss(logits, classes), torch.tensor([7500.0, 2500.0, 2500.0]), atol=1e-2)
    close(quality_focal_loss(logits, classes, quality), torch.tensor([1e4, 1e4, 1250.0]), atol=1e-2)


def test_rare_small_losses_keep_their_digits():
    """p = 1e-5 at background: p^2 log(1 / (1 - p)) = p^3, though 1 - p has four digits of p left."""
    logits, background = torch.tensor([[1e-5]]).logit(), torch.tensor([1])
    close(focal_loss(logits, background) / 1e-15, torch.tensor([0.75]), atol=1e-4)
    # An object's own large logit is left out of the sum, not subtracted from it.
    logits = torch.tensor([[1e4, 0.0]])
    close(
        quality_focal_loss(logits, torch.tensor([0]), torch.tensor([1.0])),
        torch.tensor([0.173287]),
        atol=1e-6,
    )


def test_backward_keeps_only_the_logits():
    """No dense tensor beside the logits waits for the backward pass: at most rows of a single class."""
    kept = []
    logits = torch.randn(50, 80).half().requires_grad_()
    classes, quality = torch.randint(0, 81, (50,)), torch.rand(50)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        both_losses(logits, classes, quality)
    dense = {t.data_ptr() for t in kept if t.numel() >= logits.numel()}
    assert dense == {logits.data_ptr()}


def test_autocast_is_left():
    logits, distance = draw(2, 3, 5).detach().float(), torch.tensor([0.5, 1.3, 3.2]).expand(2, 3)
    plain = [*both_losses(logits, CLASSES, QUALITY), distribution_focal_loss(logits, distance)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = [*both_losses(logits, CLASSES, QUALITY), distribution_focal_loss(logits, distance)]
    for found, wanted in zip(inside, plain, strict=True):
        assert torch.equal(found, wanted)


def test_distribution_focal_loss_by_hand():
    """Four equal bins: the cross-entropy is log 4 wherever the distance lies, also beyond the last bin."""
    distance = torch.tensor([-1.0, 0.0, 1.25, 3.0, 1e9])
    close(distribution_focal_loss(torch.zeros(5, 4), distance), torch.tensor(4.0).log().expand(5), atol=1e-6)
    # Probabilities 0.1, 0.2, 0.3, 0.4. At 1.25: three quarters of bin 1. From 2.9 on: one tenth of bin 2.
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().expand(3, 4)
    found = distribution_focal_loss(logits, torch.tensor([0.0, 1.25, 7.0]))
    low, high = -torch.tensor([0.1, 0.2, 0.3]).log(), -torch.tensor([0.2, 0.3, 0.4]).log()
    share = torch.tensor([0.0, 0.25, 0.9])
    close(found, low * (1 - share) + high * share, atol=1e-6)


def test_a_distance_that_is_nan_reads_no_bin_out_of_range():
    found = distribution_focal_loss(torch.zeros(3, 4), torch.tensor([float("nan"), float("inf"), 1.0]))
    assert found.isnan().tolist() == [True, False, False]


def test_expected_value_by_hand():
    logits = torch.tensor([[1e4, 0.0, 0.0], [0.0, 0.0, 0.0], [-1e4, -1e4, 1e4]])
    close(expected_value(logits), torch.tensor([0.0, 1.0, 2.0]), atol=1e-6)
    assert expected_value(logits.half()).dtype == torch.float32


def test_no_priors():
    logits, bins = torch.zeros(2, 0, 5, requires_grad=True), torch.zeros(0, 4, 17, requires_grad=True)
    losses = both_losses(logits, torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0))
    total = sum(x.sum() for x in losses) + distribution_focal_loss(bins, torch.zeros(0, 4)).sum()
    (total + expected_value(bins).sum()).backward()
    assert logits.grad.shape == logits.shape
    assert bins.grad.shape == bins.shape


EXTREMES = [-1e4, -200.0, -88.0, -20.0, -1.0, 0.0, 1.0, 20.0, 80.0, 88.0, 200.0, 1e4]


def grid(values):
    """Return every pair of ``values`` as two float32 tensors that want gradients."""
    x = torch.tensor(values)
    return [t.flatten().requires_grad_() for t in torch.meshgrid(x, x, indexing="ij")]


def test_score_equals_published_score():
    case, seed = tensors("tood", "deform_sampling"), 21
    x, m = (4 * random_input(f"gm_{n}", (2, c, 4, 6), seed) for n, c in (("cls", 5), ("prob", 1)))
    for channel, value in enumerate((-100, -60, 60)):
        x[0, channel, 0, channel] = m[0, 0, 0, channel] = value
    x, m = x.requires_grad_(), m.requires_grad_()
    score = product_logits(x, m, root=2).sigmoid()
    score.backward(random_input("gm_grad", score.shape, seed))
    close(score, case["score"], atol=1e-5)
    close(x.grad, case["grad_cls"], atol=1e-5)
    close(m.grad, case["grad_prob"], atol=1e-5)


@pytest.mark.parametrize("root", [1.0, 2.0, 3.0])
def test_products_equal_the_formula_on_probabilities(root):
    a, b = (t.detach().double() for t in grid([-30.0, -7.0, -0.5, 0.0, 2.0, 8.0, 12.0]))
    p = (a.sigmoid() * b.sigmoid()) ** (1 / root)
    close(product_logits(a, b, root=root), p.logit(), atol=1e-8)


def test_products_by_hand():
    """Of two thirds and three quarters: 1/2, whose logit is 0; of 1/4 and 1/4 with root 2: 1/4."""
    two_thirds, three_quarters, quarter = (torch.tensor(p).logit() for p in (2 / 3, 3 / 4, 1 / 4))
    close(product_logits(two_thirds, three_quarters), torch.tensor(0.0), atol=1e-6)
    close(product_logits(quarter, quarter, root=2), quarter, atol=1e-6)


@pytest.mark.parametrize("root", [1.0, 2.0])
def test_gradients_of_products(root):
    generator = torch.Generator().manual_seed(0)
    x = (6 * torch.randn(2, 3, 4, dtype=torch.float64, generator=generator)).requires_grad_()
    m = (6 * torch.randn(2, 1, 4, dtype=torch.float64, generator=generator)).requires_grad_()
    assert gradcheck(lambda *logits: product_logits(*logits, root=root), (x, m))


@pytest.mark.parametrize("root", [1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_finite_logit_gives_finite_logits_and_gradients_in_0_to_1(root, dtype):
    a, b = (t.detach().to(dtype).requires_grad_() for t in grid(EXTREMES))
    z = product_logits(a, b, root=root)
    z.sum().backward()
    assert z.dtype == torch.float32
    assert z.isfinite().all()
    assert (z <= torch.minimum(a, b).clamp(max=80) / root + 81 * (1 - 1 / root)).all()
    for grad in (a.grad, b.grad):
        assert grad.dtype == dtype
        assert ((grad >= 0) & (grad <= 1 + 1e-6)).all()


def test_products_of_extreme_logits_by_hand():
    """The geometric mean of a tiny and a sure probability has half the logarithm of the tiny one."""
    a = torch.tensor([-1e4, -1e4, 20.0, 1e4, 1e4]).requires_grad_()
    b = torch.tensor([-1e4, 1e4, 1e4, -30.0, 1e4]).requires_grad_()
    z = product_logits(a, b, root=2)
    z.sum().backward()
    # 1 - sqrt(p) is half of 1 - p near 1, which adds log 2 to the logit.
    close(z, torch.tensor([-1e4, -5e3, 20 + 0.6931472, -15.0, 80.0]), atol=1e-4)
    close(a.grad, torch.tensor([0.5, 0.5, 1.0, 0.0, 0.5]), atol=1e-4)
    close(b.grad, torch.tensor([0.5, 0.0, 0.0, 0.5, 0.5]), atol=1e-4)


def test_large_upstream_gradients_stay_finite():
    """What a gradient scaler sends down: the slope is formed before the gradient is multiplied in."""
    a, b = grid(EXTREMES)
    (product_logits(a, b, root=2) * 2.0**24).sum().backward()
    assert a.grad.isfinite().all()
    assert a.grad.max() <= 2.0**24 * (1 + 1e-6)


def test_products_under_autocast_and_of_nothing():
    a, b = torch.randn(3, 5), torch.randn(3, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(product_logits(a, b, root=2), product_logits(a, b, root=2).float())
    empty = torch.zeros(0, 4, requires_grad=True)
    product_logits(empty, torch.zeros(0, 1), root=2).sum().backward()
    assert empty.grad.shape == (0, 4)
