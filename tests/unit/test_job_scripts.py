"""The scripts of a site: which there are, and how one directory is told from another."""

import os
import tarfile
from pathlib import Path

import pytest

from pulzar.errors import InvalidParameter, ScriptNotFound
from pulzar.jobs.agent import unpack
from pulzar.jobs.scripts import Scripts


@pytest.fixture
def site(tmp_path: Path) -> Path:
    jobs = tmp_path / "jobs"
    (jobs / "daily" / "package").mkdir(parents=True)
    (jobs / "daily" / "report.py").write_text("def execute(arguments): return 1\n")
    (jobs / "daily" / "package" / "__init__.py").write_text("")
    (jobs / "daily" / ".hidden.py").write_text("")
    (jobs / "daily" / "__pycache__").mkdir()
    (jobs / "daily" / "__pycache__" / "report.pyc").write_text("")
    (tmp_path / "secret.py").write_text("def execute(arguments): return 'secret'\n")
    return jobs


def test_a_directory_is_known_by_its_content(site: Path, tmp_path: Path) -> None:
    scripts = Scripts(str(site))
    first = scripts.find("daily", "report")
    assert scripts.find("daily", "report") is first  # nothing is read again
    os.utime(site / "daily" / "report.py", (1, 1))
    assert scripts.find("daily", "report").digest == first.digest
    (site / "daily" / "report.py").write_text("def execute(arguments): return 2\n")
    second = scripts.find("daily", "report")
    assert second.digest != first.digest
    unpack(second.content, str(tmp_path / "out"))
    names = sorted(
        str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*")
    )
    assert names == ["package", "package/__init__.py", "report.py"]


@pytest.mark.parametrize(
    ("directory", "script", "told"),
    [
        ("dayly", "report", "there is daily"),
        ("daily", "repot", "there is report"),
        ("daily", ".hidden", "there is"),
        ("..", "secret", "no directory"),
        ("daily", "../../secret", "no script"),
        ("/etc", "passwd", "no directory"),
        ("", "report", "no directory"),
        ("daily", "", "no script"),
        (".", "report", "no directory"),
    ],
)
def test_what_is_not_there_is_said(site: Path, directory: str, script: str, told: str) -> None:
    with pytest.raises(ScriptNotFound, match=told):
        Scripts(str(site)).find(directory, script)


def test_a_link_out_of_the_directory_is_not_followed(site: Path, tmp_path: Path) -> None:
    (site / "daily" / "stolen.py").symlink_to(tmp_path / "secret.py")
    (site / "linked").symlink_to(tmp_path)
    scripts = Scripts(str(site))
    with pytest.raises(ScriptNotFound):
        scripts.find("daily", "stolen")
    with pytest.raises(ScriptNotFound):
        scripts.find("linked", "secret")
    assert scripts.directories() == ["daily"]
    assert scripts.scripts("daily") == ["report"]


def test_a_directory_has_its_limits(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pulzar.jobs.scripts.SCRIPTS_BYTES_MAX", 10)
    with pytest.raises(InvalidParameter, match="keep data in VariDB"):
        Scripts(str(site)).find("daily", "report")


def test_an_archive_does_not_lead_out_of_its_directory(tmp_path: Path) -> None:
    for name in ("../out.py", "/out.py", "a/../../out.py"):
        path = tmp_path / "bad.tar"
        with tarfile.open(path, "w") as archive:
            member = tarfile.TarInfo(name)
            archive.addfile(member)
        with pytest.raises(InvalidParameter):
            unpack(path.read_bytes(), str(tmp_path / "target"))
        assert not (tmp_path / "out.py").exists()
    with pytest.raises(InvalidParameter):
        unpack(b"no archive", str(tmp_path / "target"))
