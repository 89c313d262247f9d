"""What is said, and what can be done, where a published file and a config do not belong together."""

import pytest

from htd.checkpoint import convert
from htd.errors import UserError
from tests.checkpoint.whole import build, file_of, model_of

HTC, WITHOUT = "htc/htc_r50_fpn_1x", "htc/htc_without_semantic_r50_fpn_1x"
HTC_BOX, DRAWN_MAPS = "htc/htc_box_r50_fpn_1x", "htc/htc_r50_fpn_1x_instance_maps"
FASTER, MASK = "baselines/faster_rcnn_r50_fpn_1x", "baselines/mask_rcnn_r50_fpn_1x"
CASCADE, CASCADE_MASK = "baselines/cascade_rcnn_r50_fpn_1x", "baselines/cascade_mask_rcnn_r50_fpn_1x"
HTD, HTD_MASK = "htd/htd_r50_fpn_1x", "htd/htd_mask_r50_fpn_1x"
X101, X101_DCN = "htc/htc_x101_64x4d_fpn_20e", "htc/htc_x101_64x4d_fpn_dcn_20e_ms"

BOTH_SCHEDULES = "{0}_1x.py, {0}_20e.py"
FITS_CASCADE = BOTH_SCHEDULES.format("configs/baselines/cascade_rcnn_r50_fpn")
FITS_CASCADE_MASK = BOTH_SCHEDULES.format("configs/baselines/cascade_mask_rcnn_r50_fpn")
FITS_HTC = BOTH_SCHEDULES.format("configs/htc/htc_r50_fpn")


def failure(weights, config):
    with pytest.raises(UserError) as caught:
        convert(weights, model_of(config))
    return str(caught.value)


@pytest.mark.parametrize(
    ("manifest", "config", "hint", "listed"),
    [
        (
            "faster_rcnn_r50",
            HTD,
            "is of Faster R-CNN, the model of HTD; configs that fit the file: "
            "configs/baselines/faster_rcnn_r50_fpn_1x.py.",
            "roi_heads.context.global_vector.fc.bias",
        ),
        (
            "cascade_rcnn_r50",
            HTD,
            f"is of Cascade R-CNN, the model of HTD; configs that fit the file: {FITS_CASCADE}.",
            "roi_head.bbox_head.2.fc_cls.bias -> roi_heads.stages.2.head.cls_score.bias",
        ),
        (
            "mask_rcnn_r50",
            FASTER,
            "is of Mask R-CNN, the model of Faster R-CNN; configs that fit the file: "
            "configs/baselines/mask_rcnn_r50_fpn_1x.py.",
            "roi_head.mask_head.upsample.bias -> roi_heads.mask_branch.heads.0.deconv.bias",
        ),
        (
            "faster_rcnn_r50",
            MASK,
            "is of Faster R-CNN, the model of Mask R-CNN;",
            "in the model, not in the file (12):",
        ),
        (
            "cascade_mask_rcnn_r50",
            HTC,
            f"is of Cascade Mask R-CNN, the model of HTC; configs that fit the file: {FITS_CASCADE_MASK}.",
            "roi_heads.mask_branch.flow.transforms.1.weight",
        ),
        (
            "htc_r50",
            CASCADE_MASK,
            f"is of HTC, the model of Cascade Mask R-CNN; configs that fit the file: {FITS_HTC}.",
            "in the file, not in the model (26):",
        ),
        (
            "htc_r50",
            WITHOUT,
            f"is of HTC, the model of HTC without semantics; configs that fit the file: {FITS_HTC}.",
            "roi_head.semantic_head.conv_logits.bias -> roi_heads.context.semantic.predictor.bias",
        ),
        (
            "htc_without_semantic_r50",
            HTC,
            "is of HTC without semantics, the model of HTC; configs that fit the file: "
            "configs/htc/htc_without_semantic_r50_fpn_1x.py.",
            "in the model, not in the file (22):",
        ),
        (
            "htc_r101",
            CASCADE_MASK,
            "The file has a ResNet-101, the model a ResNet-50; configs that fit the file: "
            "configs/htc/htc_r101_fpn_20e.py.",
            "backbone.layer3.22.conv1.weight -> backbone.bottom_up.res4.22.conv1.weight",
        ),
        (
            "htc_x101_64x4d",
            X101_DCN,
            "The file has a ResNeXt-101 64x4d, the model a ResNeXt-101 64x4d with deformable layers in "
            f"res3, res4 and res5; configs that fit the file: configs/{X101}.py.",
            "in the model, not in the file (60):",
        ),
        (
            "htc_x101_64x4d_dcn",
            X101,
            "The file has a ResNeXt-101 64x4d with deformable layers in res3, res4 and res5, the model a "
            f"ResNeXt-101 64x4d; configs that fit the file: configs/{X101_DCN}.py.",
            "in the file, not in the model (60):",
        ),
        (
            "htc_x101_32x4d",
            X101,
            "configs that fit the file: configs/htc/htc_x101_32x4d_fpn_20e.py.",
            "conv2.weight: backbone.layer2.0.conv2.weight has [256, 8, 3, 3], the model [512, 8, 3, 3]",
        ),
    ],
)
def test_error_names_the_tensors_and_the_fitting_config(manifest, config, hint, listed):
    text = failure(file_of("htc", manifest), config)
    assert hint in text and listed in text
    assert text.count("configs that fit the file") == 2  # at the top and below the lists


def test_file_that_no_config_fits():
    weights = file_of("htc", "htc_r101")
    weights = {k: v for k, v in weights.items() if "semantic" not in k and "conv_res" not in k}
    text = failure(weights, CASCADE_MASK)
    assert "has a ResNet-101, the model a ResNet-50; configs that fit the file: none." in text


@pytest.mark.parametrize(
    ("system", "manifest", "config", "title", "parts", "count"),
    [
        ("htd", "manifest_r50", HTD_MASK, "mask branch", ["roi_heads.mask_branch"], 12),
        ("htc", "faster_rcnn_r50", MASK, "mask branch", ["roi_heads.mask_branch"], 12),
        ("htc", "cascade_rcnn_r50", CASCADE_MASK, "mask branch", ["roi_heads.mask_branch"], 36),
        ("htc", "cascade_mask_rcnn_r50", WITHOUT, "information flow", ["roi_heads.mask_branch.flow"], 4),
        ("htc", "htc_without_semantic_r50", HTC, "semantic branch", ["roi_heads.context.semantic"], 22),
        (
            "htc",
            "cascade_rcnn_r50",
            HTC,
            "mask branch and no semantic branch",
            ["roi_heads.mask_branch", "roi_heads.context.semantic"],
            62,
        ),
    ],
)
def test_parts_beyond_the_file_begin_anew_when_asked(system, manifest, config, title, parts, count):
    weights = file_of(system, manifest)
    text = failure(weights, config)
    assert f"{title}: to begin anew there, give --new {' '.join(parts)}." in text
    _, report = convert(weights, model_of(config), new=parts)
    assert report.complete and len(report.new) == count
    assert all(name.startswith(tuple(parts)) for name in report.new)
    assert set(report.used.values()) | set(report.new) == set(model_of(config).state_dict())


@pytest.mark.parametrize(("manifest", "config"), [("faster_rcnn_r50", HTC), ("htc_r50", WITHOUT)])
def test_no_part_is_named_that_would_not_help(manifest, config):
    assert "--new" not in failure(file_of("htc", manifest), config)


def test_what_was_named_is_not_asked_for_again():
    weights = file_of("htc", "cascade_mask_rcnn_r50")
    with pytest.raises(
        UserError, match="no semantic branch: to begin anew there, give --new roi_heads.con"
    ) as e:
        convert(weights, model_of(HTC), new=["roi_heads.mask_branch.flow"])
    assert "information flow" not in str(e.value)


def test_boxes_only_form_takes_the_weights_of_cascade_rcnn():
    model = model_of(HTC_BOX)
    converted, report = convert(file_of("htc", "cascade_rcnn_r50"), model)
    model.load_state_dict(converted, strict=True)
    assert report.complete


def test_other_kind_of_semantic_maps():
    weights, model = file_of("htc", "htc_r50"), model_of(DRAWN_MAPS)
    part = "roi_heads.context.semantic.predictor"
    text = failure(weights, DRAWN_MAPS)
    assert "The semantic branch knows 183 labels in the file" in text
    assert f"as new: {part}." in text
    _, report = convert(weights, model, new=[part])
    assert report.new == [f"{part}.weight", f"{part}.bias"]


@pytest.mark.parametrize(("manifest", "config", "count"), [("htc_r50", HTC, 6), ("mask_rcnn_r50", MASK, 3)])
def test_parts_of_another_class_count(manifest, config, count):
    model = build(config, "model.roi_heads.num_classes=3")
    weights = file_of("htc", manifest)
    with pytest.raises(UserError, match="81 rows in the file and 4 in the model") as caught:
        convert(weights, model)
    parts = str(caught.value).partition("as new: ")[2].partition(".\n")[0].split()
    assert sum(".predictor" in part for part in parts) == count // 2 and len(parts) == count
    _, report = convert(weights, model, new=parts)
    assert len(report.new) == 2 * count
