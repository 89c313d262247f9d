"""Weights of a dense detector do not go into one that makes other boxes of the same numbers."""

import pytest
import torch

from htd.checkpoint.training import BOX_DECODER, TrainingCheckpointer
from htd.checkpoint.weights import load_whole
from htd.engine.run import start_from
from htd.errors import UserError
from tests.configs.leaves import config_of
from tests.configs.reduced import build

FREE, BASED = (f"configs/tood/tood_r50_fpn_{form}1x.py" for form in ("", "anchor_based_"))
IN_FCOS = "configs/tood/tood_fcos_r50_fpn_1x.py"
ATSS = "configs/baselines/atss_r50_fpn_1x.py"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint of an anchor-free TOOD."""
    folder = tmp_path_factory.mktemp("run")
    TrainingCheckpointer(build(FREE), str(folder)).save_model("model")
    return str(folder / "model.pth")


def test_files_name_the_decoder(saved):
    assert torch.load(saved)[BOX_DECODER] == "SampledBoxDecoder(DistanceDecoder(in_cells=True))"
    assert TrainingCheckpointer(build(ATSS)).box_decoder == "DeltaDecoder"
    assert TrainingCheckpointer(torch.nn.Linear(1, 1)).box_decoder is None


@pytest.mark.parametrize(
    ("leaf", "decoder"),
    [(BASED, r"SampledBoxDecoder\(DeltaDecoder\)"), (IN_FCOS, r"DistanceDecoder\(in_cells=False\)")],
)
def test_another_decoder_is_refused(saved, leaf, decoder):
    for load in (
        lambda model: load_whole(TrainingCheckpointer(model), saved, everything=False),
        lambda model: start_from(TrainingCheckpointer(model), saved, config_of(leaf).model),
    ):
        with pytest.raises(UserError, match=rf"model.pth is of a model that decodes boxes by .*{decoder}"):
            load(build(leaf))


def test_the_same_decoder_is_taken_whether_it_repairs_or_not(saved):
    model = build(FREE)
    model.decoder.repair = False
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    load_whole(TrainingCheckpointer(model), saved, everything=False)
    assert model.head.predictors.cls_score.weight.any()


def test_files_that_do_not_tell_are_taken(saved, tmp_path):
    contents = torch.load(saved)
    del contents[BOX_DECODER]
    silent = tmp_path / "silent.pth"
    torch.save(contents, silent)
    load_whole(TrainingCheckpointer(build(BASED)), str(silent), everything=False)
