"""Products and roots of probabilities by logits: against the plain formulas, and where those break down."""

import pytest
import torch
from torch.autograd import gradcheck

from htd.layers import product_logits
from tests.recorded import close, random_input, tensors

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
def test_equals_the_formula_on_probabilities(root):
    a, b = (t.detach().double() for t in grid([-30.0, -7.0, -0.5, 0.0, 2.0, 8.0, 12.0]))
    p = (a.sigmoid() * b.sigmoid()) ** (1 / root)
    close(product_logits(a, b, root=root), p.logit(), atol=1e-8)


def test_known_values():
    """Of two thirds and three quarters: 1/2, whose logit is 0; of 1/4 and 1/4 with root 2: 1/4."""
    two_thirds, three_quarters, quarter = (torch.tensor(p).logit() for p in (2 / 3, 3 / 4, 1 / 4))
    close(product_logits(two_thirds, three_quarters), torch.tensor(0.0), atol=1e-6)
    close(product_logits(quarter, quarter, root=2), quarter, atol=1e-6)


@pytest.mark.parametrize("root", [1.0, 2.0])
def test_gradients_by_differences(root):
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


def test_extreme_logits_by_hand():
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


def test_autocast_and_empty_inputs():
    a, b = torch.randn(3, 5), torch.randn(3, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(product_logits(a, b, root=2), product_logits(a, b, root=2).float())
    empty = torch.zeros(0, 4, requires_grad=True)
    product_logits(empty, torch.zeros(0, 1), root=2).sum().backward()
    assert empty.grad.shape == (0, 4)
