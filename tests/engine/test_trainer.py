"""The training step."""

import json

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from htd.engine.guard import NonFiniteLossError
from htd.engine.run import train
from htd.engine.trainer import Precision, Trainer
from tests.engine.tiny import NoObjectsOnRank

CPU = torch.device("cpu")


class OneWeight(nn.Module):
    """Loss w * x, whose gradient is x; a NaN where the input says so."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1, bias=False)
        self.dtype = None

    def forward(self, images):
        x = torch.stack([image["image"].flatten()[:2] for image in images]).sum(0)
        out = self.layer(x)
        self.dtype = out.dtype
        return {"loss_one": out.float().sum(), "loss_two": x.sum() * 0, "count": torch.tensor(7.0)}


def batch(*values):
    instances = Instances((1, 2))
    instances.gt_boxes = Boxes(torch.tensor([[0.0, 0, 2, 0.5]]))
    image = torch.tensor(values).reshape(1, 1, 2)
    return [{"image": image, "file_name": "d/a.jpg", "image_id": 3, "instances": instances}]


def run(model, batches, tmp_path, optimizer=None, **options):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=1.0)
    options.setdefault("precision", Precision(CPU))
    trainer = Trainer(model, batches, optimizer, output_dir=str(tmp_path), **options)
    trainer.train(0, len(batches))
    return trainer


def test_losses_are_summed_and_metrics_only_written(tmp_path):
    trainer = run(OneWeight(), [batch(1.0, 2.0)], tmp_path)
    latest = {name: value for name, (value, _) in trainer.storage.latest().items()}
    assert latest["total_loss"] == pytest.approx(latest["loss_one"])
    assert latest["count"] == 7


def test_gradients_are_clipped_to_their_total_norm(tmp_path):
    model = OneWeight()
    before = model.layer.weight.detach().clone()
    trainer = run(model, [batch(3.0, 4.0)], tmp_path, clip_norm=2.5)
    # The gradient (3, 4) of norm 5 is halved.
    torch.testing.assert_close(before - model.layer.weight, torch.tensor([[1.5, 2.0]]))
    assert trainer.storage.latest()["grad_norm"][0] == pytest.approx(5)
    model = OneWeight()
    before = model.layer.weight.detach().clone()
    run(model, [batch(3.0, 4.0)], tmp_path, clip_norm=6.0)
    torch.testing.assert_close(before - model.layer.weight, torch.tensor([[3.0, 4.0]]))


@pytest.mark.parametrize("name, dtype, steps", [("bf16", torch.bfloat16, 2), ("fp16", torch.float16, 1)])
def test_mixed_precision_on_the_cpu(tmp_path, name, dtype, steps):
    model = OneWeight()
    precision = Precision(CPU, enabled=True, dtype=name)
    before = model.layer.weight.detach().clone()
    # Both types hold these numbers exactly; the gradient (64, 48) is halved. Times the scaler's first factor,
    # 1024, it is beyond float16, so that it skips one step.
    run(model, [batch(64.0, 48.0)] * 2, tmp_path, precision=precision, clip_norm=40.0)
    assert model.dtype is dtype and precision.scaler.is_enabled() == (name == "fp16")
    torch.testing.assert_close(before - model.layer.weight, steps * torch.tensor([[32.0, 24.0]]))


def test_non_finite_loss_stops_before_the_step_and_names_everything(tmp_path):
    model = OneWeight()
    weights = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    optimizer.register_step_post_hook(lambda *_: weights.append(model.layer.weight.detach().clone()))
    with pytest.raises(NonFiniteLossError) as caught:
        run(model, [batch(1.0, 1.0), batch(1.0, float("nan"))], tmp_path, optimizer)
    text = str(caught.value)
    assert "loss_one, loss_two not finite at iteration 1" in text
    assert "a.jpg (id 3)" in text and "learning rate 0.5" in text and "first non-finite output: layer" in text
    assert "\n" not in text
    assert len(weights) == 1 and torch.equal(model.layer.weight, weights[0])
    record = json.loads((tmp_path / "nonfinite_0000001.json").read_text())
    (image,) = record["ranks"][0]["images"]
    assert (image["file_name"], image["image_id"], image["num_boxes"]) == ("d/a.jpg", 3, 1)
    assert (image["input_finite"], image["smallest_side"]) == (False, 0.5)
    assert record["learning_rates"] == [0.5]


def test_a_term_that_alone_is_infinite_is_the_one_named(tmp_path):
    class Logarithm(OneWeight):
        def forward(self, images):
            return {**super().forward(images), "loss_log": torch.zeros(()).log()}

    with pytest.raises(NonFiniteLossError, match="^loss_log not finite.*none of a module, the loss itself"):
        run(Logarithm(), [batch(1.0, 1.0)], tmp_path)


def test_a_model_that_refuses_non_finite_boxes_is_named_too(tmp_path):
    class Refusing(OneWeight):
        def forward(self, images):
            raise FloatingPointError("Predicted boxes or scores contain Inf/NaN")

    with pytest.raises(NonFiniteLossError, match="contain Inf/NaN at iteration 0, images d/a.jpg"):
        run(Refusing(), [batch(1.0, 1.0)], tmp_path)


def test_a_metric_may_be_undefined(tmp_path):
    class Undefined(OneWeight):
        def forward(self, images):
            return {**super().forward(images), "accuracy": torch.tensor(float("nan"))}

    run(Undefined(), [batch(1.0, 1.0)], tmp_path)


def test_a_failed_training_logs_one_line_and_does_not_evaluate(tiny, log):
    config = tiny("train.max_iter=3")
    from detectron2.config import LazyCall as L

    config.dataloader.train = L(NoObjectsOnRank)(empty=-1, broken=0, total_batch_size=2)
    with pytest.raises(NonFiniteLossError, match="iteration 2, images rank0.jpg"):
        train(config)
    assert "training stopped: loss_box_reg, loss_cls not finite" in log()
    assert "Traceback" not in log() and "Start inference" not in log()
