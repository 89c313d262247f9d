"""Makes a narrow model and its data fit for a handful of photographs, to check that it can learn them."""


def fit_photographs(model, dataloader):
    """Change both, in place: images of up to 320 pixels, not augmented, 4 a step, objects of any size.

    Narrow the model first (``narrow.py``): ``narrow_cascade`` for a two-stage one, which here gets anchors up
    to p6 and RoI features up to p5, or ``narrow_dense(model, [4, 8, 16, 32, 64, 128])``. The schedule is that
    of ``configs/demo/htd_photographs.py``.
    """
    for part in (dataloader.train, dataloader.test):
        part.mapper.augmentations = part.mapper.augmentations[:1]
        part.mapper.augmentations[0].update(short_edge_length=224, max_size=320)
        part.num_workers = 0
    dataloader.train.total_batch_size = 4
    if "roi_heads" in model:
        rpn, heads = model.proposal_generator, model.roi_heads
        rpn.in_features = ["p3", "p4", "p5", "p6"]
        rpn.anchor_generator.update(sizes=[[32], [64], [128], [256]], strides=[8, 16, 32, 64])
        heads.update(in_features=["p2", "p3", "p4", "p5"], strides=[4, 8, 16, 32])
        heads.level_rule.update(num_levels=4, finest_size=32.0)
