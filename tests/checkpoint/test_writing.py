"""Writing files: whole or not at all, and so that Detectron2 loads them."""

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer

from htd.checkpoint import check_output, convert, write_checkpoint
from htd.errors import UserError
from tests.checkpoint.tiny import build, published


def test_detectron2_loads_it_completely(tmp_path):
    model = build()
    converted, report = convert(published(), model)
    write_checkpoint(tmp_path / "out.pth", converted, source_format=report.format)
    contents = torch.load(tmp_path / "out.pth", weights_only=True)
    assert set(contents) == {"model", "source_format"} and contents["source_format"] == "htd"
    fresh = build()
    DetectionCheckpointer(fresh).load(str(tmp_path / "out.pth"))
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, converted[name])


def test_outputs_that_are_refused_before_any_work(tmp_path):
    source = tmp_path / "in.pth"
    source.write_text("")
    (tmp_path / "folder.pth").mkdir()
    assert check_output(tmp_path / "out.pth", source) == tmp_path / "out.pth"
    for name, text in {
        "out.pkl": "has to end in .pth",
        "folder.pth": "is a folder",
        "absent/out.pth": "does not exist",
        "in.pth": "is the input",
    }.items():
        with pytest.raises(UserError, match=text):
            check_output(tmp_path / name, source)
