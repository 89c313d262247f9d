"""tools/convert_checkpoint.py from file to file, on narrow models of real configs."""

import os

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate

from htd.checkpoint import convert
from htd.checkpoint.formats import FORMATS
from htd.checkpoint.training import TrainingCheckpointer
from htd.checkpoint.weights import check_weights_file, load_whole
from htd.errors import UserError, run_cli
from tests import recorded
from tools import convert_checkpoint

R50, R101 = "configs/htd/htd_r50_fpn_1x.py", "configs/htd/htd_r101_fpn_2x.py"
R50_MASK, HTC = "configs/htd/htd_mask_r50_fpn_1x.py", "configs/htc/htc_r50_fpn_1x.py"
HEADS = "model.roi_heads.stages"
NARROW_BODY = [
    "model.backbone.bottom_up.stem_channels=4",
    "model.backbone.bottom_up.width_per_group=4",
]
NARROW = [
    *NARROW_BODY,
    f"{HEADS}.0.head.fc_dims=[4,4]",
    f"{HEADS}.1.head.classification.fc_dims=[4,4]",
    f"{HEADS}.1.head.classification.graph.dim=4",
    f"{HEADS}.1.head.regression.tower.hidden=36",
    f"{HEADS}.1.head.regression.tower.out_channels=4",
]
NARROW_HTC = [*NARROW_BODY, *(f"{HEADS}.{stage}.head.fc_dims=[4,4]" for stage in range(3))]
THREE_CLASSES = "model.roi_heads.num_classes=3"


def narrow_model(*more, config=R50, overrides=NARROW):
    return instantiate(LazyConfig.apply_overrides(LazyConfig.load(config), [*overrides, *more]).model)


def published(spec, form, model):
    """Return random values under the names of a manifest, with the shapes of a model."""
    torch.manual_seed(0)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    alias, found = spec.get("alias", {}), {}
    for key in spec["entries"]:
        name, _ = FORMATS[form].place(alias.get(key, key))
        found[key] = torch.tensor(0) if name.endswith("tracked") else torch.randn(shapes[name])
    return found | {second: found[first] for second, first in alias.items()}


@pytest.fixture(scope="module")
def weights():
    """Published names with the shapes of the narrow model."""
    return published(recorded.manifest("htd", "manifest_r50"), "htd", narrow_model())


def save(weights, path):
    torch.save({"meta": {"epoch": 12}, "state_dict": weights, "optimizer": {"lr": 0.1}}, path)
    return path


@pytest.fixture
def source(tmp_path, weights):
    return save(weights, tmp_path / "published.pth")


def command(config, source, target, *more, overrides=NARROW):
    convert_checkpoint.main(["--config-file", config, str(source), str(target), *overrides, *more])


def test_converted_file_fills_the_whole_model(tmp_path, weights, source, capsys):
    target = tmp_path / "ours.pth"
    command(R50, source, target)
    said = capsys.readouterr().out
    assert "source format: HTD (htd)" in said and "filled from the file: 388 of the model's 388" in said
    assert f"written: {target}" in said
    model = narrow_model()
    DetectionCheckpointer(model).load(str(target))
    state = model.state_dict()
    assert torch.equal(
        state["roi_heads.stages.0.head.fcs.1.weight"], weights["roi_head.bbox_head.0.shared_fcs.1.weight"]
    )
    contents = torch.load(target, weights_only=True)
    assert contents["model"].keys() == state.keys()
    assert (contents["source_format"], contents["source_file"]) == ("htd", "published.pth")


def test_new_predictors_for_other_classes(tmp_path, source, capsys):
    target = tmp_path / "ours.pth"
    parts = ["roi_heads.stages.0.head.cls_score", "roi_heads.stages.1.head.classification.cls_score"]
    parts.append("roi_heads.context.global_vector.fc")
    command(R50, source, target, "--new", *parts, overrides=[*NARROW, THREE_CLASSES])
    assert "begin anew: 6 (roi_heads.context 2, roi_heads.stages 4)" in capsys.readouterr().out
    narrow_model(THREE_CLASSES).load_state_dict(torch.load(target, weights_only=True)["model"], strict=True)


def test_mask_branch_beside_published_parts(tmp_path, source, capsys):
    target = tmp_path / "ours.pth"
    with pytest.raises(UserError, match=r"no mask branch: .* give --new roi_heads\.mask_branch\."):
        command(R50_MASK, source, target)
    assert not target.exists()
    command(R50_MASK, source, target, "--new", "roi_heads.mask_branch")
    assert "begin anew: 12 (roi_heads.mask_branch 12)" in capsys.readouterr().out
    model, converted = narrow_model(config=R50_MASK), torch.load(target, weights_only=True)["model"]
    model.load_state_dict(converted, strict=True)
    assert converted["roi_heads.mask_branch.heads.0.deconv.weight"].std() > 0


def test_what_begins_anew_is_the_same_in_each_file(tmp_path, source):
    found = []
    for name, state in (("first.pth", 1), ("second.pth", 2)):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        command(R50_MASK, source, tmp_path / name, "--new", "roi_heads.mask_branch")
        assert torch.equal(torch.get_rng_state(), before)
        found.append(torch.load(tmp_path / name, weights_only=True)["model"])
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_converted_htc_is_loaded_by_the_engine(tmp_path, capsys):
    model, found = (narrow_model(config=HTC, overrides=NARROW_HTC) for _ in range(2))
    weights = published(recorded.manifest("htc", "htc_r50"), "htc", model)
    source, target = save(weights, tmp_path / "published.pth"), tmp_path / "ours.pth"
    with pytest.raises(UserError, match=rf"\(HTC\) .* convert them first: .* --config-file {HTC} "):
        check_weights_file(str(source), HTC)

    command(HTC, source, target, overrides=NARROW_HTC)
    assert "source format: HTC (htc)" in capsys.readouterr().out
    check_weights_file(str(target), HTC)
    load_whole(TrainingCheckpointer(found), str(target), everything=False)
    converted, _ = convert(weights, model)
    assert all(torch.equal(value, converted[name]) for name, value in found.state_dict().items())
    flow = found.roi_heads.mask_branch.flow.transforms[0].weight
    assert torch.equal(flow, weights["roi_head.mask_head.1.conv_res.conv.weight"])


class Bomb:
    """Would make a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("exploded",)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


def arm(path):
    torch.save({"state_dict": torch.load(path)["state_dict"], "meta": Bomb()}, path)


def make_foreign(path):
    torch.save({"state_dict": {"bbox_head.reppoints_cls_out.weight": torch.zeros(1)}}, path)


def leave(path):
    pass


@pytest.mark.parametrize(
    ("config", "damage", "more", "message"),
    [
        (
            R101,
            leave,
            NARROW,
            "has a ResNet-50, the model a ResNet-101; configs that fit the file: .*r50_fpn_",
        ),
        (R50, leave, [*NARROW, THREE_CLASSES], "81 rows in the file and 4 in the model"),
        (R50, truncate, NARROW, "truncated"),
        (R50, arm, NARROW, "would run code: it asks to call posix.mkdir"),
        (R50, make_foreign, NARROW, "those of another detector of MMDetection: no key map"),
        ("configs/htd/absent.py", leave, NARROW, "does not exist"),
    ],
)
def test_error_leaves_no_output(tmp_path, monkeypatch, source, config, damage, more, message):
    damage(source)
    target = tmp_path / "ours.pth"
    for old in (None, "old"):
        if old:
            target.write_text(old)
        with pytest.raises(UserError, match=message):
            command(config, source, target, overrides=more)
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {"published.pth"} | ({"ours.pth"} if old else set())
    assert target.read_text() == "old" and not os.path.exists("exploded")


def test_error_on_the_command_line(tmp_path, monkeypatch, capsys):
    arguments = [
        "convert_checkpoint.py",
        "--config-file",
        R50,
        str(tmp_path / "in.pth"),
        str(tmp_path / "out.pth"),
    ]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        run_cli(convert_checkpoint.main)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: there is no checkpoint file {tmp_path / 'in.pth'}\n"
