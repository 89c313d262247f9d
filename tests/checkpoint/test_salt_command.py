"""tools/convert_checkpoint.py on a published SALT-Net, on a narrow model of its config."""

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from htd.checkpoint.formats import FORMATS
from htd.checkpoint.training import TrainingCheckpointer
from htd.checkpoint.weights import check_weights_file, load_whole
from htd.errors import UserError
from tests import recorded
from tools import convert_checkpoint

CONFIG = "configs/salt/salt_r50_fpn_1x.py"
FORM = FORMATS["salt"]
NARROW = [
    "model.backbone.bottom_up.stem_channels=4",
    "model.backbone.bottom_up.width_per_group=4",
    "model.backbone.out_channels=32",
    "model.head.towers.towers.channels=32",
    "model.head.towers.towers.num_groups=4",
]


@pytest.fixture(scope="module")
def model():
    return instantiate(LazyConfig.apply_overrides(LazyConfig.load(CONFIG), [*NARROW, *FORM.overrides]).model)


@pytest.fixture
def source(tmp_path, model):
    """A file with the published names and random values in the shapes of the narrow model."""
    torch.manual_seed(0)
    own, weights = model.state_dict(), {"bbox_head.integral.project": torch.arange(17.0)}
    for key in recorded.manifest("salt", "manifest_salt_r50_fpn_1x")["entries"].keys() - weights.keys():
        shape = own[FORM.place(key)[0]].shape
        weights[key] = torch.tensor(0) if key.endswith("tracked") else torch.randn(shape)
    torch.save({"meta": {"epoch": 12}, "state_dict": weights}, tmp_path / "published.pth")
    return tmp_path / "published.pth"


def command(source, target, *overrides):
    convert_checkpoint.main(["--config-file", CONFIG, str(source), str(target), *NARROW, *overrides])


def test_converted_file_is_loaded_by_the_engine(model, source, tmp_path, capsys):
    target = tmp_path / "ours.pth"
    with pytest.raises(UserError, match=rf"\(SALT-Net\) .* convert them .* --config-file {CONFIG} "):
        check_weights_file(str(source), CONFIG)

    command(source, target, *FORM.overrides)
    said, size = capsys.readouterr().out, len(model.state_dict())
    assert "source format: SALT-Net (salt)" in said and f"{size} of the model's {size} tensors" in said
    assert "ignored: 1 (the numbers 0, 1, 2, ... of the bins)" in said
    check_weights_file(str(target), CONFIG)
    load_whole(TrainingCheckpointer(model), str(target), everything=False)
    published = torch.load(source)["state_dict"]
    assert torch.equal(model.head.predictors.cls_score.bias, published["bbox_head.salt_cls.bias"])
    assert torch.equal(model.head.towers.operator.scales[4], published["bbox_head.scales_init.4.scale"])


def test_without_the_override_the_message_names_it(source, tmp_path):
    with pytest.raises(UserError, match=f"published.pth for {CONFIG}: SALT-Net weights do not fit") as caught:
        command(source, tmp_path / "ours.pth")
    assert f"override the config by {FORM.overrides[0]}" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["published.pth"]
