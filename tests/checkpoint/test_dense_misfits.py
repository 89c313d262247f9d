"""What is said where a published file of a dense detector and a config do not belong together."""

import pytest
import torch

from htd.checkpoint import convert
from htd.checkpoint.formats import FORMATS
from htd.errors import UserError
from tests.checkpoint.test_dense_files import ATSS, FCOS, GFL, PROJECT, RETINANET, whole_file
from tests.checkpoint.test_tood_files import CONFIGS, DCN_FILE, R50, R101_DCN
from tests.checkpoint.whole import build, file_of, model_of

R101 = "tood/tood_r101_fpn_2x_ms"
X101_DCN = "tood/tood_x101_64x4d_fpn_dcnv2_2x_ms"
HTD, FASTER = "htd/htd_r50_fpn_1x", "baselines/faster_rcnn_r50_fpn_1x"
ON_R50 = "configs/tood/tood_r50_fpn_1x.py, configs/tood/tood_r50_fpn_anchor_based_1x.py, "
ON_R50 += "configs/tood/tood_r50_fpn_2x_ms.py."


def published(config):
    """Return the file of a config."""
    if config == FASTER:
        return file_of("htc", "faster_rcnn_r50")
    return file_of("tood", CONFIGS[config]) if config in CONFIGS else whole_file(config)


def failure(weights, config, *overrides):
    with pytest.raises(UserError) as caught:
        convert(weights, build(config, *overrides) if overrides else model_of(config))
    return str(caught.value)


@pytest.mark.parametrize(
    ("file", "config", "hint"),
    [
        (R50, ATSS, f"is of TOOD, the model of ATSS; configs that fit the file: {ON_R50}"),
        (R50, HTD, f"is of TOOD, the model of HTD; configs that fit the file: {ON_R50}"),
        (ATSS, R50, f"is of ATSS, the model of TOOD; configs that fit the file: configs/{ATSS}.py."),
        (ATSS, GFL, f"is of ATSS, the model of GFL; configs that fit the file: configs/{ATSS}.py."),
        (GFL, FCOS, f"is of GFL, the model of FCOS; configs that fit the file: configs/{GFL}.py."),
        (GFL, ATSS, f"is of GFL, the model of ATSS; configs that fit the file: configs/{GFL}.py."),
        (
            FCOS,
            RETINANET,
            f"is of FCOS, the model of RetinaNet; configs that fit the file: configs/{FCOS}.py.",
        ),
        (RETINANET, GFL, "is of RetinaNet, the model of GFL; configs that fit the file: "),
        (FASTER, R50, f"is of Faster R-CNN, the model of TOOD; configs that fit the file: configs/{FASTER}"),
        (
            RETINANET,
            FASTER,
            "is of RetinaNet, the model of Faster R-CNN; configs that fit the file: configs/",
        ),
        (
            R101_DCN,
            R101,
            "The file has a ResNet-101 with deformable layers in res3, res4 and res5, the model a ResNet-101"
            f"; configs that fit the file: configs/{R101_DCN}.py.",
        ),
        (
            R101,
            R101_DCN,
            "The file has a ResNet-101, the model a ResNet-101 with deformable layers in res3, res4 and res5"
            f"; configs that fit the file: configs/{R101}.py.",
        ),
        (
            X101_DCN,
            R50,
            "The file has a ResNeXt-101 64x4d with deformable layers in res4 and res5, the model a ResNet-50"
            f"; configs that fit the file: configs/{X101_DCN}.py.",
        ),
        (R50, R101, f"has a ResNet-50, the model a ResNet-101; configs that fit the file: {ON_R50}"),
    ],
)
def test_error_names_the_fitting_config(file, config, hint):
    assert hint in failure(published(file), config)


@pytest.mark.parametrize(
    ("file", "config", "theirs", "ours"),
    [(FCOS, ATSS, "DistanceDecoder", "DeltaDecoder"), (ATSS, FCOS, "DeltaDecoder", "DistanceDecoder")],
)
def test_same_names_and_shapes_of_another_system_are_refused(file, config, theirs, ours):
    """FCOS and ATSS are told apart by their decoders alone."""
    weights = published(file)
    form = FORMATS[file.split("/")[1].split("_")[0]]
    names = {form.place(key)[0] for key in weights}
    assert set(model_of(config).state_dict()) <= names
    text = failure(weights, config)
    assert f"are for a {theirs}, the model has a {ours}: the shapes fit, but boxes would be wrong" in text
    assert text.endswith(f"configs that fit the file: configs/{file}.py")
    with pytest.raises(UserError, match="are for a"):
        convert(weights, model_of(config), strict=False)
    head = {key: value for key, value in weights.items() if key.startswith("bbox_head.")}
    assert convert(head, model_of(config).head)[1].complete  # has no decoder that could tell


@pytest.mark.parametrize(
    ("config", "theirs", "ours", "of_what"),
    [
        (R50, 80, 3, "one a class"),
        (FCOS, 80, 3, "one a class"),
        (RETINANET, 720, 27, "one a class and anchor"),
    ],
)
def test_classifier_of_another_class_count(config, theirs, ours, of_what):
    weights, three = published(config), "model.num_classes=3"
    text = failure(weights, config, three)
    assert f"has {theirs} rows in the file and {ours} in the model ({of_what}): set the model's num_c" in text
    part = text.partition("as new: ")[2].partition(".\n")[0]
    assert part == "head.predictors.cls_score"
    _, report = convert(weights, build(config, three), new=[part])
    assert report.complete and report.new == [f"{part}.weight", f"{part}.bias"]


def test_every_tensor_that_does_not_fit_is_listed():
    weights = file_of("tood", "head_tood")
    weights["bbox_head.reg_offset_module.2.bias"] = torch.zeros(18)
    weights["bbox_head.cls_prob_module.4.bias"] = torch.zeros(1)
    del weights["bbox_head.scales.4.scale"]
    with pytest.raises(UserError) as caught:
        convert(weights, model_of(R50).head)
    text = str(caught.value)
    assert "predictors.box_offsets.2.bias: bbox_head.reg_offset_module.2.bias has [18], the model [8]" in text
    assert "in the file, not in the model (1):\n    bbox_head.cls_prob_module.4.bias\n" in text
    assert "in the model, not in the file (1):\n    predictors.scales.4\n" in text


def test_deformable_head_for_a_plain_one():
    weights = file_of("tood", "head_tood_dcn2")
    with pytest.raises(
        UserError, match=r"in the file, not in the model .4.:\n    bbox_head.inter_convs.0.conv"
    ):
        convert(weights, model_of(R50).head)
    _, report = convert(weights, model_of(R50).head, strict=False)
    assert len(report.unmatched) == 4 and not report.missing and not report.mismatched


def test_other_number_of_bins():
    text = failure(published(GFL), GFL, "model.head.predictors.box_dim=36")
    assert "bbox_head.gfl_reg.bias has [68], the model [36]" in text and PROJECT not in text


def test_deformable_file_and_release():
    """The authors' release of a file is told to have the same backbone."""
    text = failure(file_of("tood", f"author_keys_{DCN_FILE}"), R50)
    assert f"configs that fit the file: configs/{R101_DCN}.py" in text
