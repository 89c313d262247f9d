"""What is published of the dense detectors, leaf by leaf; parts as `described` writes them."""

from typing import NamedTuple

from omegaconf import ListConfig

COCO_IMAGES, BATCH = 117266, 16


def described(part: object) -> str:
    """Return a part's class and arguments, and those of its parts, as text with six digits a number."""
    if part is None or isinstance(part, bool | int | str):
        return repr(part)
    if isinstance(part, float):
        return f"{part:.6g}"
    if isinstance(part, list | tuple | ListConfig):
        return f"[{', '.join(map(described, part))}]"
    # How much is computed at a time changes no value.
    values = {name: value for name, value in vars(part).items() if name != "pairs_at_once"}
    return f"{type(part).__name__}({', '.join(f'{k}={described(v)}' for k, v in values.items())})"


def pairs(nms: float, clip: bool) -> str:
    """The post-processing that compares pairs of a place and a class."""
    return _post("PairTopK(score_threshold=0.05, topk=1000)", nms, clip, "0")


def locations(nms: float, ranking: str = "BestClass") -> str:
    """The post-processing that compares places."""
    selection = f"LocationTopK(score_threshold=0.05, topk=1000, ranking={ranking}())"
    return _post(selection, nms, True, "-inf")


def _post(selection: str, nms: float, clip: bool, least: str) -> str:
    return (
        f"RescaleFirst(pre_nms={selection}, nms=HardNMS(iou_threshold={nms}), max_detections=100, "
        f"num_classes=80, clip={clip}, min_box_size={least})"
    )


def deltas(stds: tuple) -> str:
    """The coding by deltas with these deviations; log(1000 / 16) both ways."""
    weights = described([1 / std for std in stds])
    return f"ClampedBox2BoxTransform(weights={weights}, scale_clamp=4.13517)"


def positives(least_each: int = 0, extra_each: int = 0) -> str:
    """The number of positives, at least 1 in all."""
    return f"PositiveCount(least_each_image={least_each}, extra_each_image={extra_each}, least=1)"


def of_boxes(weighting: str, least: str, eps: str = "1e-06") -> tuple:
    """GIoU of weight 2, weighted, over the sum of the weights."""
    loss = f"GIoULoss(weighting={weighting}(), eps={eps})"
    return (loss, f"WeightSum(weighting={weighting}(), least={least})", 2)


class Phase(NamedTuple):
    """DenseCriterion: ``losses`` are loss, divisor and weight by name."""

    assigner: str
    losses: dict


class System(NamedTuple):
    """Values that are not the same in all systems, those of ATSS if nothing is said.

    Attributes:
        sizes: roots of the areas of the anchors of a cell, in cells.
        forms: height over width of each.
        offset: of the anchors from the cells' corners, in cells.
        top: what p6 is made from, and whether a ReLU stands before p7.
        towers: kind, layers, groups of the norm.
        box_outputs: numbers for each anchor.
        box_rule: what is applied to them.
        scales: learned scalars of levels.
        centerness: the tower it comes from.
        decoder, postprocessing: of the predictions.
        phases: of the training.
    """

    sizes: tuple = (8,)
    forms: tuple = (1,)
    offset: float = 0.0
    top: tuple = ("p5", False)
    towers: tuple = ("TwinTowers", 4, 32)
    box_outputs: int = 4
    box_rule: str = "Scaled()"
    scales: int = 5
    centerness: str | None = "regression"
    decoder: str = f"DeltaDecoder(transform={deltas((0.1, 0.1, 0.2, 0.2))})"
    postprocessing: str = pairs(0.6, clip=True)
    phases: tuple = ()


FOCAL = "FocalLoss(alpha=0.25, gamma=2)"
NEAREST = "ATSSAssigner(topk=9, center_margin=0.01)"
CENTER = "CenternessLoss(target=Centerness())"
ATSS = System(
    phases=(
        Phase(
            NEAREST,
            {
                "loss_cls": (FOCAL, positives(least_each=1), 1),
                "loss_box_reg": of_boxes("Centerness", "1"),
                "loss_centerness": (CENTER, positives(least_each=1), 1),
            },
        ),
    )
)
GFL = System(
    box_outputs=68,
    centerness=None,
    decoder="DistributionDecoder()",
    postprocessing=locations(0.6),
    phases=(
        Phase(
            NEAREST,
            {
                "loss_cls": (
                    "QualityFocalLoss(quality=PredictedIoU(), beta=2)",
                    positives(least_each=1),
                    1,
                ),
                "loss_box_reg": of_boxes("BestScore", "0", eps="1e-07"),
                "loss_dfl": (
                    "DistributionLoss(weighting=BestScore())",
                    "WeightSum(weighting=BestScore(), least=0)",
                    0.25,
                ),
            },
        ),
    ),
)
RETINANET = System(
    sizes=(4.0, 5.03968, 6.3496),
    forms=(0.5, 1, 2),
    top=("res5", False),
    towers=("TwinTowers", 4, None),
    box_rule="Unscaled()",
    scales=0,
    centerness=None,
    decoder=f"DeltaDecoder(transform={deltas((1, 1, 1, 1))})",
    postprocessing=locations(0.5),
    phases=(
        Phase(
            "IoUAssigner(positive_iou=0.5, negative_iou=0.4, low_quality_iou=0)",
            {
                "loss_cls": (FOCAL, positives(least_each=1), 1),
                "loss_box_reg": (
                    f"DeltaLoss(transform={deltas((1, 1, 1, 1))}, beta=0)",
                    positives(least_each=1),
                    1,
                ),
            },
        ),
    ),
)
FCOS = System(
    sizes=(1,),
    offset=0.5,
    top=("p5", True),
    # The bound of the exponential is ours: the published one has none.
    box_rule="ExpOfScaled(largest=12)",
    centerness="classification",
    decoder="DistanceDecoder(in_cells=False)",
    postprocessing=locations(0.5, ranking="BestClassTimesCenterness"),
    phases=(
        Phase(
            "FCOSAssigner(ranges=[[-1, 64], [64, 128], [128, 256], [256, 512], [512, inf]], "
            "center_radius=inf)",
            {
                "loss_cls": (FOCAL, positives(extra_each=1), 1),
                "loss_box_reg": (
                    "IoULoss(weighting=Centerness())",
                    "WeightSum(weighting=Centerness(), least=1e-06)",
                    1,
                ),
                "loss_centerness": (CENTER, positives(), 1),
            },
        ),
    ),
)
TOOD = System(
    towers=("InteractiveTowers", 6, 32),
    box_rule="ScaledExp(largest=8)",
    centerness=None,
    decoder="SampledBoxDecoder(decoder=DistanceDecoder(in_cells=True), repair=True)",
    postprocessing=pairs(0.6, clip=False),
    phases=(
        Phase(
            NEAREST,
            {"loss_cls": (FOCAL, positives(), 1), "loss_box_reg": of_boxes("Centerness", "1")},
        ),
        Phase(
            "TaskAlignedAssigner(alpha=1, beta=6, topk=13, center_margin=0.01, eps=1e-07)",
            {
                "loss_cls": (
                    "QualityFocalLoss(quality=AssignedMetric(), beta=2)",
                    "WeightSum(weighting=AssignedMetric(), least=1)",
                    1,
                ),
                "loss_box_reg": of_boxes("AssignedMetric", "1"),
            },
        ),
    ),
)
ANCHOR_BASED = TOOD._replace(
    box_rule="Scaled()", decoder=f"SampledBoxDecoder(decoder={ATSS.decoder}, repair=True)"
)

SYSTEMS = {
    "baselines/retinanet_r50_fpn_1x": RETINANET,
    "baselines/fcos_r50_fpn_1x": FCOS,
    "baselines/atss_r50_fpn_1x": ATSS,
    "baselines/gfl_r50_fpn_1x": GFL,
    "tood/tood_r50_fpn_1x": TOOD,
    "tood/tood_r50_fpn_anchor_based_1x": ANCHOR_BASED,
    "tood/tood_r50_fpn_2x_ms": TOOD,
    "tood/tood_r101_fpn_2x_ms": TOOD,
    "tood/tood_r101_fpn_dcnv2_2x_ms": TOOD,
    "tood/tood_x101_64x4d_fpn_2x_ms": TOOD,
    "tood/tood_x101_64x4d_fpn_dcnv2_2x_ms": TOOD,
}
# With T-Head or its training; each differs in that from the other.
UNPUBLISHED = {
    "tood/tood_retinanet_r50_fpn_1x": "baselines/retinanet_r50_fpn_1x",
    "tood/tood_fcos_r50_fpn_1x": "baselines/fcos_r50_fpn_1x",
}
# Millions of parameters, of the model and of its head.
PARAMETERS = {
    "baselines/atss_r50_fpn_1x": (32.295, 4.919),
    "tood/tood_r50_fpn_1x": (32.200, 4.824),
    "tood/tood_r50_fpn_anchor_based_1x": (32.200, 4.824),
    "tood/tood_r50_fpn_2x_ms": (32.200, 4.824),
    "tood/tood_r101_fpn_2x_ms": (51.193, 4.824),
    "tood/tood_r101_fpn_dcnv2_2x_ms": (53.620, 5.322),
    "tood/tood_x101_64x4d_fpn_2x_ms": (90.099, 4.824),
    "tood/tood_x101_64x4d_fpn_dcnv2_2x_ms": (97.813, 5.322),
}
# Depth, groups, width of a group, first weights.
BACKBONES = {
    "r50": (50, 1, 64, "torchvision/resnet50"),
    "r101": (101, 1, 64, "torchvision/resnet101"),
    "x101_64x4d": (101, 64, 4, "mmdet/resnext101_64x4d"),
}
DEFORMABLE = {"r101": ["res3", "res4", "res5"], "x101_64x4d": ["res4", "res5"]}
# Epochs, iterations, and those at which the rate falls to a tenth.
SCHEDULES = {"1x": (12, 87960, 58640, 80630), "2x": (24, 175920, 117280, 161260)}
SWITCH_EPOCHS, SWITCH = 4, 29320
