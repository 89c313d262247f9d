"""From the source archive of Detectron2 0.5 to a wheel whose bytes depend on this folder's code alone."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from .patches import VERSION, apply_patches, changes_text

WHEEL_NAME = f"detectron2-{VERSION}-py3-none-any.whl"
_DIST_INFO = f"detectron2-{VERSION}.dist-info"
_TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file can hold
_PROJECT = re.compile(r"projects/[^/]+/((?:point_rend|deeplab|panoptic_deeplab)/.+)")
_METADATA = f"""\
Metadata-Version: 2.1
Name: detectron2
Version: {VERSION}
Summary: Detectron2 0.5 without compiled code, patched for current Python, NumPy, Pillow and torch
Home-page: https://github.com/facebookresearch/detectron2
Author: FAIR
License: Apache-2.0
License-File: LICENSE
Requires-Python: >=3.8
Requires-Dist: Pillow>=7.1
Requires-Dist: matplotlib
Requires-Dist: pycocotools>=2.0.7
Requires-Dist: termcolor>=1.1
Requires-Dist: yacs>=0.1.8
Requires-Dist: tabulate
Requires-Dist: cloudpickle
Requires-Dist: tqdm>4.29.0
Requires-Dist: tensorboard
Requires-Dist: fvcore<0.1.6,>=0.1.5
Requires-Dist: iopath<0.1.11,>=0.1.7
Requires-Dist: omegaconf<2.4,>=2.1
Requires-Dist: hydra-core>=1.1
Requires-Dist: packaging
"""
_WHEEL = """\
Wheel-Version: 1.0
Generator: install_detectron2
Root-Is-Purelib: true
Tag: py3-none-any
"""


def read_sdist(data: bytes) -> tuple[dict[str, bytes], bytes]:
    """Pick what belongs into site-packages out of the source archive.

    The archive's top-level package ``tools`` is left out: scripts, under a name that anyone may use.

    Args:
        data: the .tar.gz file.

    Returns:
        (path inside site-packages -> content, the license text).
    """
    files, license = {}, b""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        for member in archive.getmembers():
            if not member.isfile():
                continue
            name = member.name.partition("/")[2]
            project = _PROJECT.fullmatch(name)
            target = f"detectron2/projects/{project[1]}" if project else name
            if name == "LICENSE":
                license = archive.extractfile(member).read()
            elif target.startswith("detectron2/") and PurePosixPath(target).suffix in (".py", ".yaml"):
                files[target] = archive.extractfile(member).read()
    return files, license


def build_wheel(sdist: bytes, folder: Path) -> Path:
    """Patch the source and write the wheel into ``folder``.

    Raises:
        PatchError: the source is not Detectron2 0.5 as published.
    """
    files, license = read_sdist(sdist)
    files = apply_patches(files)
    files[f"{_DIST_INFO}/CHANGES"] = changes_text().encode()
    files[f"{_DIST_INFO}/LICENSE"] = license
    files[f"{_DIST_INFO}/METADATA"] = _METADATA.encode()
    files[f"{_DIST_INFO}/WHEEL"] = _WHEEL.encode()
    files[f"{_DIST_INFO}/top_level.txt"] = b"detectron2\n"
    record = [_record_line(name, content) for name, content in sorted(files.items())]
    record.append(f"{_DIST_INFO}/RECORD,,\n")
    files[f"{_DIST_INFO}/RECORD"] = "".join(record).encode()
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / WHEEL_NAME
    # Stored, not compressed: zlib's output differs between its versions, and 2 MB are little to carry.
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(files.items(), key=lambda item: (_DIST_INFO in item[0], item[0])):
            entry = zipfile.ZipInfo(name, _TIMESTAMP)
            entry.external_attr = 0o100644 << 16
            entry.create_system = 3  # "Unix", also when this runs on Windows
            archive.writestr(entry, content)
    return wheel


def _record_line(name: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}\n"
