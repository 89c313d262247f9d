"""Test-time augmentation: the views that --eval-only looks at; import one of them into a leaf.

`averaged_views` is for two-stage models, `merged_views` for dense ones.

``test_time_augmentation=null`` evaluates without, as evaluations during a training always do. Views are made
of the images as they are: ``dataloader.test.mapper.augmentations`` is not used then.
"""

from detectron2.config import LazyCall as L

from htd.data import ResizeCV2
from htd.evaluation import AveragedViews, MergedViews, View
from htd.layers import HardNMS


def resized_views(*sizes):
    """Views at each of the sizes, the longest and the shortest side in pixels, as they are and mirrored."""
    return [
        L(View)(augmentations=[L(ResizeCV2)(short_edge_length=short, max_size=long)], mirrored=mirrored)
        for short, long in map(sorted, sizes)
        for mirrored in (False, True)
    ]


def averaged_views(*sizes):
    """What a two-stage model predicts for its proposals in `resized_views` of the sizes, averaged."""
    return L(AveragedViews)(
        views=resized_views(*sizes), proposal_nms=L(HardNMS)(iou_threshold=0.7), max_proposals=1000
    )


def merged_views(*sizes):
    """What a dense model finds in `resized_views` of the sizes, suppressed together."""
    return L(MergedViews)(views=resized_views(*sizes))


# What the published large models are tested with: four sizes, 8 views.
test_time_augmentation = averaged_views((2000, 1400), (2000, 1200), (2000, 800), (2000, 600))
