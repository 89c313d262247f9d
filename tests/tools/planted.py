"""Stand-ins for Detectron2's source archive and for an installed Detectron2, and the tool run on them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from pure_detectron2.patches import PATCHES

from tests.static.source import ROOT

TOOL = ROOT / "tools" / "install_detectron2.py"


def patchable_files() -> dict[str, str]:
    """A stand-in for Detectron2's source: every patched text, as often as its patch expects it."""
    files: dict[str, str] = {}
    for patch in PATCHES:
        text = files.get(patch.file, "")
        files[patch.file] = text + "".join(
            patch.old + "\n" for _ in range(patch.count - text.count(patch.old))
        )
    return files


def make_sdist(files: dict[str, str]) -> bytes:
    """An archive laid out as the published one: deeplab lies in the folder of its project."""
    extra = {"LICENSE": "a license", "tools/train_net.py": "", "detectron2/model_zoo/configs/a.yaml": "A: 1"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in {**files, **extra, "detectron2/a.txt": "not code"}.items():
            name = name.replace("detectron2/projects/deeplab/", "projects/DeepLab/deeplab/")
            entry = tarfile.TarInfo(f"detectron2_cdo-0.5/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def run_tool(*flags: object, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command with nothing of the environment's packages but ``path`` to be found."""
    environment = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
    command = [sys.executable, *(["-S"] if path else []), TOOL, *flags]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def plant(site: Path, version: str, **files: str) -> None:
    """Put a Detectron2 of some version into ``site``; ``files`` go into its dist-info."""
    info = site / f"detectron2-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: detectron2\nVersion: {version}\n")
    for name, text in files.items():
        (info / name).write_text(text)
    (site / "detectron2").mkdir()
    (site / "detectron2" / "__init__.py").touch()
