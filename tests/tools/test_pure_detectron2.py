"""The wheel of tools/pure_detectron2: what is in it, that pip takes it, that it stops at another source."""

from __future__ import annotations

import base64
import csv
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from pure_detectron2.patches import NO_C_FILE, PATCHES, VERSION, PatchError, apply_patches, changes_text
from pure_detectron2.wheel import build_wheel, read_sdist

from tests.tools.planted import make_sdist, patchable_files, run_tool

# Of the real wheel: its bytes do not depend on the machine or on Python's version.
WHEEL_SHA256 = "8aec25317679af442fb585f848a7dc93404408f32f6ef4a98e3c4442c539b6d7"


@pytest.fixture
def wheel(tmp_path) -> Path:
    return build_wheel(make_sdist(patchable_files()), tmp_path)


def test_holds_the_patched_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        texts = {name: archive.read(name).decode() for name in names}
    assert {name.partition("/")[0] for name in names} == {"detectron2", f"detectron2-{VERSION}.dist-info"}
    assert "detectron2/model_zoo/configs/a.yaml" in names
    assert "detectron2/a.txt" not in names
    assert texts[f"detectron2-{VERSION}.dist-info/LICENSE"] == "a license"
    assert texts[f"detectron2-{VERSION}.dist-info/CHANGES"] == changes_text()
    for patch in PATCHES:
        assert texts[patch.file].startswith("# Changed for the pure-Python build")
        assert texts[patch.file].count(patch.new) >= patch.count
    assert f'__version__ = "{VERSION}"' in texts["detectron2/__init__.py"]


def test_record_lists_every_file_with_its_digest(wheel):
    with zipfile.ZipFile(wheel) as archive:
        record = f"detectron2-{VERSION}.dist-info/RECORD"
        rows = {row[0]: row[1:] for row in csv.reader(archive.read(record).decode().splitlines())}
        assert set(rows) == set(archive.namelist())
        assert rows.pop(record) == ["", ""]
        for name, (digest, size) in rows.items():
            content = archive.read(name)
            expected = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            assert (digest, int(size)) == (f"sha256={expected}", len(content))


def test_is_reproducible(wheel, tmp_path):
    again = build_wheel(make_sdist(patchable_files()), tmp_path / "again")
    assert again.read_bytes() == wheel.read_bytes()


def test_pip_installs_it(wheel, tmp_path):
    target = tmp_path / "site"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        target,
    ]
    subprocess.run([*command, wheel], check=True)
    assert run_tool("--check", path=target).stdout == f"detectron2: {VERSION} (pure Python, of this tool)\n"


def test_stand_in_for_compiled_code_names_the_operator():
    namespace: dict = {}
    exec(apply_patches(read_sdist(make_sdist(patchable_files()))[0])[NO_C_FILE], namespace)
    with pytest.raises(RuntimeError, match="nms_rotated.*github.com/facebookresearch/detectron2"):
        namespace["_C"].nms_rotated(1)
    assert not hasattr(namespace["_C"], "__deepcopy__")


@pytest.mark.slow
def test_real_source_gives_the_known_wheel(tmp_path):
    done = run_tool("--wheel-dir", tmp_path, "--no-install")
    if done.returncode:
        pytest.skip(f"no PyPI here: {done.stderr}")
    (built,) = tmp_path.glob("*.whl")
    assert hashlib.sha256(built.read_bytes()).hexdigest() == WHEEL_SHA256


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: f"{patch.file}: {patch.old.strip()[:30]}")
def test_other_source_stops_and_is_named(patch, tmp_path):
    for other in (patch.old.swapcase(), patch.old * 2, ""):
        files = patchable_files()
        files[patch.file] = files[patch.file].replace(patch.old, other)
        with pytest.raises(PatchError, match=f"{patch.file}.*expected {patch.count}"):
            build_wheel(make_sdist(files), tmp_path / "never")
    assert not (tmp_path / "never").exists()
