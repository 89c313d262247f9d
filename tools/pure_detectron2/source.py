"""Gets the pinned source archive of Detectron2 0.5 from PyPI with pip, or checks one that is at hand."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

REQUIREMENT = "detectron2-cdo==0.5"
SHA256 = "53c9e79e9cc943e80419c588ea44b5479507a8628ed14a4e06bd093e29311b18"
OLDER_PIP = "pip<26.3"
_REFUSAL = "direct URL dependencies"  # in pip 26.3's message

# The archive's setup.py imports torch although pip only asks it for its metadata. These few lines answer it,
# so that neither torch nor a compiler is needed to make the wheel.
_STAND_IN = {
    "torch/__init__.py": '__version__ = "2.0"\nfrom . import cuda, utils, version\n',
    "torch/version.py": "hip = None\n",
    "torch/cuda.py": "def is_available():\n    return False\n",
    "torch/utils/__init__.py": "",
    "torch/utils/cpp_extension.py": (
        "import setuptools\n"
        "from setuptools.command.build_ext import build_ext as BuildExtension\n"
        "CUDA_HOME = ROCM_HOME = None\n"
        "def CppExtension(name, *args, **kwargs):\n"
        "    return setuptools.Extension(name, [])\n"
        "CUDAExtension = CppExtension\n"
    ),
}


class SourceError(Exception):
    """The source archive could not be had; the message says why and what to do."""


def read_checked(path: Path) -> bytes:
    """Read a source archive and make sure that it is the pinned one.

    Raises:
        SourceError: no such file, or other content.
    """
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        raise SourceError(f"{path}: sha256 is {digest}, expected {SHA256} (the sdist of {REQUIREMENT})")
    return data


def download(scratch: Path, *, allow_older_pip: bool) -> bytes:
    """Download the source archive with pip, which checks the hash before it runs anything of it.

    Args:
        scratch: an empty temporary folder.
        allow_older_pip: where the present pip refuses the archive, use an older one from ``scratch``.

    Returns:
        The content of the .tar.gz file.

    Raises:
        SourceError: pip failed, or refused and ``allow_older_pip`` is False.
    """
    for name, text in _STAND_IN.items():
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        (scratch / name).write_text(text)
    _pip(["install", "-q", "--target", str(scratch), "setuptools<85"], [], "cannot get setuptools from PyPI")
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{REQUIREMENT} --hash=sha256:{SHA256}\n")
    command = ["download", "-q", "--no-deps", "--no-build-isolation", "--no-binary", ":all:"]
    command += ["--require-hashes", "-r", str(requirements), "-d", str(scratch / "sdist")]
    failure = f"pip cannot download {REQUIREMENT}"
    try:
        _pip(command, [scratch], failure)
    except SourceError as error:
        if _REFUSAL not in str(error):
            raise
        if not allow_older_pip:
            raise SourceError(
                "this pip refuses the archive because of an unused extra in it, and --no-older-pip is set: "
                "get the archive in another way and pass --sdist FILE"
            ) from error
        report(
            "note: this pip refuses the archive because of an unused extra in it (a dependency by URL); "
            f"using {OLDER_PIP!r} from a temporary folder for this one download, its hash stays checked"
        )
        older = scratch / "older_pip"
        _pip(["install", "-q", "--target", str(older), OLDER_PIP], [], f"cannot get {OLDER_PIP!r} from PyPI")
        _pip(command, [older, scratch], failure)
    return read_checked(next((scratch / "sdist").glob("*.tar.gz")))


def report(line: str) -> None:
    """Print a line at once, so that it stays in order with the output of pip."""
    print(line, flush=True)


def _pip(arguments: list[str], path: list[Path], failure: str) -> None:
    """Run this Python's pip with ``path`` in front of its modules; on failure raise its last lines."""
    environment = dict(os.environ)
    if path:
        environment["PYTHONPATH"] = os.pathsep.join(map(str, path))
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        tail = "\n".join(done.stdout.strip().splitlines()[-8:])
        raise SourceError(f"{failure}; pip says:\n{tail}")
