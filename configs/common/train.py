"""Settings of the training loop; keys that Detectron2's LazyConfig script reads keep its names."""

import torch

train = dict(
    output_dir="./output",
    # "": all weights start from their initial values. A file, or a URI such as those of ImageNet backbones.
    init_checkpoint="",
    max_iter=90000,
    # The batch for which optimizer.lr, train.max_iter, warm-up and periods are right; another
    # dataloader.train.total_batch_size scales them by the linear rule (--no-scale keeps them).
    reference_batch_size=16,
    amp=dict(enabled=False, dtype="bf16"),
    # Bound of the total norm of all gradients; null for none.
    clip_grad_norm=None,
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    checkpointer=dict(period=5000, max_to_keep=5),
    eval_period=5000,
    # The best checkpoint by this result of the evaluation is kept as model_best.pth; "" for none.
    best_metric="bbox/AP",
    log_period=20,
    # Every so many iterations, inputs and predictions go to TensorBoard as pictures; 0 for never.
    vis_period=1000,
    device="cuda" if torch.cuda.is_available() else "cpu",
    # Model, sampling and data follow it; -1 draws one and logs it.
    seed=0,
)
