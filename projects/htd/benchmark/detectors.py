"""Each system beside the detector that it changes, as whole models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import detectron2
from detectron2.config import LazyConfig, instantiate
from torch import nn

from htd.benchmark.inputs import fix_work
from htd.benchmark.measure import Table, megabytes
from htd.benchmark.models import (
    INFERENCE,
    TRAINING,
    Candidate,
    LeafModel,
    Settings,
    compare_models,
    measure_models,
)
from htd.benchmark.operators import OPERATORS
from htd.modeling.salt import SALTOperator

CASCADE = "baselines/cascade_mask_rcnn_r50_fpn_1x.py"
HTC, HTC_WITHOUT_SEMANTIC = "htc/htc_r50_fpn_1x.py", "htc/htc_without_semantic_r50_fpn_1x.py"
HTC_FORMS = ("htc/htc_box_r50_fpn_1x.py", HTC_WITHOUT_SEMANTIC, HTC, "htc/htc_r50_fpn_1x_instance_maps.py")
CHECKPOINTED = "model.roi_heads.mask_branch.checkpoint_heads=True"
# Both models of a pair have the same backbone, RPN, box conventions and, as set below, RoI pooling.
TSD_PAIRS = {
    "legacy conventions": (
        "baselines/faster_rcnn_r50_fpn_openimages.py",
        "tsd/tsd_faster_r50_fpn_openimages.py",
    ),
    "continuous boxes": ("baselines/faster_rcnn_r50_fpn_1x.py", "tsd/tsd_faster_r50_fpn_1x_continuous.py"),
}
ATSS, TOOD = "baselines/atss_r50_fpn_1x.py", "tood/tood_r50_fpn_1x.py"
GFL, SALT = "baselines/gfl_r50_fpn_1x.py", "salt/salt_r50_fpn_1x.py"
SALT_PAIRS = {
    "RetinaNet": ("baselines/retinanet_r50_fpn_1x.py", "salt/salt_retinanet_r50_fpn_1x.py"),
    "FCOS": ("baselines/fcos_r50_fpn_1x.py", "salt/salt_fcos_r50_fpn_1x.py"),
    "ATSS": (ATSS, "salt/salt_atss_r50_fpn_1x.py"),
    "GFL": (GFL, "salt/salt_gfl_r50_fpn_1x.py"),
    "TOOD": (TOOD, "salt/salt_tood_r50_fpn_1x.py"),
}


def cascade_with_semantics(settings: Settings) -> nn.Module:
    """Return Cascade Mask R-CNN that also runs and trains HTC's semantic branch, unused."""
    model, htc = (settings.model_config(path, settings.overrides) for path in (CASCADE, HTC))
    model.sem_seg_ignore_value = htc.sem_seg_ignore_value
    model.roi_heads.context.semantic = htc.roi_heads.context.semantic
    return fix_work(instantiate(model))


def detectron2_cascade(settings: Settings) -> nn.Module:
    """Return Detectron2's Cascade Mask R-CNN R-50 FPN, which has one mask head; frozen like ours."""
    configs = Path(detectron2.__file__).parent / "model_zoo" / "configs"
    model = LazyConfig.load(str(configs / "common" / "models" / "cascade_rcnn.py")).model
    model.backbone.bottom_up.freeze_at = 2
    return fix_work(instantiate(model))


def htc_memory(settings: Settings) -> Table:
    """Measure the peak memory of a training step, one model at a time."""
    labels = ("Cascade Mask R-CNN", "the same + semantic branch alone", "HTC without semantics", "HTC")
    builds = (
        LeafModel(CASCADE, change=fix_work),
        cascade_with_semantics,
        LeafModel(HTC_WITHOUT_SEMANTIC, change=fix_work),
        LeafModel(HTC, change=fix_work),
    )
    peaks = []
    for overrides in (settings.overrides, (*settings.overrides, CHECKPOINTED)):
        changed = replace(settings, overrides=overrides)
        candidates = map(Candidate, labels, builds)
        peaks.append([measure_models([c], changed, TRAINING[:1])[0]["training_bytes"] for c in candidates])
    rows = [[label, *map(megabytes, values)] for label, *values in zip(labels, *peaks, strict=True)]
    rows.append(["share of the semantic branch in HTC", *(megabytes(p[3] - p[2]) for p in peaks)])
    # A small model may fit into memory that the process has already.
    ratios = (f"{p[3] / p[0]:.2f}" if p[0] > 0 else "-" for p in peaks)
    rows.append(["HTC / Cascade Mask R-CNN", *ratios])
    return Table(["training step", "MB", "MB, mask heads checkpointed"], rows)


def htc_inference(settings: Settings) -> Table:
    """Compare HTC, masks included, with its parts: Cascade Mask R-CNN and the semantic branch alone."""
    candidates = [
        Candidate("Cascade Mask R-CNN + semantic branch alone", cascade_with_semantics),
        Candidate("HTC", LeafModel(HTC, change=fix_work)),
    ]
    return compare_models(candidates, settings, INFERENCE)


def htc_forms(settings: Settings) -> Table:
    """Compare the four forms of HTC with Detectron2's Cascade Mask R-CNN, which has no overrides."""
    candidates = [Candidate("Detectron2's Cascade Mask R-CNN", detectron2_cascade, masks="polygon")]
    candidates += [Candidate(path, LeafModel(path, change=fix_work)) for path in (CASCADE, *HTC_FORMS)]
    rows = []
    for candidate, values in zip(
        candidates, measure_models(candidates, settings, INFERENCE + TRAINING), strict=True
    ):
        row = [candidate.label]
        for peak, time in (INFERENCE, TRAINING):
            row += [f"{settings.images / values[time]:.3g}", megabytes(values[peak])]
        rows.append(row)
    return Table(["model", "inference images/s", "MB", "training images/s", "MB"], rows)


def faster_rcnn_or_tsd(path: str, pooling_from: str, settings: Settings) -> nn.Module:
    """Return one of ``TSD_PAIRS``: 80 classes, RoI pooling of the other's config, one score threshold."""
    model, baseline = (
        settings.model_config(p, (*settings.overrides, "model.roi_heads.num_classes=80"))
        for p in (path, pooling_from)
    )
    model.roi_heads.stages[0].head.features = baseline.roi_heads.stages[0].head.features
    model.roi_heads.postprocessing.score_threshold = 0.05
    return fix_work(instantiate(model))


def compare_tsd(figures: tuple[str, str], settings: Settings) -> Table:
    """Compare TSD with Faster R-CNN."""
    candidates = [
        Candidate(f"{name}, {kind}", partial(faster_rcnn_or_tsd, path, pair[0]))
        for kind, pair in TSD_PAIRS.items()
        for name, path in zip(("Faster R-CNN", "TSD"), pair, strict=True)
    ]
    return compare_models(candidates, settings, figures, group=2)


def compare_tood(figures: tuple[str, str], settings: Settings) -> Table:
    """Compare TOOD with ATSS, whose assigner it has in its initial phase."""
    initial, aligned = (LeafModel(TOOD, f"model.criterion.switch_iter={k}") for k in (1, 0))
    candidates = [Candidate("ATSS", LeafModel(ATSS))]
    if figures == TRAINING:
        candidates += [Candidate("TOOD, initial phase", initial), Candidate("TOOD, aligned phase", aligned)]
    else:
        candidates.append(Candidate("TOOD", aligned))
    return compare_models(candidates, settings, figures)


def spread_points(model: nn.Module) -> nn.Module:
    """Move the points of untrained SALT operators apart, in place.

    They would all lie close to their cell, which is faster to read than the points of a trained model.
    """
    for operator in (part for part in model.modules() if isinstance(part, SALTOperator)):
        # Half of the extent of an anchor: four cells to each side.
        nn.init.constant_(operator.distances.bias, 4.0)
        nn.init.normal_(operator.factors.bias)
    return model


def without_operator(model: nn.Module) -> nn.Module:
    """Let the predictors of a SALT-Net, in place, read the towers' own features."""
    model.head.towers = model.head.towers.towers
    return model


def compare_salt(figures: tuple[str, str], settings: Settings) -> Table:
    """Compare SALT-Net with GFL: the same backbone, pyramid, anchors and post-processing."""
    candidates = [
        Candidate("GFL", LeafModel(GFL)),
        Candidate("SALT-Net", LeafModel(SALT, change=spread_points)),
    ]
    if figures == INFERENCE:
        candidates.append(Candidate("SALT-Net without operator", LeafModel(SALT, change=without_operator)))
    return compare_models(candidates, settings, figures)


def compare_salt_plug_ins(figures: tuple[str, str], settings: Settings) -> Table:
    """Compare each dense detector with itself behind whose towers the SALT operator stands."""
    candidates = []
    for name, (plain, with_salt) in SALT_PAIRS.items():
        candidates.append(Candidate(name, LeafModel(plain)))
        candidates.append(Candidate(f"{name} + SALT", LeafModel(with_salt, change=spread_points)))
    return compare_models(candidates, settings, figures, group=2)


# Name on the command line -> what measures it.
COMPONENTS: dict[str, Callable[[Settings], Table]] = {
    **OPERATORS,
    "htc_memory": htc_memory,
    "htc_inference": htc_inference,
    "htc_forms": htc_forms,
    "tsd_inference": partial(compare_tsd, INFERENCE),
    "tsd_training": partial(compare_tsd, TRAINING),
    "tood_inference": partial(compare_tood, INFERENCE),
    "tood_training": partial(compare_tood, TRAINING),
    "salt_inference": partial(compare_salt, INFERENCE),
    "salt_training": partial(compare_salt, TRAINING),
    "salt_plug_ins_inference": partial(compare_salt_plug_ins, INFERENCE),
    "salt_plug_ins_training": partial(compare_salt_plug_ins, TRAINING),
}
