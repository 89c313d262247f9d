"""Parts and values that do not go with the SALT operator are refused when a model is built, by their keys."""

import copy

import pytest
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf

from htd.errors import UserError
from htd.layers import GroupNormOf
from htd.modeling.salt.as_published import CoarseDeltaLoss
from tests.configs.reduced import example, reduced_model

SALT, ATSS, RETINANET, TOOD = (
    f"configs/salt/salt_{name}r50_fpn_1x.py" for name in ("", "atss_", "retinanet_", "tood_")
)
WHOLE = "give a whole number of at least"


def refusal(leaf, **values):
    """What is said when a model is built with other values, by keys with two underscores for a point."""
    config = copy.deepcopy(reduced_model(leaf))
    for key, value in values.items():
        OmegaConf.update(config, key.replace("__", "."), value, merge=False)
    with pytest.raises(UserError) as error:
        instantiate(config)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("leaf", [SALT, ATSS])
def test_a_loss_of_coarse_boxes_without_the_operator(leaf):
    towers = reduced_model(leaf).head.towers.towers
    towers = {key: 16 if key == "channels" else value for key, value in towers.items()}
    message = refusal(leaf, head__towers=towers, head__predictors__channels=16)
    assert message.startswith("model.supervision has a loss of coarse boxes, which the towers do not predict")


@pytest.mark.parametrize("leaf", [SALT, TOOD])
def test_a_loss_of_coarse_boxes_that_are_not_handed_out(leaf):
    message = refusal(leaf, head__towers__operator__coarse=False)
    assert "SALTTowers whose operator has coarse=true" in message


def test_the_operator_without_its_loss():
    config = reduced_model(ATSS)
    config.head.towers.operator.coarse = False
    config.supervision.terms.pop()
    losses = instantiate(config).train()([example(2)])
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_centerness"}


@pytest.mark.parametrize(
    ("values", "maps", "towers", "operator", "predictors"),
    [
        ({"head__towers__operator__channels": 24}, 16, 16, 24, 16),
        ({"head__towers__towers__channels": 24}, 16, 24, 16, 16),
        ({"head__predictors__channels": 24}, 16, 16, 16, 24),
        ({"backbone__out_channels": 32}, 32, 16, 16, 16),
    ],
)
@pytest.mark.parametrize("leaf", [SALT, TOOD])
def test_channels(leaf, values, maps, towers, operator, predictors):
    default = {
        "head__towers__operator__channels": 16,
        "head__towers__towers__channels": 16,
        "head__predictors__channels": 16,
    }
    assert refusal(leaf, **default | values) == (
        f"numbers of channels differ: the maps of model.backbone (out_channels) {maps}, "
        f"model.head.towers.towers.channels {towers}, model.head.towers.operator.channels {operator}, "
        f"model.head.predictors.channels {predictors}; give them all the same"
    )


@pytest.mark.parametrize("leaf", [SALT, RETINANET])
@pytest.mark.parametrize("levels", [3, 6])
def test_levels_of_the_operator(leaf, levels):
    message = refusal(leaf, head__towers__operator__num_levels=levels)
    assert message == (f"model.head.towers.operator.num_levels is {levels}, but there are 5 levels: give 5")


@pytest.mark.parametrize(("extra", "known"), [(1, None), (1, 5), (1, 3), (0, 3), (0, 5)])
def test_detections_of_classes_alone_are_kept(extra, known):
    message = refusal(SALT, head__predictors__extra_classes=extra, postprocessing__num_classes=known)
    written = "null" if known is None else known
    classes = f"model.head.predictors has 4 classes and {extra} extra_classes, but"
    assert message.startswith(f"{classes} model.postprocessing.num_classes is {written}, and")
    assert "give it 4, or, without extra_classes, null" in message


def test_operator_is_plugged_in_once_and_beside_a_box_loss():
    plug_in_salt = LazyConfig.load("configs/common/models/salt.py", "plug_in_salt")
    config = LazyConfig.load("configs/salt/salt_atss_r50_fpn_1x.py").model
    with pytest.raises(UserError, match="have the SALT operator already"):
        plug_in_salt(config)
    with pytest.raises(UserError, match="no head and supervision; take that of a dense"):
        plug_in_salt(LazyConfig.load("configs/baselines/faster_rcnn_r50_fpn_1x.py").model)
    config = LazyConfig.load("configs/baselines/atss_r50_fpn_1x.py").model
    config.supervision.terms[1].name = "loss_box"
    with pytest.raises(UserError, match="loss_box_reg, whose .* there are loss_cls, loss_box, loss_center"):
        plug_in_salt(config)


@pytest.mark.parametrize("leaf", [SALT, ATSS])
@pytest.mark.parametrize("value", [-1, 0.5, True, None])
def test_extra_classes(leaf, value):
    written = "null" if value is None else value
    message = refusal(leaf, head__predictors__extra_classes=value)
    assert message == f"model.head.predictors.extra_classes is {written}: {WHOLE} 0"


@pytest.mark.parametrize(
    ("key", "value", "least"),
    [
        ("head.predictors.topk", 0, 1),
        ("head.predictors.hidden", 0, 1),
        ("head.towers.operator.channels", None, 1),
        ("head.towers.operator.num_levels", 0, 1),
    ],
)
def test_counts(key, value, least):
    written = "null" if value is None else value
    assert refusal(SALT, **{key: value}) == f"model.{key} is {written}: {WHOLE} {least}"


@pytest.mark.parametrize("value", [-1, 1.5, None])
def test_counts_of_layers(value):
    written = "null" if value is None else value
    message = refusal(SALT, head__towers__towers__num_convs=value)
    assert message == f"num_convs of TwinTowers (model.head.towers) is {written}: {WHOLE} 0"


def test_a_deformable_last_convolution_of_none():
    message = refusal(SALT, head__towers__towers__num_convs=0, head__towers__towers__deformable_last=True)
    assert message.startswith("deformable_last of TwinTowers (model.head.towers) is true, but num_convs is 0")


def test_towers_without_convolutions():
    """The operator works on the map itself."""
    config = reduced_model(SALT)
    config.head.towers.towers.num_convs = 0
    losses = instantiate(config).train()([example(2)])
    assert all(loss.isfinite() for loss in losses.values())


def test_norms_of_few_channels():
    message = refusal(SALT, head__towers__operator__norm="GN")
    assert "norm" in message and "16 channels" in message
    message = refusal(SALT, head__towers__operator__norm=L(GroupNormOf)(num_groups=5))
    assert "num_groups is 5" in message
    assert "GroupNorm" in refusal(SALT, head__towers__operator__norm="GroupNorm")


@pytest.mark.parametrize(("box_dim", "topk"), [(12, 4), (66, 4), (68, 18)])
def test_bins_that_the_quality_is_read_from(box_dim, topk):
    message = refusal(SALT, head__predictors__box_dim=box_dim, head__predictors__topk=topk)
    assert message.startswith(f"model.head.predictors.box_dim is {box_dim}, its topk {topk}: give four times")


def test_the_published_loss_in_retinanet_goes_with_one_anchor_a_cell():
    config = reduced_model(RETINANET)
    config.supervision.terms[-1].loss = L(CoarseDeltaLoss)(transform="${.....decoder.transform}")
    with pytest.raises(UserError, match="with the deltas of 9 anchors a cell"):
        instantiate(config).train()([example(2)])
