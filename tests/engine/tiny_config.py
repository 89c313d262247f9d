"""A leaf with the keys of the project's leaves for the tiny detector."""

from detectron2.config import LazyCall as L

from htd.data import build_train_loader
from tests.engine.tiny import Mapper, MeanScore, TestImages, TinyModel, records

from ...configs.common.optim import SGD as optimizer  # noqa: F401
from ...configs.common.schedules import step as lr_multiplier
from ...configs.common.train import train

model = L(TinyModel)(num_classes=2, width=4)
dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(records)(count=11),
        mapper=L(Mapper)(),
        total_batch_size=2,
        num_workers=0,
        aspect_ratio_grouping=True,
        seed="${train.seed}",
    ),
    test=L(TestImages)(),
    evaluator=L(MeanScore)(),
)
lr_multiplier.warmup_iters = 3
train.update(
    max_iter=9,
    reference_batch_size=2,
    eval_period=0,
    vis_period=0,
    log_period=4,
    device="cpu",
)
train.checkpointer.period = 4
