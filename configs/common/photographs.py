"""Makes leaves of narrow models fit for a handful of photographs."""


def small_pictures(dataloader):
    """Resize, in place, to at most 320 pixels and change nothing else, 4 images a step."""
    for part in (dataloader.train, dataloader.test):
        part.mapper.augmentations = part.mapper.augmentations[:1]
        part.mapper.augmentations[0].update(short_edge_length=224, max_size=320)
        part.num_workers = 0
    dataloader.train.total_batch_size = 4


def all_levels(model):
    """Let a narrow model, in place, find objects of all sizes: anchors up to p6, RoI features up to p5."""
    rpn, heads = model.proposal_generator, model.roi_heads
    rpn.in_features = ["p3", "p4", "p5", "p6"]
    rpn.anchor_generator.update(sizes=[[32], [64], [128], [256]], strides=[8, 16, 32, 64])
    heads.update(in_features=["p2", "p3", "p4", "p5"], strides=[4, 8, 16, 32])
    heads.level_rule.update(num_levels=4, finest_size=32.0)
