"""No training of a dense detector goes to NaN: hostile data, ten times the rate, half precision."""

import copy
import math
from dataclasses import dataclass, field

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import HookBase
from detectron2.structures import Boxes, Instances
from torch.nn import functional as F

from configs.common.models.narrow import narrow_dense
from htd.engine.guard import NonFiniteLossError
from htd.engine.hooks import IterationHook
from htd.engine.solver import parameter_groups
from htd.engine.trainer import Precision, Trainer
from htd.layers import giou_loss, product_logits, quality_focal_loss
from htd.modeling.dense import ScaledExp
from htd.modeling.dense.criterion import clamp_normalizer
from tests.configs.reduced import narrow
from tests.modeling.htc.small import without_gradient

CLASSES = 6
SIZE = HEIGHT, WIDTH = 64, 96
# What the published trainings take for batches of 16.
RATE = 0.01
# At ten times the rate RetinaNet, whose towers have no norm, diverges, whatever the precision.
LEAVES = {
    **{f"baselines/{name}_r50_fpn_1x": 10 * RATE for name in ("fcos", "atss", "gfl")},
    **{f"tood/tood_r50_fpn_{name}1x": 10 * RATE for name in ("", "anchor_based_")},
    **{f"salt/salt_{name}r50_fpn_1x": 10 * RATE for name in ("", "gfl_", "atss_", "fcos_", "tood_")},
    **{f"{name}retinanet_r50_fpn_1x": RATE for name in ("baselines/", "salt/salt_")},
}
TOOD, GFL = "tood/tood_r50_fpn_1x", "baselines/gfl_r50_fpn_1x"


def tiny_boxes(generator):
    """Boxes of at most a pixel a side: between all priors, in a corner, on a prior's center."""
    corner = torch.rand(12, 2, generator=generator) * torch.tensor([WIDTH - 1.0, HEIGHT - 1.0])
    corner[:2] = torch.tensor([[0.0, 0.0], [WIDTH - 1.0, HEIGHT - 1.0]])
    corner[2:6] = (corner[2:6] / 8).floor() * 8 - 0.4
    return torch.cat([corner, corner + 0.2 + 0.8 * torch.rand(12, 1, generator=generator)], dim=1)


def huge_boxes(generator):
    """Boxes that end far outside of the image on some or all sides."""
    beyond = torch.rand(3, 4, generator=generator) * 2000
    return torch.cat([-beyond[:, :2], torch.tensor([WIDTH, HEIGHT]) + beyond[:, 2:]], dim=1)


def one_place(generator):
    """The same box many times."""
    corner = 10 + 30 * torch.rand(1, 2, generator=generator)
    return torch.cat([corner, corner + 12], dim=1).repeat(30, 1)


def no_boxes(generator):
    return torch.zeros(0, 4)


def ordinary_boxes(generator):
    corner = torch.rand(3, 2, generator=generator) * torch.tensor([WIDTH * 0.5, HEIGHT * 0.5])
    return torch.cat([corner, corner + 12 + 20 * torch.rand(3, 2, generator=generator)], dim=1)


def flat_boxes(generator):
    """Boxes without an area: points, and lines of either direction."""
    corner = torch.rand(6, 2, generator=generator) * torch.tensor([WIDTH * 0.5, HEIGHT * 0.5])
    side = torch.tensor([[0.0, 0], [0, 0], [20, 0], [0, 20], [40, 0], [0, 30]])
    return torch.cat([corner, corner + side], dim=1)


def boxes_outside(generator):
    """Boxes beside the image, and far from it."""
    corner = torch.tensor([[-60.0, -60], [WIDTH + 3, 5], [10, HEIGHT + 1], [5000, 7000]])
    return torch.cat([corner, corner + 30], dim=1)


def one_box(generator):
    return ordinary_boxes(generator)[:1]


def crowd(generator):
    """Two hundred boxes of all sizes."""
    corner = torch.rand(200, 2, generator=generator) * torch.tensor([WIDTH * 0.8, HEIGHT * 0.8])
    return torch.cat([corner, corner + 2 + 40 * torch.rand(200, 2, generator=generator)], dim=1)


KINDS = (
    *(tiny_boxes, huge_boxes, one_place, no_boxes, ordinary_boxes),
    *(flat_boxes, boxes_outside, one_box, crowd),
)


def image_of(make_boxes, generator):
    """A training input: noise, with objects as areas of a tint for each class."""
    boxes = make_boxes(generator)
    classes = torch.randint(0, CLASSES, (len(boxes),), generator=generator)
    image = torch.randint(0, 256, (3, *SIZE), generator=generator, dtype=torch.uint8)
    for (x1, y1, x2, y2), label in zip(boxes.round().long().tolist(), classes.tolist(), strict=True):
        tint = torch.tensor([label & 1, label >> 1 & 1, label >> 2 & 1], dtype=torch.uint8) * 127
        image[:, max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] //= 2
        image[:, max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] += tint[:, None, None]
    instances = Instances(SIZE, gt_boxes=Boxes(boxes), gt_classes=classes)
    return {"image": image, "instances": instances, "file_name": f"{make_boxes.__name__}.jpg"}


class HostileBatches:
    """Yields batches of two images for ever, every image once an epoch; any two kinds meet."""

    def __init__(self, kinds=KINDS, images=18):
        generator = torch.Generator().manual_seed(0)
        self.images = [image_of(kinds[i % len(kinds)], generator) for i in range(images)]

    def __iter__(self):
        generator = torch.Generator().manual_seed(1)
        while True:
            for pair in torch.randperm(len(self.images), generator=generator).view(-1, 2):
                yield [copy.copy(self.images[i]) for i in pair]


@dataclass
class Observer(HookBase):
    """Sets the rate of each step, with a warm-up, and writes down what the step did.

    Attributes:
        losses: the sum of the losses of each step, which the trainer refuses if they are not finite.
        taken: the steps that the optimizer took; the loss scaler skips those of infinite gradients.
        nonfinite: steps that it took by a gradient that is not finite.
    """

    optimizer: torch.optim.Optimizer
    rate: float
    warmup_iters: int
    losses: list[float] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    nonfinite: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.optimizer.register_step_pre_hook(self._check)

    def before_step(self):
        warm_up = min(1.0, 0.001 + 0.999 * self.trainer.iter / self.warmup_iters)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * warm_up

    def _check(self, optimizer, *_):
        self.taken.append(self.trainer.iter)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norms = torch._foreach_norm([p.grad for p in parameters if p.grad is not None])
        if not torch.stack(norms).isfinite().all():
            self.nonfinite.append(self.trainer.iter)

    def after_step(self):
        self.losses.append(self.trainer.storage.latest()["total_loss"][0])


def narrow_model(leaf, switch=None):
    """A seeded narrow model of a leaf; ``switch`` is where its phases change, if it has any."""
    config = LazyConfig.load(f"configs/{leaf}.py").model
    narrow_dense(config, [8, 16, 32])
    narrow(config)
    if switch is not None and "switch_iter" in config.criterion:
        config.criterion.switch_iter = switch
    torch.manual_seed(0)
    return instantiate(config)


def train(model, batches, output_dir, *, steps, dtype, rate, warmup_iters):
    """Train as the training script does, on a CPU, and return what was seen."""
    precision = Precision(torch.device("cpu"), enabled=True, dtype=dtype)
    optimizer = torch.optim.SGD(parameter_groups(model), lr=rate, momentum=0.9, weight_decay=1e-4)
    trainer = Trainer(model, batches, optimizer, precision=precision, output_dir=str(output_dir))
    observer = Observer(optimizer, rate, warmup_iters)
    trainer.register_hooks([IterationHook(model), observer])
    trainer.train(0, steps)
    assert len(observer.losses) == steps and all(map(math.isfinite, observer.losses))
    assert max(observer.losses) > 0.5 and not observer.nonfinite  # else nothing was trained
    return observer


def unharmed(leaf, steps, dtype, tmp_path, switch, batches=None):
    """Train on all kinds of images; half of the steps are the warm-up."""
    settings = {"steps": steps, "dtype": dtype, "rate": LEAVES[leaf], "warmup_iters": steps // 2}
    observer = train(narrow_model(leaf, switch), batches or HostileBatches(), tmp_path, **settings)
    if "retinanet" not in leaf:
        # At the start the loss scaler may look for its factor.
        assert [step for step in range(20 if steps > 100 else 0, steps) if step not in observer.taken] == []


@pytest.mark.parametrize("leaf", LEAVES)
def test_hostile_data(leaf, tmp_path):
    unharmed(leaf, 18, "fp16", tmp_path, switch=9)


def test_hostile_data_aligned_from_the_start(tmp_path):
    unharmed(TOOD, 18, "bf16", tmp_path, switch=0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("leaf", LEAVES)
def test_hundreds_of_hostile_steps(leaf, dtype, tmp_path):
    if leaf.startswith("tood"):
        # As published: a warm-up of 500 steps; then the phases change.
        unharmed(leaf, 1000, dtype, tmp_path, switch=500, batches=HostileBatches(KINDS[:5], images=20))
    else:
        unharmed(leaf, 200, dtype, tmp_path, switch=100)


def test_loss_falls_at_the_published_rate(tmp_path):
    """The losses change with the phase, so the first one is also compared with itself."""
    settings = {"steps": 60, "dtype": "fp16", "rate": RATE, "warmup_iters": 5}
    batches = HostileBatches([ordinary_boxes], images=4)
    losses = torch.tensor(train(narrow_model(TOOD, 40), batches, tmp_path, **settings).losses)
    assert losses[30:40].mean() < 0.9 * losses[:10].mean()
    assert losses[50:].mean() < losses[:10].mean()


@pytest.mark.parametrize("phase", [0, 1])
@pytest.mark.parametrize("leaf", LEAVES)
def test_every_parameter_has_a_finite_gradient(leaf, phase):
    if phase and "tood" not in leaf:
        pytest.skip("has one phase")
    model, generator = narrow_model(leaf, switch=1).train(), torch.Generator().manual_seed(0)
    if "tood" in leaf:
        model.criterion.set_iteration(phase)
        assert model.criterion.aligned_now == bool(phase)
    for kinds in (
        *((no_boxes, no_boxes), (ordinary_boxes,), (ordinary_boxes, no_boxes), (huge_boxes,)),
        *((boxes_outside, boxes_outside), (flat_boxes, tiny_boxes), (crowd, no_boxes)),
    ):
        model.zero_grad(set_to_none=True)
        losses = model([image_of(kind, generator) for kind in kinds])
        assert all(loss.isfinite() for loss in losses.values())
        sum(losses.values()).backward()
        assert not without_gradient(model.head) and not without_gradient(model.backbone.bottom_up)
        if set(kinds) == {no_boxes}:
            assert all((losses[name] > 0) == (name == "loss_cls") for name in losses)
        if ordinary_boxes in kinds and "salt" in leaf:
            operator = model.head.towers.operator
            assert losses["loss_box_reg_init"] > 0 and operator.distances.weight.grad.any()


def test_a_planted_nan_is_reported_with_its_image(tmp_path):
    """It comes to light in the loss of a batch of two, and no weight has changed."""
    image = torch.rand(3, *SIZE) * 255
    image[1, 7, 9] = math.nan
    instances = Instances(SIZE, gt_boxes=Boxes([[8.0, 8, 40, 40]]), gt_classes=torch.tensor([0]))
    broken = {"image": image, "instances": instances, "file_name": "images/planted.jpg", "image_id": 77}
    (whole,) = HostileBatches([ordinary_boxes], images=1).images
    for leaf in (TOOD, GFL):
        model = narrow_model(leaf, switch=0)
        before = [p.detach().clone() for p in model.parameters()]
        with pytest.raises(NonFiniteLossError, match=r"loss_cls.*iteration 0.*planted.jpg \(id 77\)"):
            train(model, [[whole, broken]], tmp_path, steps=1, dtype="bf16", rate=RATE, warmup_iters=5)
        assert all(map(torch.equal, before, model.parameters()))


# -- what goes wrong in the published form


@pytest.mark.parametrize("bias", [-40.0, -85.0, -1e4])
def test_scores_of_nothing(bias):
    """GFL divides by a sum of scores that has no lower limit."""
    model = narrow_model(GFL).train()
    torch.nn.init.constant_(model.head.predictors.cls_score.bias, bias)
    losses = model(next(iter(HostileBatches([ordinary_boxes], images=4))))
    (2.0**24 * sum(losses.values())).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_a_normalizer_without_a_limit_divides_equally():
    """The mean of two losses weighs them by tiny scores; where these are nothing it is 0."""
    losses, weights = torch.tensor([1.0, 3.0]), torch.tensor([1e-15, 3e-15])
    mean = (losses * weights).sum() / clamp_normalizer(weights.sum(), 0.0)
    assert mean.item() == pytest.approx(2.5)
    assert [clamp_normalizer(torch.tensor(x), 0.0).item() for x in (1e-39, 0.0)] == [1, 1]


def published_loss(x, m, quality):
    """Quality focal loss on probabilities, the root of a product differentiated as it stands."""
    p = (x.sigmoid() * m.sigmoid()).sqrt()
    return (F.binary_cross_entropy(p, quality, reduction="none") * (quality - p).abs() ** 2).sum()


def our_loss(x, m, quality):
    """The same on logits, for one class."""
    logits = product_logits(x, m, root=2.0)
    classes = torch.zeros_like(logits[..., 0], dtype=torch.int64)
    return quality_focal_loss(logits, classes, quality[..., 0]).sum()


@pytest.mark.parametrize(
    ("logit", "dtype", "safe"),
    [
        *((-4.0, torch.float32, True), (-60.0, torch.float32, False), (-200.0, torch.float32, False)),
        # Already logits that a training meets: the product of two sigmoids is 0 below 6e-8.
        (-10.0, torch.float16, False),
    ],
)
def test_logits_that_break_the_published_loss(logit, dtype, safe):
    gradients = []
    for loss, quality_dtype in ((published_loss, dtype), (our_loss, torch.float32)):
        x, m = (torch.full((2, 1), logit, dtype=dtype, requires_grad=True) for _ in range(2))
        loss(x, m, torch.full((2, 1), 0.7, dtype=quality_dtype)).backward()
        gradients.append(x.grad)
    published, ours = gradients
    assert published.isfinite().all() == safe
    assert ours.isfinite().all() and (ours < 0).all()  # still upwards, to the quality
    if safe:
        torch.testing.assert_close(ours, published, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("largest", "safe"), [(8.0, True), (math.inf, False)])
def test_exponents_that_break_the_published_decoding(largest, safe):
    x = torch.tensor([[100.0, 60.0, 3.0, 9.0]], requires_grad=True)
    rule = ScaledExp(largest=largest) if safe else (lambda x, scale: scale * x.exp())
    distance = rule(x, torch.tensor(1.0))
    box = torch.cat([5 - distance[:, :2], 5 + distance[:, 2:]], dim=1)
    loss = giou_loss(box, torch.tensor([[4.0, 4.0, 6.0, 6.0]]))
    loss.sum().backward()
    assert (loss.isfinite().all() and x.grad.isfinite().all()) == safe
