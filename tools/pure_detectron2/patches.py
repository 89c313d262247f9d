"""The changes that let Detectron2 0.5 run without compiled code on today's Python, NumPy, Pillow, torch."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

VERSION = "0.5+pure.1"


class PatchError(Exception):
    """The source is not the one that the patches were written for."""


class Patch(NamedTuple):
    """Replace ``old``, which must occur exactly ``count`` times in ``file``, by ``new``."""

    file: str
    old: str
    new: str
    count: int
    why: str


NO_C_FILE = "detectron2/layers/_no_C.py"
NO_C_SOURCE = '''\
"""Stands in for the compiled module detectron2._C, which this build of Detectron2 does not have."""


class _NoC:
    """Any operator that is asked for raises an error that says how to get it."""

    def __getattr__(self, name):
        if name.startswith("__"):  # what Python itself asks of any object, as in copy or inspect
            raise AttributeError(name)
        raise RuntimeError(
            f"detectron2._C.{name} is compiled code and this is the pure-Python build of Detectron2. "
            "Install the official Detectron2 from https://github.com/facebookresearch/detectron2 "
            "to use this operator."
        )


_C = _NoC()
'''

_IMPORT_C = "from detectron2 import _C\n"
_TRY_IMPORT_C = """\
try:
    from detectron2 import _C
except ImportError:
    from detectron2.layers._no_C import _C
"""
_IMPORT_OPT = "from detectron2.evaluation.fast_eval_api import COCOeval_opt\n"
_LAST_EVAL_IMPORT = "from .evaluator import DatasetEvaluator\n"
_TRY_IMPORT_OPT = """\

try:
    from detectron2.evaluation.fast_eval_api import COCOeval_opt
except ImportError:
    COCOeval_opt = COCOeval
"""
_SCHEDULER = "torch.optim.lr_scheduler._LRScheduler"
_RESOURCE = """\
    cfg_file = pkg_resources.resource_filename(
        "detectron2.model_zoo", os.path.join("configs", config_path)
    )
"""
_BESIDE = """\
    cfg_file = os.path.join(os.path.dirname(os.path.abspath(__file__)), "configs", config_path)
"""
_STORAGE = """\
    storage = torch.ByteStorage.from_buffer(buffer)
    tensor = torch.ByteTensor(storage).to(device=device)
"""
_FROMBUFFER = """\
    tensor = torch.frombuffer(bytearray(buffer), dtype=torch.uint8).to(device=device)
"""
_EXPORT_API = "from .api import *\n"
_TRY_EXPORT_API = """\
try:
    import caffe2 as _caffe2
except ImportError:
    pass
else:
    from .api import *
"""


def _patch(file: str, old: str, new: str, why: str, count: int = 1) -> Patch:
    return Patch(f"detectron2/{file}", old, new, count, why)


def _same(files: dict[str, int], old: str, new: str, why: str) -> list[Patch]:
    """One replacement in several files, each with its own count."""
    return [_patch(file, old, new, why, count) for file, count in files.items()]


_NO_C = "importing it fails without detectron2._C"
_NUMPY = "alias removed in NumPy 1.24"
_TORCH2 = "torch >= 2: its own schedulers are not _LRScheduler, so their state was neither saved nor loaded"

PATCHES: list[Patch] = [
    _patch("__init__.py", '__version__ = "0.5"', f'__version__ = "{VERSION}"', "recognizable version"),
    *_same(
        dict.fromkeys(("layers/deform_conv.py", "layers/roi_align_rotated.py", "layers/rotated_boxes.py"), 1),
        _IMPORT_C,
        _TRY_IMPORT_C,
        _NO_C,
    ),
    _patch("evaluation/coco_evaluation.py", _IMPORT_OPT, "", _NO_C),
    _patch("evaluation/coco_evaluation.py", _LAST_EVAL_IMPORT, _LAST_EVAL_IMPORT + _TRY_IMPORT_OPT, _NO_C),
    _patch("data/transforms/transform.py", "Image.LINEAR", "Image.BILINEAR", "name removed in Pillow 10"),
    _patch("model_zoo/model_zoo.py", "import pkg_resources\n", "", "removed in setuptools 82"),
    _patch("model_zoo/model_zoo.py", _RESOURCE, _BESIDE, "pkg_resources was removed in setuptools 82"),
    _patch(
        "data/common.py",
        "self._rng.sample(self._fallback_candidates, k=1)",
        "self._rng.sample(list(self._fallback_candidates), k=1)",
        "Python 3.11 does not sample from a set",
    ),
    _patch("layers/mask_ops.py", "np.array(mask, copy=False)", "np.asarray(mask)", "NumPy 2 raises"),
    _patch("data/build.py", "dtype=np.int)", "dtype=int)", _NUMPY),
    _patch("data/build.py", "dtype=np.int\n", "dtype=int\n", _NUMPY),
    _patch("data/datasets/pascal_voc.py", "dtype=np.str)", "dtype=str)", _NUMPY),
    _patch("evaluation/sem_seg_evaluation.py", "dtype=np.int)", "dtype=int)", _NUMPY, 2),
    _patch("evaluation/sem_seg_evaluation.py", "dtype=np.float)", "dtype=float)", _NUMPY, 2),
    _patch("evaluation/sem_seg_evaluation.py", ".astype(np.float)", ".astype(float)", _NUMPY, 3),
    *_same(
        {"evaluation/pascal_voc_evaluation.py": 2, "structures/masks.py": 1, "utils/visualizer.py": 3},
        ".astype(np.bool)",
        ".astype(bool)",
        _NUMPY,
    ),
    _patch("structures/masks.py", "dtype=np.bool)", "dtype=bool)", _NUMPY),
    _patch("utils/video_visualizer.py", "dtype=np.bool)", "dtype=bool)", _NUMPY),
    *_same(
        {
            "engine/hooks.py": 2,
            "solver/lr_scheduler.py": 4,
            "solver/build.py": 1,
            "projects/deeplab/lr_scheduler.py": 1,
            "projects/deeplab/build_solver.py": 1,
        },
        _SCHEDULER,
        _SCHEDULER.replace("_LRScheduler", "LRScheduler"),
        _TORCH2,
    ),
    _patch("utils/comm.py", _STORAGE, _FROMBUFFER, "typed storages are announced for removal from torch"),
    _patch("export/__init__.py", _EXPORT_API, _TRY_EXPORT_API, "caffe2 is gone; the rest of export works"),
]


def apply_patches(files: dict[str, bytes]) -> dict[str, bytes]:
    """Apply every patch to the unpacked source.

    Args:
        files: path inside site-packages -> content, as Detectron2 0.5 has it.

    Returns:
        A new mapping; each changed file starts with a comment that says so (Apache License 2.0, section 4b).

    Raises:
        PatchError: a patched text is not there as often as it has to be; all of them are listed.
    """
    texts = {name: files[name].decode() for name in {p.file for p in PATCHES} if name in files}
    mismatches = []
    for patch in PATCHES:
        found = texts.get(patch.file, "").count(patch.old)
        if found != patch.count:
            first_line = patch.old.strip().splitlines()[0]
            mismatches.append(f"  {patch.file}: {first_line!r} found {found} times, expected {patch.count}")
        else:
            texts[patch.file] = texts[patch.file].replace(patch.old, patch.new)
    if mismatches:
        raise PatchError("the source does not fit the patches:\n" + "\n".join(mismatches))
    note = f"# Changed for the pure-Python build {VERSION}; CHANGES in its dist-info lists the changes.\n"
    changed = {name: (note + text).encode() for name, text in texts.items()}
    return {**files, **changed, NO_C_FILE: NO_C_SOURCE.encode()}


def changes_text() -> str:
    """The list of changes that the wheel carries; the digest in it tells one patch list from another."""
    lines = [f"Changes of detectron2 {VERSION} against detectron2 0.5:", f"- {NO_C_FILE}: new file"]
    for patch in PATCHES:
        lines.append(f"- {patch.file}, {patch.count}x, {patch.why}: {patch.old!r} -> {patch.new!r}")
    digest = hashlib.sha256(repr((PATCHES, NO_C_SOURCE)).encode()).hexdigest()
    return "\n".join([*lines, f"sha256 of this list: {digest}"]) + "\n"
