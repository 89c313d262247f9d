"""Install Detectron2: a pure-Python wheel made from PyPI's source archive (default), or the official commit.

The wheel needs pip only, no compiler, and is the same on every machine. The official way needs git, a C++
compiler and torch. A Detectron2 that is already there stays, unless ``--force`` is given.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pure_detectron2.patches import VERSION, PatchError, changes_text
from pure_detectron2.source import SourceError, download, read_checked, report
from pure_detectron2.wheel import build_wheel

OFFICIAL_COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"
OFFICIAL_URL = f"git+https://github.com/facebookresearch/detectron2@{OFFICIAL_COMMIT}"
# Detectron2's model_zoo imports pkg_resources, which setuptools 82 dropped.
OFFICIAL_NEEDS = ["setuptools<82", "wheel"]


class Installed(NamedTuple):
    """A Detectron2 that Python finds: what it is, and whether it is one of the two known ways."""

    description: str
    known: bool


def find_installed() -> Installed | None:
    """Describe the Detectron2 that this Python would import, without importing it; None if there is none."""
    spec = importlib.util.find_spec("detectron2")
    if spec is None or spec.origin is None:
        return None
    compiled = any(Path(spec.origin).parent.glob("_C.*"))
    try:
        distribution = importlib.metadata.distribution("detectron2")
    except importlib.metadata.PackageNotFoundError:
        return Installed(f"a Detectron2 that pip does not know, at {Path(spec.origin).parent}", known=False)
    version = distribution.version
    if version == VERSION:
        if distribution.read_text("CHANGES") == changes_text():
            return Installed(f"{version} (pure Python, of this tool)", known=True)
        return Installed(f"{version} (pure Python, of another patch list; --force renews it)", known=False)
    parts = ["compiled operators" if compiled else "without compiled operators"]
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    commit = origin.get("vcs_info", {}).get("commit_id")
    parts.append(f"commit {commit}" if commit else "commit unknown")
    pinned = commit == OFFICIAL_COMMIT
    parts.append("the pinned official one" if pinned else "not one of the two ways of this tool")
    return Installed(f"{version} ({', '.join(parts)})", known=pinned and compiled)


def install_official(force: bool) -> None:
    """Build and install Detectron2 at the pinned commit.

    Raises:
        SourceError: something that the build needs is missing, or pip failed.
    """
    if importlib.util.find_spec("torch") is None:
        raise SourceError("the official Detectron2 is built with torch: pip install torch torchvision first")
    if shutil.which("git") is None:
        raise SourceError("git is not on the path; without it leave out --official")
    if not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
        raise SourceError("no C++ compiler is on the path; without one leave out --official")
    pip_install(*OFFICIAL_NEEDS)
    pip_install("--no-build-isolation", *(["--force-reinstall", "--no-deps"] if force else []), OFFICIAL_URL)
    if force:  # the line above replaced Detectron2 alone; this one adds what it needs and has not yet
        pip_install("--no-build-isolation", OFFICIAL_URL)


def install_wheel(wheel: Path, force: bool) -> None:
    """Install the wheel and what it depends on."""
    if force:  # pip keeps a Detectron2 of the same version otherwise, also when the patches have changed
        pip_install("--force-reinstall", "--no-deps", str(wheel))
    pip_install(str(wheel))


def pip_install(*arguments: str) -> None:
    """Run ``pip install``, with its output shown."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", *arguments]
    if subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
        raise SourceError(f"pip install failed: {' '.join(arguments)}")


def make_wheel(args: argparse.Namespace, folder: Path) -> Path:
    """Build the wheel in ``folder``, from the source archive of ``--sdist`` or from a download."""
    if args.sdist is not None:
        return build_wheel(read_checked(args.sdist), folder)
    with tempfile.TemporaryDirectory(prefix="detectron2_source_") as scratch:
        return build_wheel(download(Path(scratch), allow_older_pip=not args.no_older_pip), folder)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The flags, with the combinations that make no sense refused."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flag = partial(parser.add_argument, action="store_true")
    path = partial(parser.add_argument, type=Path)
    flag("--check", help="say what is installed; status 1 unless it is one of the two ways")
    flag("--official", help="install the pinned official commit (needs git, a C++ compiler and torch)")
    path("--sdist", metavar="FILE", help="the source archive, instead of a download")
    path("--wheel-dir", metavar="DIR", help="keep the wheel there")
    flag("--no-install", help="only make the wheel (with --wheel-dir)")
    flag("--force", help="replace a Detectron2 that is already there")
    flag("--no-older-pip", help="stop where the present pip refuses the archive")
    args = parser.parse_args(arguments)
    if args.no_install and args.wheel_dir is None:
        parser.error("--no-install needs --wheel-dir DIR, or the wheel would be lost")
    if args.official and (args.sdist or args.wheel_dir):
        parser.error("--official builds from git: --sdist and --wheel-dir belong to the pure wheel")
    return args


def run(args: argparse.Namespace) -> int:
    """Do what the flags say; return the exit status."""
    present = find_installed()
    if args.check:
        report(f"detectron2: {present.description if present else 'not installed'}")
        return 0 if present and present.known else 1
    if args.no_install:
        report(f"wheel: {make_wheel(args, args.wheel_dir)}")
        return 0
    if present and not args.force:
        report(f"detectron2 is already installed: {present.description}; nothing done (--force replaces it)")
        return 1 if args.official and not (present.known and OFFICIAL_COMMIT in present.description) else 0
    if args.official:
        install_official(args.force)
    else:
        with tempfile.TemporaryDirectory(prefix="detectron2_wheel_") as folder:
            install_wheel(make_wheel(args, args.wheel_dir or Path(folder)), args.force)
    importlib.invalidate_caches()
    installed = find_installed()
    if installed is None:
        raise SourceError("pip reports success, but this Python still finds no detectron2")
    report(f"installed detectron2 {installed.description}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point; errors are one message on stderr and status 1."""
    args = parse_arguments(arguments)
    try:
        return run(args)
    except (SourceError, PatchError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
