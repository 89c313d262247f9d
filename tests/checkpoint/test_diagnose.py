"""What a message names, and what then helps, where a published file and a config do not belong together."""

import re

import pytest
import torch

from htd.checkpoint import convert
from htd.checkpoint.formats import FORMATS
from htd.errors import UserError
from tests.checkpoint import salt_files as salt
from tests.checkpoint.test_dense_files import ATSS, FCOS, GFL, PROJECT, RETINANET, whole_file
from tests.checkpoint.test_tood_files import CONFIGS as TOOD_FILES
from tests.checkpoint.test_tood_files import DCN_FILE, R50, R101_DCN
from tests.checkpoint.whole import build, file_of, model_of

HTC, WITHOUT = "htc/htc_r50_fpn_1x", "htc/htc_without_semantic_r50_fpn_1x"
FASTER, MASK = "baselines/faster_rcnn_r50_fpn_1x", "baselines/mask_rcnn_r50_fpn_1x"
CASCADE_MASK = "baselines/cascade_mask_rcnn_r50_fpn_1x"
HTD, HTD_MASK = "htd/htd_r50_fpn_1x", "htd/htd_mask_r50_fpn_1x"
X101, X101_DCN = "htc/htc_x101_64x4d_fpn_20e", "htc/htc_x101_64x4d_fpn_dcn_20e_ms"
R101, TOOD_X101_DCN = "tood/tood_r101_fpn_2x_ms", "tood/tood_x101_64x4d_fpn_dcnv2_2x_ms"
SALT_GFL, SALT_TOOD = "salt/salt_gfl_r50_fpn_1x", "salt/salt_tood_r50_fpn_1x"
TSD, TSD_MASK, TSD_IMAGES = (
    f"tsd/tsd_{name}" for name in ("faster_r50_fpn_1x", "mask_r50_fpn_1x", "faster_r50_fpn_openimages")
)
TSD_FASTER_FILE, TSD_IMAGES_FILE = (
    "tsd:faster_rcnn_r50_fpn_TSD_1x",
    "tsd:openimages_r50_fpn_classsampling_TSD",
)
PLAIN_IMAGES, PLAIN_IMAGES_FILE = (
    "baselines/faster_rcnn_r50_fpn_openimages",
    "tsd:openimages_r50_fpn_classsampling",
)
EXTRA_CLASS = FORMATS["salt"].overrides[0]
CLASSIFIER = "head.predictors.cls_score"


def published(file):
    """Return a file: ``system:manifest``, or a config of a dense detector for the file that it takes."""
    system, _, name = file.partition(":")
    if name:
        return file_of(system, f"manifest_{name}" if system in ("tsd", "htd") else name)
    if file in TOOD_FILES:
        return file_of("tood", TOOD_FILES[file])
    if file in salt.SALT_NET:
        return salt.salt_net(file)
    return salt.plug_in(file) if file.startswith("salt/") else whole_file(file)


def failure(file, config, *overrides, **options):
    weights = published(file) if isinstance(file, str) else file
    with pytest.raises(UserError) as caught:
        convert(weights, build(config, *overrides) if overrides else model_of(config), **options)
    return str(caught.value)


# File, config, then titles of the system in the file and in the model, and the configs that fit the file.
SYSTEMS = [
    ("htc:faster_rcnn_r50", HTD, "Faster R-CNN", "HTD", [FASTER]),
    ("htc:mask_rcnn_r50", FASTER, "Mask R-CNN", "Faster R-CNN", [MASK]),
    (
        "htc:cascade_mask_rcnn_r50",
        HTC,
        "Cascade Mask R-CNN",
        "HTC",
        [CASCADE_MASK, CASCADE_MASK.replace("1x", "20e")],
    ),
    ("htc:htc_r50", WITHOUT, "HTC", "HTC without semantics", [HTC, HTC.replace("1x", "20e")]),
    ("htc:htc_without_semantic_r50", HTC, "HTC without semantics", "HTC", [WITHOUT]),
    (R50, HTD, "TOOD", "HTD", [R50]),
    (ATSS, GFL, "ATSS", "GFL", [ATSS]),
    (GFL, FCOS, "GFL", "FCOS", [GFL]),
    (FCOS, RETINANET, "FCOS", "RetinaNet", [FCOS]),
    (RETINANET, FASTER, "RetinaNet", "Faster R-CNN", [RETINANET]),
    ("htc:faster_rcnn_r50", R50, "Faster R-CNN", "TOOD", [FASTER]),
    (salt.R50, GFL, "SALT-Net", "GFL", [salt.R50, salt.R50_2X]),
    (salt.R50, SALT_TOOD, "SALT-Net", "another detector", [salt.R50]),
    (GFL, salt.R50, "GFL", "SALT-Net", [GFL]),
    (ATSS, salt.SALT_FCOS, "ATSS", "FCOS with SALT", [ATSS]),
    (salt.SALT_ATSS, ATSS, "ATSS with SALT", "ATSS", [salt.SALT_ATSS]),
    (salt.SALT_RETINANET, RETINANET, "RetinaNet with SALT", "RetinaNet", [salt.SALT_RETINANET]),
    ("tsd:mask_rcnn_r50_fpn_TSD_1x", TSD, "TSD on Mask R-CNN", "TSD on Faster R-CNN", [TSD_MASK]),
    (TSD_FASTER_FILE, PLAIN_IMAGES, "TSD on Faster R-CNN", "Faster R-CNN", [TSD]),
    (PLAIN_IMAGES_FILE, TSD_IMAGES, "Faster R-CNN of MMDetection 1", "TSD on Faster R-CNN", [PLAIN_IMAGES]),
]


@pytest.mark.parametrize(("file", "config", "theirs", "ours", "fitting"), SYSTEMS)
def test_systems_are_told_apart(file, config, theirs, ours, fitting):
    text = failure(file, config)
    assert f"is of {theirs}, the model of {ours}; configs that fit the file: " in text
    assert all(f"configs/{name}.py" in text for name in fitting)
    if text.count("\n") > 50:  # then the advice stands at the top and below the lists
        assert text.count("configs that fit the file") == 2


DCN = " with deformable layers in "
# File, config, then what the message calls the backbones, and the config that fits the file.
BACKBONES = [
    ("htc:htc_r101", CASCADE_MASK, "ResNet-101", "ResNet-50", "htc/htc_r101_fpn_20e"),
    ("htc:htc_x101_64x4d", X101_DCN, "ResNeXt-101 64x4d", f"ResNeXt-101 64x4d{DCN}res3, res4 and res5", X101),
    (
        "htc:htc_x101_64x4d_dcn",
        X101,
        f"ResNeXt-101 64x4d{DCN}res3, res4 and res5",
        "ResNeXt-101 64x4d",
        X101_DCN,
    ),
    (R101_DCN, R101, f"ResNet-101{DCN}res3, res4 and res5", "ResNet-101", R101_DCN),
    (TOOD_X101_DCN, R50, f"ResNeXt-101 64x4d{DCN}res4 and res5", "ResNet-50", TOOD_X101_DCN),
    (
        salt.R2_101_DCNX,
        salt.R2_101_DCN,
        f"Res2Net-101 26w 4s{DCN}res3, res4 and res5",
        f"Res2Net-101 26w 4s{DCN}res4 and res5",
        salt.R2_101_DCNX,
    ),
    (salt.R50, salt.X101_DCN, "ResNet-50", f"ResNeXt-101 32x4d{DCN}res4 and res5", salt.R50),
    (
        "tsd:faster_rcnn_r152_fpn_TSD_1x",
        "tsd/tsd_faster_senet154_fpn_dcn_ms",
        "ResNet-152",
        f"SENet-154{DCN}res3, res4 and res5",
        "tsd/tsd_faster_r152_fpn_1x",
    ),
    (TSD_IMAGES_FILE, "tsd/tsd_faster_r101_fpn_1x", "ResNet-50", "ResNet-101", TSD_IMAGES),
]


@pytest.mark.parametrize(("file", "config", "theirs", "ours", "fitting"), BACKBONES)
def test_backbones_are_told_apart(file, config, theirs, ours, fitting):
    text = failure(file, config)
    assert f"has a {theirs}, the model a {ours}; configs that fit the file: " in text
    assert f"configs/{fitting}.py" in text


def test_file_that_no_config_fits():
    weights = published("htc:htc_r101")
    weights = {k: v for k, v in weights.items() if "semantic" not in k and "conv_res" not in k}
    assert "configs that fit the file: none." in failure(weights, CASCADE_MASK)


def test_release_of_the_authors_has_the_same_backbone():
    assert f"configs that fit the file: configs/{R101_DCN}.py" in failure(f"tood:author_keys_{DCN_FILE}", R50)


@pytest.mark.parametrize(
    ("file", "config"),
    [(FCOS, ATSS), (ATSS, FCOS), (salt.SALT_FCOS, salt.SALT_ATSS), (salt.SALT_ATSS, salt.SALT_FCOS)],
)
def test_same_names_and_shapes_of_another_system_are_refused(file, config):
    """FCOS and ATSS are told apart by their decoders alone."""
    weights = published(file)
    theirs, ours = ("Distance", "Delta") if "fcos" in file else ("Delta", "Distance")
    text = failure(weights, config)
    assert f"are for a {theirs}Decoder, the model has a {ours}Decoder" in text
    assert text.endswith(f"configs that fit the file: configs/{file}.py")
    assert "are for a" in failure(weights, config, strict=False)
    head = {key: value for key, value in weights.items() if key.startswith("bbox_head.")}
    assert convert(head, model_of(config).head)[1].complete  # has no decoder that could tell


@pytest.mark.parametrize(
    ("file", "config", "title", "parts", "count"),
    [
        ("htd:r50", HTD_MASK, "mask branch", ["roi_heads.mask_branch"], 12),
        ("htc:cascade_mask_rcnn_r50", WITHOUT, "mask information flow", ["roi_heads.mask_branch.flow"], 4),
        ("htc:htc_without_semantic_r50", HTC, "semantic branch", ["roi_heads.context.semantic"], 22),
        (
            "htc:cascade_rcnn_r50",
            HTC,
            "mask branch and no semantic branch",
            ["roi_heads.mask_branch", "roi_heads.context.semantic"],
            62,
        ),
        (TSD_FASTER_FILE, TSD_MASK, "mask branch", ["roi_heads.mask_branch"], 12),
    ],
)
def test_parts_beyond_the_file_are_initialized_when_asked(file, config, title, parts, count):
    weights = published(file)
    assert re.search(rf"no {title}: .*--new {' '.join(parts)}\.", failure(weights, config))
    _, report = convert(weights, model_of(config), new=parts)
    assert report.complete and len(report.new) == count
    assert all(name.startswith(tuple(parts)) for name in report.new)
    assert set(report.used.values()) | set(report.new) == set(model_of(config).state_dict())


@pytest.mark.parametrize(("file", "config"), [("htc:faster_rcnn_r50", HTC), ("htc:htc_r50", WITHOUT)])
def test_no_part_is_named_that_would_not_help(file, config):
    assert "--new" not in failure(file, config)


def test_what_was_named_is_not_asked_for_again():
    text = failure("htc:cascade_mask_rcnn_r50", HTC, new=["roi_heads.mask_branch.flow"])
    assert "no semantic branch" in text and "information flow" not in text


def test_other_kind_of_semantic_maps():
    config, part = "htc/htc_r50_fpn_1x_instance_maps", "roi_heads.context.semantic.predictor"
    text = failure("htc:htc_r50", config)
    assert "knows 183 labels in the file" in text and f"as new: {part}." in text
    _, report = convert(published("htc:htc_r50"), model_of(config), new=[part])
    assert report.new == [f"{part}.weight", f"{part}.bias"]


@pytest.mark.parametrize(
    ("file", "config", "theirs", "ours", "count"),
    [
        ("htc:htc_r50", HTC, 81, 4, 6),
        ("htc:mask_rcnn_r50", MASK, 81, 4, 3),
        ("tsd:mask_rcnn_r50_fpn_TSD_1x", TSD_MASK, 81, 4, 5),
        ("tsd:cascade_rcnn_r50_fpn_TSD_20e", "tsd/tsd_cascade_r50_fpn_20e", 81, 4, 12),
        (PLAIN_IMAGES_FILE, PLAIN_IMAGES, 501, 4, 2),
        (R50, R50, 80, 3, 1),
        (RETINANET, RETINANET, 720, 27, 1),
        (salt.R50, salt.R50, 81, 3, 1),
    ],
)
def test_parts_of_another_class_count(file, config, theirs, ours, count):
    """The parts that the message names are those with which the file fits."""
    dense = config.startswith(("tood/", "salt/")) or config == RETINANET
    three = "model.num_classes=3" if dense else "model.roi_heads.num_classes=3"
    text, weights = failure(file, config, three), published(file)
    parts = text.partition("as new: ")[2].partition(".\n")[0].split()
    assert len(parts) == count and f"{theirs} rows in the file and {ours} in the model" in text
    _, report = convert(weights, build(config, three), new=parts)
    assert report.complete and len(report.new) == 2 * count


@pytest.mark.parametrize(("file", "config"), [(TSD_IMAGES_FILE, TSD), (TSD_FASTER_FILE, TSD_IMAGES)])
def test_config_for_the_classes_of_the_file(file, config):
    other = {TSD: TSD_IMAGES, TSD_IMAGES: TSD}[config]
    assert f": take configs/{other}.py, " in failure(file, config)


class TestOverrides:
    """Published classifiers of SALT-Net have a class more, and of RetinaNet with SALT fewer anchors."""

    @pytest.mark.parametrize("config", [salt.R50, salt.X101_DCNX])
    def test_message_says_how_to_take_the_file(self, config):
        text = failure(config, config)
        assert f"81 rows in the file and 80 in the model ({FORMATS['salt'].classifier_rows})" in text
        assert f"override the config by {EXTRA_CLASS}, " in text and "shapes differ (2):" in text
        assert text.count("The classifier has 81 rows") == 1  # the lists are short
        assert "in the model, not in the file" not in text and "in the file, not in the model" not in text

    @pytest.mark.parametrize(
        ("file", "config", "overrides"),
        [
            (salt.R50, salt.R50, ["model.num_classes=3"]),
            (salt.R50, salt.R50, ["model.num_classes=3", EXTRA_CLASS]),
            (salt.R50, GFL, []),
            (salt.R50, SALT_GFL, []),
            (GFL, GFL, [EXTRA_CLASS]),
        ],
    )
    def test_no_override_where_it_would_not_help(self, file, config, overrides):
        text = failure(file, config, *overrides)
        assert "rows in the file" in text and "override" not in text

    def test_number_of_anchors(self):
        overrides = FORMATS["salt_retinanet"].overrides
        text = failure(salt.SALT_RETINANET, salt.SALT_RETINANET)
        assert f"override the config by {' '.join(overrides)}, " in text
        text = failure(salt.SALT_RETINANET, salt.SALT_RETINANET, *overrides, "model.num_classes=3")
        assert "80 rows in the file and 3 in the model" in text and "override" not in text


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
    with pytest.raises(UserError, match=r"in the file, not in the model .4.:"):
        convert(weights, model_of(R50).head)
    _, report = convert(weights, model_of(R50).head, strict=False)
    assert len(report.unmatched) == 4 and not report.missing and not report.mismatched


def test_other_number_of_bins():
    text = failure(GFL, GFL, "model.head.predictors.box_dim=36")
    assert "bbox_head.gfl_reg.bias has [68], the model [36]" in text and PROJECT not in text


def test_boxes_only_form_takes_the_weights_of_cascade_rcnn():
    model = model_of("htc/htc_box_r50_fpn_1x")
    converted, report = convert(published("htc:cascade_rcnn_r50"), model)
    model.load_state_dict(converted, strict=True)
    assert report.complete
