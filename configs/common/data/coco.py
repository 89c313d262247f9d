"""COCO 2017 as the published models see it: RGB, OpenCV resize to (1333, 800), flip, 16 images a step."""

from detectron2.config import LazyCall as L
from omegaconf import OmegaConf

from htd.data import build_test_loader, build_train_loader, coco_dataset
from htd.evaluation import COCOEvaluator

from .images import test_mapper, train_mapper

dataloader = OmegaConf.create()

dataloader.train = L(build_train_loader)(
    dataset=L(coco_dataset)(
        name="coco_2017_train",
        json_file="coco/annotations/instances_train2017.json",
        image_root="coco/train2017",
        filter_empty=True,
        min_image_side=32,
    ),
    mapper=train_mapper(max_size=1333),
    total_batch_size=16,
    num_workers=4,
    aspect_ratio_grouping=True,
    seed="${train.seed}",
)

dataloader.test = L(build_test_loader)(
    dataset=L(coco_dataset)(
        name="coco_2017_val",
        json_file="coco/annotations/instances_val2017.json",
        image_root="coco/val2017",
    ),
    mapper=test_mapper(max_size=1333),
    num_workers=4,
)

dataloader.evaluator = L(COCOEvaluator)(
    dataset_name="${..test.dataset.name}",
    output_dir="${train.output_dir}/inference",
)
