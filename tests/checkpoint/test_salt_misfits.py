"""What is said where a published file of SALT-Net, or of a detector with SALT, and a config do not fit."""

import pytest

from htd.checkpoint import convert
from htd.checkpoint.formats import FORMATS
from htd.errors import UserError
from tests.checkpoint.salt_files import (
    R2_101_DCN,
    R2_101_DCNX,
    R50,
    R50_2X,
    SALT_ATSS,
    SALT_FCOS,
    SALT_NET,
    SALT_RETINANET,
    X101_DCN,
    X101_DCNX,
    plug_in,
    salt_net,
)
from tests.checkpoint.test_dense_files import ATSS, GFL, RETINANET, whole_file
from tests.checkpoint.test_tood_files import R50 as TOOD
from tests.checkpoint.whole import file_of, model_of

SALT_GFL, SALT_TOOD = "salt/salt_gfl_r50_fpn_1x", "salt/salt_tood_r50_fpn_1x"
EXTRA_CLASS, THREE = FORMATS["salt"].overrides[0], "model.num_classes=3"
ROWS = FORMATS["salt"].classifier_rows
ON_R50 = f"configs/{R50}.py, configs/{R50_2X}.py."
ALL_STAGES = "res3, res4 and res5"


def published(config):
    """Return the file of a config."""
    if config == TOOD:
        return file_of("tood", "tood_r50_fpn_1x")
    if config in SALT_NET:
        return salt_net(config)
    return plug_in(config) if config.startswith("salt/") else whole_file(config)


def failure(file, config, *overrides):
    with pytest.raises(UserError) as caught:
        convert(published(file), model_of(config, *overrides))
    return str(caught.value)


@pytest.mark.parametrize(
    ("file", "config", "hint"),
    [
        (R50, GFL, f"is of SALT-Net, the model of GFL; configs that fit the file: {ON_R50}"),
        (R50, SALT_ATSS, f"is of SALT-Net, the model of ATSS with SALT; configs that fit the file: {ON_R50}"),
        (R50, SALT_GFL, "is of SALT-Net, the model of another detector; configs that fit the file: "),
        (R50, SALT_TOOD, "is of SALT-Net, the model of another detector; configs that fit the file: "),
        (R50, TOOD, "is of SALT-Net, the model of TOOD; configs that fit the file: "),
        (GFL, R50, f"is of GFL, the model of SALT-Net; configs that fit the file: configs/{GFL}.py."),
        (
            GFL,
            SALT_GFL,
            f"is of GFL, the model of another detector; configs that fit the file: configs/{GFL}",
        ),
        (
            ATSS,
            SALT_ATSS,
            f"is of ATSS, the model of ATSS with SALT; configs that fit the file: configs/{ATSS}",
        ),
        (ATSS, SALT_FCOS, "is of ATSS, the model of FCOS with SALT; configs that fit the file: "),
        (
            SALT_ATSS,
            ATSS,
            f"of ATSS with SALT, the model of ATSS; configs that fit the file: configs/{SALT_ATSS}",
        ),
        (SALT_FCOS, R50, "is of FCOS with SALT, the model of SALT-Net; configs that fit the file: configs/"),
        (SALT_RETINANET, RETINANET, "is of RetinaNet with SALT, the model of RetinaNet; configs that fit"),
        (RETINANET, SALT_RETINANET, "is of RetinaNet, the model of RetinaNet with SALT; configs that fit"),
    ],
)
def test_systems_are_told_apart(file, config, hint):
    assert hint in failure(file, config)


@pytest.mark.parametrize(
    ("file", "config", "theirs", "ours"),
    [
        (R50, X101_DCN, "ResNet-50", "ResNeXt-101 32x4d with deformable layers in res4 and res5"),
        (
            X101_DCN,
            X101_DCNX,
            "ResNeXt-101 32x4d with deformable layers in res4 and res5",
            f"ResNeXt-101 32x4d with deformable layers in {ALL_STAGES}",
        ),
        (
            R2_101_DCNX,
            R2_101_DCN,
            f"Res2Net-101 26w 4s with deformable layers in {ALL_STAGES}",
            "Res2Net-101 26w 4s with deformable layers in res4 and res5",
        ),
        (R2_101_DCN, R50, "Res2Net-101 26w 4s with deformable layers in res4 and res5", "ResNet-50"),
        (X101_DCNX, R50_2X, f"ResNeXt-101 32x4d with deformable layers in {ALL_STAGES}", "ResNet-50"),
    ],
)
def test_backbones_are_told_apart(file, config, theirs, ours):
    fitting = ON_R50 if file == R50 else f"configs/{file}.py."
    hint = f"The file has a {theirs}, the model a {ours}; configs that fit the file: {fitting}\n"
    assert hint in failure(file, config, EXTRA_CLASS)


@pytest.mark.parametrize(
    ("file", "config", "ours"),
    [(SALT_FCOS, SALT_ATSS, "DeltaDecoder"), (SALT_ATSS, SALT_FCOS, "DistanceDecoder")],
)
def test_same_names_and_shapes_of_another_system_are_refused(file, config, ours):
    text = failure(file, config)
    assert f"the model has a {ours}: the shapes fit, but boxes would be wrong" in text
    assert text.endswith(f"configs that fit the file: configs/{file}.py")


class TestExtraClass:
    """Published classifiers have a class more than the configs, which are for new trainings."""

    @pytest.mark.parametrize("config", [R50, X101_DCNX])
    def test_message_says_how_to_take_the_file(self, config):
        text = failure(config, config)
        assert (
            f"The classifier has 81 rows in the file and 80 in the model ({ROWS}): override the config by "
            f"{EXTRA_CLASS}, set the model's num_classes, or name these parts as new: "
            "head.predictors.cls_score.\n"
        ) in text
        assert text.startswith("SALT-Net weights do not fit this model one to one.\nThe classifier has 81")
        assert "in the model, not in the file" not in text and "in the file, not in the model" not in text
        assert "shapes differ (2):" in text

    @pytest.mark.parametrize(("overrides", "rows"), [((), 3), ((EXTRA_CLASS,), 4)])
    def test_classifier_for_other_classes(self, overrides, rows):
        text = failure(R50, R50, THREE, *overrides)
        wanted = f"81 rows in the file and {rows} in the model ({ROWS}): set the model's num_classes, or name"
        assert wanted in text and "override" not in text

    def test_classes_that_begin_anew(self):
        part = "head.predictors.cls_score"
        _, report = convert(published(R50), model_of(R50, THREE), new=[part])
        assert report.complete and report.new == [f"{part}.weight", f"{part}.bias"]

    @pytest.mark.parametrize("config", [GFL, SALT_GFL, SALT_TOOD])
    def test_models_of_another_kind_are_not_told_to_be_overridden(self, config):
        text = failure(R50, config)
        assert f"81 rows in the file and 80 in the model ({ROWS}): set" in text and "override" not in text

    def test_advice_stands_once_beside_short_lists(self):
        assert failure(R50, R50).count("The classifier has 81 rows") == 1
        text = failure(R50, GFL)
        assert text.count("The classifier has 81 rows") == 2 and text.count("\n") > 50

    def test_other_dense_detectors_need_no_override(self):
        text = failure(GFL, GFL, EXTRA_CLASS)
        assert "has 80 rows in the file and 81 in the model (one a class): set the model's num_cl" in text


def test_number_of_anchors():
    """The published RetinaNet with SALT has one a cell."""
    text = failure(SALT_RETINANET, SALT_RETINANET)
    overrides = " ".join(FORMATS["salt_retinanet"].overrides)
    assert "has 80 rows in the file and 720 in the model (one a class and anchor)" in text
    assert f": override the config by {overrides}, set the model's num_classes" in text
    text = failure(SALT_RETINANET, SALT_RETINANET, *overrides.split(), THREE)
    assert "has 80 rows in the file and 3 in the model" in text and "override" not in text
