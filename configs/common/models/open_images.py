"""What the published models for OpenImages change in those for COCO."""


def for_open_images(model):
    """Change, in place, a two-stage model."""
    model.roi_heads.num_classes = 500
    model.roi_heads.postprocessing.score_threshold = 0.01
    # A ground truth claims an anchor only if they overlap by half.
    model.proposal_generator.anchor_labeler.low_quality_iou = 0.5
