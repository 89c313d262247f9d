"""tools/convert_checkpoint.py on a published TSD file, on a narrow model of a real config."""

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from htd.checkpoint.formats import FORMATS
from htd.checkpoint.formats.class_order import without_background, without_background_box
from htd.checkpoint.training import TrainingCheckpointer
from htd.checkpoint.weights import check_weights_file, load_whole
from htd.errors import UserError
from tests import recorded
from tools import convert_checkpoint

MASK, CONTINUOUS = "configs/tsd/tsd_mask_r50_fpn_1x.py", "configs/tsd/tsd_faster_r50_fpn_1x_continuous.py"
STAGE = "model.roi_heads.stages.0.head"
NARROW = [
    "model.backbone.bottom_up.stem_channels=4",
    "model.backbone.bottom_up.width_per_group=4",
    f"{STAGE}.trunk_dim=4",
    *(f"{STAGE}.{tower}.fc_dims=[4,4]" for tower in ("sibling", "classification", "regression")),
]
# Rows that published tensors have beyond ours.
BEYOND = {without_background: 1, without_background_box: 4}


@pytest.fixture(scope="module")
def model():
    return instantiate(LazyConfig.apply_overrides(LazyConfig.load(MASK), NARROW).model)


@pytest.fixture
def source(tmp_path, model):
    """A file with the published names, with random values in the shapes of the narrow model."""
    torch.manual_seed(0)
    keys = recorded.manifest("tsd", "manifest_mask_rcnn_r50_fpn_TSD_1x")["entries"]
    own, weights = model.state_dict(), {}
    for key in keys:
        name, rule = FORMATS["tsd_mask"].place(key, keys)
        shape = list(own[name].shape)
        shape[:1] = [size + BEYOND.get(rule.transform, 0) for size in shape[:1]]
        weights[key] = torch.randn(shape) if shape else torch.tensor(0)
    torch.save({"meta": {"epoch": 14}, "state_dict": weights}, tmp_path / "published.pth")
    return tmp_path / "published.pth"


def command(config, source, target):
    convert_checkpoint.main(["--config-file", config, str(source), str(target), *NARROW])


def test_converted_file_is_loaded_by_the_engine(model, source, tmp_path, capsys):
    target = tmp_path / "ours.pth"
    with pytest.raises(UserError, match=rf"\(TSD on Mask R-CNN\) .* convert them .* --config-file {MASK} "):
        check_weights_file(str(source), MASK)

    command(MASK, source, target)
    assert "source format: TSD on Mask R-CNN (tsd_mask)" in capsys.readouterr().out
    check_weights_file(str(target), MASK)
    load_whole(TrainingCheckpointer(model), str(target), everything=False)
    continuous = instantiate(LazyConfig.apply_overrides(LazyConfig.load(CONTINUOUS), NARROW).model)
    with pytest.raises(UserError, match="ours.pth was trained with InclusiveBoxes, but"):
        load_whole(TrainingCheckpointer(continuous), str(target), everything=False)
    published, head = torch.load(source)["state_dict"], model.roi_heads.stages[0].head
    scores = published["bbox_head.TSD_fc_cls.bias"]
    assert torch.equal(head.classification.cls_score.bias[-1], scores[0])
    assert torch.equal(head.classification.cls_score.bias[:-1], scores[1:])
    assert torch.equal(head.sibling.bbox_pred.weight, published["bbox_head.fc_reg.weight"][4:])


def test_config_with_other_boxes_leaves_no_output(source, tmp_path):
    with pytest.raises(UserError, match=rf"{CONTINUOUS}: .*a pixel off; configs that fit the file: {MASK}$"):
        command(CONTINUOUS, source, tmp_path / "ours.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["published.pth"]
