"""tools/convert_checkpoint.py on published files of dense detectors, on narrow models of real configs."""

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from htd.checkpoint.formats import FORMATS
from htd.checkpoint.training import TrainingCheckpointer
from htd.checkpoint.weights import check_weights_file, load_whole
from htd.errors import UserError
from tests import recorded
from tools import convert_checkpoint

TOOD, ATSS = "configs/tood/tood_r50_fpn_1x.py", "configs/baselines/atss_r50_fpn_1x.py"
AUTHORS = "author_keys_tood_r50_fpn_1x"
NARROW = [
    "model.backbone.bottom_up.stem_channels=4",
    "model.backbone.bottom_up.width_per_group=4",
    "model.backbone.out_channels=8",
    "model.head.towers.channels=8",
    "model.head.towers.num_groups=4",
    "model.head.predictors.channels=8",
]


@pytest.fixture(scope="module")
def model():
    return instantiate(LazyConfig.apply_overrides(LazyConfig.load(TOOD), NARROW).model)


@pytest.fixture(params=["tood_r50_fpn_1x", AUTHORS])
def source(request, tmp_path, model):
    """A file with the names of a release, with random values in the shapes of the narrow model."""
    torch.manual_seed(0)
    own, weights = model.state_dict(), {}
    for key in recorded.manifest("tood", request.param)["entries"]:
        shape = own[FORMATS["tood"].place(key)[0]].shape
        weights[key] = torch.tensor(0) if key.endswith("tracked") else torch.randn(shape)
    torch.save({"meta": {"epoch": 12}, "state_dict": weights}, tmp_path / "published.pth")
    return tmp_path / "published.pth"


def command(config, source, target):
    convert_checkpoint.main(["--config-file", config, str(source), str(target), *NARROW])


def test_converted_file_is_loaded_by_the_engine(model, source, tmp_path, capsys):
    target = tmp_path / "ours.pth"
    with pytest.raises(UserError, match=rf"\(TOOD\) .* convert them .* --config-file {TOOD} "):
        check_weights_file(str(source), TOOD)

    command(TOOD, source, target)
    said = capsys.readouterr().out
    size = len(model.state_dict())
    assert "source format: TOOD (tood)" in said and f"{size} of the model's {size} tensors" in said
    check_weights_file(str(target), TOOD)
    load_whole(TrainingCheckpointer(model), str(target), everything=False)
    published = torch.load(source)["state_dict"]
    assert torch.equal(model.head.predictors.cls_score.bias, published["bbox_head.tood_cls.bias"])
    assert torch.equal(model.head.predictors.scales[4], published["bbox_head.scales.4.scale"])


def test_config_of_another_system_leaves_no_output(source, tmp_path):
    with pytest.raises(UserError, match=f"published.pth for {ATSS}: TOOD weights do not fit") as caught:
        command(ATSS, source, tmp_path / "ours.pth")
    assert "is of TOOD, the model of ATSS; configs that fit the file: configs/tood/" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["published.pth"]
