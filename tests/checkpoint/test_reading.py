"""Reading files of others: nothing in them is run, and what is broken is said to be."""

import datetime
import os
import pathlib
import pickle
import subprocess
import sys
import tarfile
import types
import zipfile

import numpy as np
import pytest
import torch

from htd.checkpoint import find_unconverted, read_checkpoint, state_dict_of
from htd.errors import UserError
from tests import recorded
from tests.checkpoint.tiny import published

LEGACY = [False, True]


def save(contents, path, legacy=False):
    torch.save(contents, path, _use_new_zipfile_serialization=not legacy)
    return path


class Bomb:
    """Asks for a call when it is unpickled."""

    def __init__(self, call, *args):
        self.call = call, args

    def __reduce__(self):
        return self.call


def make_mark(path):
    """Show that code was run."""
    pathlib.Path(path).write_text("run")


CALLS = {
    "system": lambda mark: Bomb(os.system, f"touch {mark}"),
    "process": lambda mark: Bomb(subprocess.Popen, ["touch", str(mark)]),
    "eval": lambda mark: Bomb(eval, f"open({str(mark)!r}, 'w')"),
    "import": lambda mark: Bomb(__import__, "this"),
    "attribute": lambda mark: Bomb(getattr, "text", "upper"),
    "own function": lambda mark: Bomb(make_mark, str(mark)),
    "torch.load": lambda mark: Bomb(torch.load, str(mark)),
}


@pytest.mark.parametrize("legacy", LEGACY)
@pytest.mark.parametrize("call", CALLS)
def test_call_in_a_file_is_refused_and_not_made(tmp_path, call, legacy):
    mark = tmp_path / "mark"
    contents = {"state_dict": published(), "meta": {"note": CALLS[call](mark)}}
    path = save(contents, tmp_path / "bad.pth", legacy)
    with pytest.raises(UserError, match="would run code: it asks to call"):
        read_checkpoint(path)
    assert not mark.exists() and "this" not in sys.modules


def test_plain_pickle_is_refused_too(tmp_path):
    path = tmp_path / "bad.pth"
    path.write_bytes(pickle.dumps(CALLS["system"](tmp_path / "mark")))
    with pytest.raises(UserError, match="would run code: it asks to call posix.system"):
        read_checkpoint(path)
    assert not (tmp_path / "mark").exists()


def unknown_objects():
    """Return objects of a module that cannot be imported again."""
    module = types.ModuleType("gone_library")
    source = (
        "class Config(dict):\n    pass\n"
        "class Names(list):\n    pass\n"
        "class Plain:\n    def __init__(self):\n        self.value = 1\n"
        "def function():\n    pass\n"
    )
    exec(source, module.__dict__)
    for name in ("Config", "Names", "Plain", "function"):
        getattr(module, name).__module__ = "gone_library"
    sys.modules["gone_library"] = module
    return [module.Config(a=1), module.Names([1, 2]), module.Plain(), module.function]


@pytest.mark.parametrize("legacy", LEGACY)
def test_unknown_classes_in_meta_become_placeholders(tmp_path, legacy):
    meta = {
        "epoch": 12,
        "CLASSES": ("person", "bicycle"),
        "objects": unknown_objects(),
        "time": datetime.datetime(2020, 1, 2),
        "path": pathlib.PurePosixPath("a/b"),
        "scalar": np.float64(3.0),
        "array": np.arange(3),
        "set": {1, 2},
        "dtype": torch.float16,
    }
    path = save({"meta": meta, "state_dict": published()}, tmp_path / "file.pth", legacy)
    del sys.modules["gone_library"]
    contents = read_checkpoint(path)
    assert "gone_library" not in sys.modules
    assert contents["meta"]["CLASSES"] == ("person", "bicycle") and contents["meta"]["set"] == {1, 2}
    weights = state_dict_of(contents, path)
    assert all(torch.equal(weights[key], value) for key, value in published().items())


@pytest.mark.parametrize("legacy", LEGACY)
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_truncated_file(tmp_path, kept, legacy):
    path = save({"state_dict": published()}, tmp_path / "file.pth", legacy)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(UserError, match="download it again"):
        read_checkpoint(path)


def test_compressed_file_is_read_right(tmp_path):
    weights = {"state_dict": {"backbone.conv1.weight": torch.arange(1000.0)}}
    stored = save(weights, tmp_path / "stored.pth")
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(stored) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert torch.equal(read_checkpoint(packed)["state_dict"]["backbone.conv1.weight"], torch.arange(1000.0))


def test_other_files(tmp_path):
    text = tmp_path / "page.pth"
    text.write_text("<html>not found</html>")
    with pytest.raises(UserError, match="no PyTorch checkpoint"):
        read_checkpoint(text)
    with pytest.raises(UserError, match="there is no checkpoint file"):
        read_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(UserError, match="holds a list"):
        read_checkpoint(save([1], tmp_path / "list.pth"))
    with tarfile.open(tmp_path / "tar.pth", "w") as tar:
        tar.add(text)
    with pytest.raises(UserError, match="tar archive"):
        read_checkpoint(tmp_path / "tar.pth")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript_program_is_not_loaded(tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.Identity(), torch.zeros(1)), tmp_path / "program.pth")
    with pytest.raises(UserError, match="TorchScript"):
        read_checkpoint(tmp_path / "program.pth")


@pytest.mark.parametrize("contents", [{"state_dict": {}}, {"state_dict": 3}, {}])
def test_no_weights(contents):
    with pytest.raises(UserError, match="file.pth holds no weights"):
        state_dict_of(contents, "file.pth")


def test_entries_that_are_no_tensors():
    with pytest.raises(UserError, match="file.pth: .* no tensors: meta, optimizer"):
        state_dict_of({"meta": 1, "optimizer": {}, "weight": torch.zeros(1)}, "file.pth")


class TestDescribeUnconverted:
    """Whether a file that is to be loaded was forgotten to be converted."""

    @pytest.mark.parametrize("legacy", LEGACY)
    def test_published_file(self, tmp_path, legacy):
        assert find_unconverted(save({"state_dict": published()}, tmp_path / "a.pth", legacy)).title == "HTD"

    def test_wrapped_and_foreign_files(self, tmp_path):
        wrapped = {f"module.{key}": value for key, value in published().items()}
        assert find_unconverted(save(wrapped, tmp_path / "a.pth")).title == "HTD"
        foreign = {"state_dict": {"bbox_head.reppoints_cls_out.weight": torch.zeros(1)}}
        assert find_unconverted(save(foreign, tmp_path / "b.pth")).title == "another detector of MMDetection"

    @pytest.mark.parametrize(
        ("name", "prefix", "title"),
        [
            ("htc/htc_r50", "", "HTC"),
            ("htc/htc_r50", "module.", "HTC"),
            ("htc/htc_without_semantic_r50", "", "HTC without semantics"),
            ("htc/cascade_mask_rcnn_r50", "", "Cascade Mask R-CNN"),
            ("htc/mask_rcnn_r50", "", "Mask R-CNN"),
            ("tsd/manifest_faster_rcnn_r50_fpn_TSD_1x", "module.", "TSD on Faster R-CNN"),
            ("tsd/manifest_mask_rcnn_r50_fpn_TSD_1x", "", "TSD on Mask R-CNN"),
            ("tsd/manifest_cascade_rcnn_r50_fpn_TSD_20e", "", "TSD on Cascade R-CNN"),
            ("tsd/manifest_openimages_r50_fpn_classsampling", "", "Faster R-CNN of MMDetection 1"),
        ],
    )
    def test_published_files(self, tmp_path, name, prefix, title):
        keys = [prefix + key for key in recorded.manifest(*name.split("/"))["entries"]]
        path = save({"state_dict": dict.fromkeys(keys, torch.zeros(1))}, tmp_path / "a.pth")
        assert find_unconverted(path) == (title, "")

    def test_file_of_2019_is_refused_with_the_reason(self, tmp_path):
        weights = {"state_dict": {"mask_head.0.upsample.weight": torch.zeros(1)}}
        title, advice = find_unconverted(save(weights, tmp_path / "a.pth"))
        assert (
            title == "Mask R-CNN, Cascade R-CNN or HTC of MMDetection 1" and "RoIAlign is shifted" in advice
        )

    def test_our_own_files(self, tmp_path):
        own = {"model": {"backbone.bottom_up.stem.conv1.weight": torch.zeros(1)}, "iteration": 3}
        assert find_unconverted(save(own, tmp_path / "a.pth")) is None
        other = {"model": {"encoder.weight": torch.zeros(1)}}
        assert find_unconverted(save(other, tmp_path / "b.pth")) is None

    @pytest.mark.parametrize("path", ["", "imagenet://torchvision/resnet50", "https://a/b.pth", "a/b.pkl"])
    def test_what_is_no_local_file(self, path):
        assert find_unconverted(path) is None

    def test_detectron2s_pickles_are_not_opened(self, tmp_path):
        (tmp_path / "a.pkl").write_bytes(b"anything")
        assert find_unconverted(tmp_path / "a.pkl") is None

    def test_damaged_file(self, tmp_path):
        (tmp_path / "a.pth").write_bytes(b"PK\3\4")
        with pytest.raises(UserError, match="damaged"):
            find_unconverted(tmp_path / "a.pth")
