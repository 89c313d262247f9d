"""Reading, overriding and writing configs."""

import builtins

import pytest

from htd.engine.config import config_text, load_config, save_config
from htd.errors import UserError
from tests.engine.tiny import TINY

TSD = "configs/tsd/tsd_faster_r50_fpn_1x.py"
OPEN_IMAGES = "configs/tsd/tsd_faster_r50_fpn_openimages.py"
VIEWS = "configs/tsd/tsd_faster_x101_64x4d_fpn_dcn_ms.py"


def test_saved_config_loads_again_with_the_same_text(tmp_path):
    config = load_config(TINY, ["train.max_iter=20", "optimizer.lr=0.5", "train.clip_grad_norm=35"])
    save_config(config, tmp_path / "config.yaml")
    again = load_config(str(tmp_path / "config.yaml"))
    assert config_text(again) == config_text(config)
    assert again.lr_multiplier.max_iter == 20
    assert "${train.max_iter}" in config_text(again)


def test_overrides_set_lists_added_keys_and_arguments_that_the_config_does_not_name():
    overrides = ["lr_multiplier.milestones=[0.5]", "+train.note=hello", "optimizer.nesterov=true"]
    config = load_config(TINY, overrides)
    assert config.lr_multiplier.milestones == [0.5]
    assert (config.train.note, config.optimizer.nesterov) == ("hello", True)


@pytest.mark.parametrize(
    "override, text",
    [
        ("optimizer.lrr=1", "unknown key 'optimizer.lrr'.*did you mean optimizer.lr?"),
        ("max_iter=1", "did you mean lr_multiplier.max_iter or train.max_iter?"),
        ("nonsense.x=1", "unknown key 'nonsense.x'"),
        ("train.max_iter=soon", "wants a whole number"),
        ("train.max_iter=1.5", "wants a whole number"),
        ("train.amp.enabled=maybe", "wants true or false"),
        ("optimizer.lr=fast", "wants a number"),
        ("train.output_dir=[1]", "wants a text"),
        ("lr_multiplier.milestones=0.5", "wants a list"),
        ("train.amp=on", "wants one of its keys"),
        ("MODEL.WEIGHTS", "write key=value"),
        ("~train.seed", "do not exist"),
        ("train.seed=1,2", "do not exist"),
        ("train.max_iter=0", "at least 1"),
        ("train.amp.dtype=7", "bf16 and fp16"),
        ("dataloader.train.total_batch_size=-2", "at least 1"),
        ("dataloader.train.num_workers=[1,2]", "wants a whole number"),
        ("train.output_dir=", "train.output_dir is empty"),
        ("train.output_dir=null", "no value for train.output_dir"),
        ("model=null", "no value for model:"),
        ("optimizer=null", "no value for optimizer.params"),
        ("model.width=wide", "wants a whole number"),
    ],
)
def test_overrides_that_do_not_fit_are_named(override, text):
    with pytest.raises(UserError, match=text):
        load_config(TINY, override.split())


STAGE = "model.roi_heads.stages.0"


@pytest.mark.parametrize(
    "override, text",
    [
        (f"{STAGE}.head.shift_facto=0.2", f"did you mean {STAGE}.head.shift_factor"),
        ("model.roi_heads.stages.3.head.shift_factor=0.2", "; model.roi_heads.stages has 1, counted from 0$"),
        (f"{STAGE}.losses.constraints.2=1", f"; {STAGE}.losses.constraints has 2, counted from 0$"),
    ],
)
def test_keys_in_lists_are_searched(override, text):
    with pytest.raises(UserError, match=text):
        load_config(TSD, [override])


def test_null_is_taken_where_it_stands_for_something():
    keys = ["dataloader.train.sample_order", "dataloader.test.dataset.sizes_file", "dataloader.evaluator"]
    load_config(OPEN_IMAGES, [f"{key}=null" for key in keys])
    assert (
        load_config(TSD, [f"{STAGE}.losses.constraints=[]"]).model.roi_heads.stages[0].losses.constraints
        == []
    )
    # There or not, null leaves it out.
    for leaf in (TSD, VIEWS):
        assert load_config(leaf, ["test_time_augmentation=null"]).test_time_augmentation is None
    with pytest.raises(UserError, match="unknown key 'test_time_augmentation'"):
        load_config(TSD, ["test_time_augmentation=1"])


def test_values_of_another_kind_that_are_taken_pass():
    leaf = "configs/htd/htd_r50_fpn_1x.py"
    size = "dataloader.train.mapper.augmentations.0.short_edge_length"
    config = load_config(leaf, [f"{size}=[400,600]", "train.vis_period=null"])
    assert config.dataloader.train.mapper.augmentations[0].short_edge_length == [400, 600]
    assert load_config(leaf, [f"{size}=[4,6]", f"{size}=600"]).train.vis_period == 1000
    assert load_config(leaf, ["train.checkpointer.max_to_keep=null"]).train.checkpointer.max_to_keep is None
    for wrong in (f"{size}=big", "dataloader.train.mapper.augmentations.1.prob=[1,2]"):
        with pytest.raises(UserError, match="does not fit"):
            load_config(leaf, [wrong])


def test_variable_with_an_interpolation_is_named_when_the_config_is_saved(tmp_path):
    config = load_config("configs/htd/htd_r50_fpn_1x.py", [])
    config.heads = {"part": {"num_classes": "${..there_is_none}"}}
    with pytest.raises(UserError, match=r"heads\.part\.num_classes refers to .* call it _heads"):
        save_config(config, tmp_path / "config.yaml")


def test_missing_file_names_a_near_one():
    with pytest.raises(UserError, match="tiny_confg.py does not exist; did you mean .*tiny_config.py"):
        load_config("tests/engine/tiny_confg.py")


@pytest.mark.parametrize(
    "name, content, text",
    [
        ("c.txt", "", "neither a .py nor a .yaml"),
        ("c.py", "x = 1\ny = 1 +\n", r"cannot be read: SyntaxError: invalid syntax \(.*c.py, line 2\)"),
        ("c.py", "from .c2 import x\n", r"cannot be read: SyntaxError: .* \(.*c2.py, line 2\)"),
        ("c.py", "import math\nmath.sqrt(-1)\n", r"cannot be read: ValueError: .*c.py, line 2\)"),
        (
            "c.py",
            "from htd.errors import UserError\nraise UserError('x: wrong. Do y')\n",
            "cannot be read: x: wrong. Do y$",
        ),
        ("c.py", "import no_such_module\n", "cannot be read: ModuleNotFoundError: .*c.py, line 1"),
        (
            "c.py",
            "train = dict(max_iter=1)\n",
            "lacks model, dataloader, optimizer, lr_multiplier; give a leaf",
        ),
        ("c.yaml", "MODEL:\n  WEIGHTS: x\n", "older system"),
        ("c.yaml", "- 1\n", "has to be a mapping"),
        ("c.yaml", "a: [\n", r"cannot be read: YAML: .*c.yaml, line 2\)"),
        ("c.yaml", "", "holds no config"),
        (
            "c.yaml",
            "{train: {}, model: {a: 1}, dataloader: {}, optimizer: {}, lr_multiplier: {}}",
            "no value for dataloader.train, optimizer.params, train.output_dir, train.init_checkpoint",
        ),
    ],
)
def test_files_that_are_no_config_are_refused(tmp_path, name, content, text):
    (tmp_path / name).write_text(content)
    (tmp_path / "c2.py").write_text("\nx = (\n")
    before = builtins.__import__
    with pytest.raises(UserError, match=text):
        load_config(str(tmp_path / name))
    assert builtins.__import__ is before
