"""What is said where a published TSD file and a config do not belong together."""

import pytest

from htd.checkpoint import convert
from htd.errors import UserError
from tests.checkpoint.whole import build, file_of, model_of

PLAIN = "baselines/faster_rcnn_r50_fpn_openimages"


def failure(manifest, config, *overrides):
    with pytest.raises(UserError) as caught:
        convert(file_of("tsd", f"manifest_{manifest}"), build(config, *overrides))
    return str(caught.value)


@pytest.mark.parametrize(
    ("manifest", "config", "hint"),
    [
        (
            "mask_rcnn_r50_fpn_TSD_1x",
            "tsd/tsd_faster_r50_fpn_1x",
            "is of TSD on Mask R-CNN, the model of TSD on Faster R-CNN; configs that fit the file: "
            "configs/tsd/tsd_mask_r50_fpn_1x.py.",
        ),
        (
            "faster_rcnn_r50_fpn_TSD_1x",
            "tsd/tsd_cascade_r50_fpn_20e",
            "is of TSD on Faster R-CNN, the model of TSD on Cascade R-CNN; configs that fit the file: "
            "configs/tsd/tsd_faster_r50_fpn_1x.py.",
        ),
        (
            "faster_rcnn_r50_fpn_TSD_1x",
            PLAIN,
            "is of TSD on Faster R-CNN, the model of Faster R-CNN; configs that fit the file: "
            "configs/tsd/tsd_faster_r50_fpn_1x.py.",
        ),
        (
            "openimages_r50_fpn_classsampling",
            "tsd/tsd_faster_r50_fpn_openimages",
            "is of Faster R-CNN of MMDetection 1, the model of TSD on Faster R-CNN; "
            f"configs that fit the file: configs/{PLAIN}.py.",
        ),
        (
            "faster_rcnn_x101_64x4d_fpn_TSD",
            "tsd/tsd_faster_r152_fpn_1x",
            "has a ResNeXt-101 64x4d with deformable layers in res3, res4 and res5, the model a ResNet-152; "
            "configs that fit the file: configs/tsd/tsd_faster_x101_64x4d_fpn_dcn_ms.py.",
        ),
        (
            "faster_rcnn_r152_fpn_TSD_1x",
            "tsd/tsd_faster_senet154_fpn_dcn_ms",
            "has a ResNet-152, the model a SENet-154 with deformable layers in res3, res4 and res5; configs "
            "that fit the file: configs/tsd/tsd_faster_r152_fpn_1x.py.",
        ),
        (
            "openimages_r50_fpn_classsampling_TSD",
            "tsd/tsd_faster_r101_fpn_1x",
            "has a ResNet-50, the model a ResNet-101; configs that fit the file: "
            "configs/tsd/tsd_faster_r50_fpn_openimages.py.",
        ),
        (
            "openimages_r50_fpn_classsampling_TSD",
            "tsd/tsd_faster_r50_fpn_1x",
            "501 rows in the file and 81 in the model (one a class, one for the background): take "
            "configs/tsd/tsd_faster_r50_fpn_openimages.py, set the model's num_classes, or",
        ),
        (
            "faster_rcnn_r50_fpn_TSD_1x",
            "tsd/tsd_faster_r50_fpn_openimages",
            "81 rows in the file and 501 in the model (one a class, one for the background): take "
            "configs/tsd/tsd_faster_r50_fpn_1x.py, set the model's num_classes, or",
        ),
    ],
)
def test_error_names_the_fitting_config(manifest, config, hint):
    assert hint in failure(manifest, config)


@pytest.mark.parametrize(
    ("manifest", "config", "count"),
    [
        ("mask_rcnn_r50_fpn_TSD_1x", "tsd/tsd_mask_r50_fpn_1x", 5),
        ("cascade_rcnn_r50_fpn_TSD_20e", "tsd/tsd_cascade_r50_fpn_20e", 12),
        ("openimages_r50_fpn_classsampling", PLAIN, 2),
    ],
)
def test_parts_of_another_class_count(manifest, config, count):
    three = "model.roi_heads.num_classes=3"
    text = failure(manifest, config, three)
    parts = text.partition("as new: ")[2].partition(".\n")[0].split()
    assert len(parts) == count and "rows in the file and 4 in the model" in text
    _, report = convert(file_of("tsd", f"manifest_{manifest}"), build(config, three), new=parts)
    assert report.complete and len(report.new) == 2 * count


def test_mask_branch_begins_anew_beside_tsd():
    weights, model = (
        file_of("tsd", "manifest_faster_rcnn_r50_fpn_TSD_1x"),
        model_of("tsd/tsd_mask_r50_fpn_1x"),
    )
    with pytest.raises(UserError, match="no mask branch: to begin anew there, give --new roi_heads.mask_b"):
        convert(weights, model)
    _, report = convert(weights, model, new=["roi_heads.mask_branch"])
    assert report.complete and len(report.new) == 12
