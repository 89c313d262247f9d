"""tools/install_detectron2.py: what it says of a Detectron2 that is there, what it refuses and replaces."""

from __future__ import annotations

import hashlib
from pathlib import Path

import install_detectron2
import pytest
from pure_detectron2 import source
from pure_detectron2.patches import VERSION

from tests.tools.planted import make_sdist, patchable_files, plant, run_tool


class TestRefusals:
    def test_another_archive_is_refused_by_its_hash(self, tmp_path):
        file = tmp_path / "detectron2_cdo-0.5.tar.gz"
        file.write_bytes(make_sdist(patchable_files()))
        done = run_tool("--sdist", file, "--wheel-dir", tmp_path / "out", "--no-install")
        assert done.returncode == 1
        assert f"expected {source.SHA256}" in done.stderr
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("flags", "words"),
        [
            (["--sdist", "absent.tar.gz", "--wheel-dir", "w", "--no-install"], "absent.tar.gz: no such file"),
            (["--no-install"], "--wheel-dir"),
            (["--official", "--wheel-dir", "w"], "--official builds from git"),
        ],
    )
    def test_mistaken_flags(self, flags, words):
        done = run_tool(*flags)
        assert done.returncode != 0
        assert words in done.stderr
        assert "Traceback" not in done.stderr


class TestDownload:
    """The download with a pip that plays its part: what it is asked, and what happens when it refuses."""

    @pytest.fixture
    def calls(self, monkeypatch) -> list[tuple[list[str], list[Path]]]:
        calls = []

        def pip(arguments, path, failure):
            calls.append((arguments, path))
            if arguments[0] == "download" and self.refuses(path):
                raise source.SourceError("ERROR: ... cannot declare direct URL dependencies: panopticapi")
            if arguments[0] == "download":
                folder = Path(arguments[-1])
                folder.mkdir()
                (folder / "detectron2_cdo-0.5.tar.gz").write_bytes(b"archive")

        monkeypatch.setattr(source, "_pip", pip)
        monkeypatch.setattr(source, "SHA256", hashlib.sha256(b"archive").hexdigest())
        return calls

    @staticmethod
    def refuses(path: list[Path]) -> bool:
        return path[0].name != "older_pip"

    def test_older_pip_is_used_where_this_one_refuses_and_said_in_one_line(self, calls, tmp_path, capsys):
        assert source.download(tmp_path, allow_older_pip=True) == b"archive"
        assert [arguments[0] for arguments, _ in calls] == ["install", "download", "install", "download"]
        assert calls[2][0][-1] == source.OLDER_PIP
        assert all("--require-hashes" in arguments for arguments, _ in calls if arguments[0] == "download")
        out = capsys.readouterr().out
        assert out.count("\n") == 1
        assert source.OLDER_PIP in out

    def test_older_pip_is_not_used_against_the_users_will(self, calls, tmp_path):
        with pytest.raises(source.SourceError, match="--sdist FILE"):
            source.download(tmp_path, allow_older_pip=False)
        assert len(calls) == 2

    def test_present_pip_is_enough_where_it_does_not_refuse(self, calls, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(type(self), "refuses", staticmethod(lambda path: False))
        assert source.download(tmp_path, allow_older_pip=True) == b"archive"
        assert [arguments[0] for arguments, _ in calls] == ["install", "download"]
        assert capsys.readouterr().out == ""


class TestPresent:
    """What is there is described, and stays."""

    COMMIT = '{"vcs_info": {"commit_id": "%s", "vcs": "git"}, "url": ""}'

    def test_nothing(self, tmp_path):
        done = run_tool("--check", path=tmp_path)
        assert (done.returncode, done.stdout) == (1, "detectron2: not installed\n")

    def test_leftover_folder_is_nothing(self, tmp_path):
        (tmp_path / "detectron2" / "layers").mkdir(parents=True)
        assert run_tool("--check", path=tmp_path).stdout == "detectron2: not installed\n"

    @pytest.mark.parametrize(
        ("version", "commit", "compiled", "status", "words"),
        [
            ("0.6", install_detectron2.OFFICIAL_COMMIT, True, 0, "the pinned official one"),
            ("0.6", install_detectron2.OFFICIAL_COMMIT, False, 1, "without compiled operators"),
            ("0.6", "0123abcd", True, 1, "commit 0123abcd, not one of the two ways"),
            ("0.5", None, False, 1, "commit unknown, not one of the two ways"),
        ],
    )
    def test_other_versions(self, tmp_path, version, commit, compiled, status, words):
        plant(tmp_path, version, **({"direct_url.json": self.COMMIT % commit} if commit else {}))
        if compiled:
            (tmp_path / "detectron2" / "_C.cpython-311.so").touch()
        done = run_tool("--check", path=tmp_path)
        assert done.returncode == status
        assert words in done.stdout

    def test_wheel_of_another_patch_list(self, tmp_path):
        plant(tmp_path, VERSION, CHANGES="older")
        done = run_tool("--check", path=tmp_path)
        assert done.returncode == 1
        assert "--force renews it" in done.stdout

    def test_without_metadata(self, tmp_path):
        (tmp_path / "detectron2").mkdir()
        (tmp_path / "detectron2" / "__init__.py").touch()
        assert "pip does not know" in run_tool("--check", path=tmp_path).stdout

    @pytest.mark.parametrize(("flags", "status"), [((), 0), (("--official",), 1)])
    def test_is_not_replaced_unasked(self, tmp_path, flags, status):
        plant(tmp_path, "0.5")
        done = run_tool(*flags, path=tmp_path)
        assert done.returncode == status
        assert "nothing done (--force replaces it)" in done.stdout

    def test_force_replaces_it_and_adds_what_is_missing(self, monkeypatch, tmp_path):
        installed = []
        monkeypatch.setattr(install_detectron2, "pip_install", lambda *arguments: installed.append(arguments))
        monkeypatch.setattr(install_detectron2, "make_wheel", lambda args, folder: Path("a.whl"))
        assert install_detectron2.main(["--force"]) == 0
        assert installed == [("--force-reinstall", "--no-deps", "a.whl"), ("a.whl",)]

    def test_official_way_builds_the_pinned_commit_without_isolation(self, monkeypatch):
        installed = []
        monkeypatch.setattr(install_detectron2, "pip_install", lambda *arguments: installed.append(arguments))
        monkeypatch.setattr(install_detectron2.shutil, "which", lambda name: name)
        install_detectron2.install_official(force=False)
        assert installed == [
            ("setuptools<82", "wheel"),
            ("--no-build-isolation", install_detectron2.OFFICIAL_URL),
        ]

    @pytest.mark.parametrize(("absent", "words"), [("git", "git is not"), ("c++ g++ clang++ cl", "compiler")])
    def test_official_way_says_what_is_missing(self, monkeypatch, absent, words):
        monkeypatch.setattr(
            install_detectron2.shutil, "which", lambda name: None if name in absent.split() else name
        )
        with pytest.raises(source.SourceError, match=words):
            install_detectron2.install_official(force=False)
