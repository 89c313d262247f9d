"""OpenImages Challenge 2019, official files: (1024, 800), flip, class-aware sampling, 64 images a step."""

from detectron2.config import LazyCall as L
from omegaconf import OmegaConf

from htd.data import (
    ClassAwareOrder,
    FirstOfPermutation,
    OfficialAnnotations,
    build_test_loader,
    build_train_loader,
    open_images_dataset,
)
from htd.evaluation import OpenImagesEvaluator, PublishedRule

from .images import test_mapper, train_mapper

dataloader = OmegaConf.create()

dataloader.train = L(build_train_loader)(
    dataset=L(open_images_dataset)(
        name="openimages_challenge_2019_train",
        annotations=L(OfficialAnnotations)(
            boxes="openimages/annotations/challenge-2019-train-detection-bbox.csv"
        ),
        classes_file="openimages/annotations/challenge-2019-classes-description-500.csv",
        image_root="openimages/train",
        # Written by the first run: the official files have no sizes.
        sizes_file="openimages/annotations/train_sizes.csv",
        filter_empty=True,
        inclusive_ends=False,
    ),
    mapper=train_mapper(max_size=1024),
    total_batch_size=64,
    num_workers=4,
    # The published order is that of the samples itself.
    aspect_ratio_grouping=False,
    sample_order=L(ClassAwareOrder)(
        num_classes="${model.roi_heads.num_classes}",
        # As published; htd.data.UniformDraw draws as evenly and much faster (docs/open_images.md).
        draw=L(FirstOfPermutation)(),
    ),
    seed="${train.seed}",
)

dataloader.test = L(build_test_loader)(
    dataset=L(open_images_dataset)(
        name="openimages_challenge_2019_val",
        annotations=L(OfficialAnnotations)(
            boxes="openimages/annotations/challenge-2019-validation-detection-bbox.csv",
            labels="openimages/annotations/challenge-2019-validation-detection-human-imagelabels.csv",
        ),
        classes_file="${...train.dataset.classes_file}",
        image_root="openimages/validation",
        hierarchy_file="openimages/annotations/challenge-2019-label500-hierarchy.json",
        sizes_file="openimages/annotations/validation_sizes.csv",
        inclusive_ends="${...train.dataset.inclusive_ends}",
    ),
    mapper=test_mapper(max_size=1024),
    num_workers=4,
)

dataloader.evaluator = L(OpenImagesEvaluator)(
    dataset_name="${..test.dataset.name}",
    # OfficialRule is the challenge's own.
    rule=L(PublishedRule)(),
    output_dir="${train.output_dir}/inference",
)
