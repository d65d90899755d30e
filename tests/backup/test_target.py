"""What every target promises, on each kind of it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec  # type: ignore[import-untyped]
import pytest

from pulzar.backup.target import DirectoryTarget, RemoteTarget, Target, open_target, read
from pulzar.errors import BackupUnfit, BackupUnreachable, OutOfSpace

KINDS = ["directory", "remote"]


@pytest.fixture(params=KINDS)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    if request.param == "directory":
        made = open_target(str(tmp_path / "target"))
        assert isinstance(made, DirectoryTarget)
    else:
        made = open_target(f"memory://{tmp_path.name}/target")
        assert isinstance(made, RemoteTarget)
    with made:
        yield made
    if request.param == "remote":
        fsspec.filesystem("memory").store.clear()


class TestTarget:
    def test_an_object_is_what_was_put(self, target: Target) -> None:
        assert target.is_empty()
        target.put("a/b/c", [b"12", b"", b"3" * 3_000_000])
        target.put("d", [])
        assert read(target, "a/b/c") == b"12" + b"3" * 3_000_000
        assert read(target, "d") == b""
        assert not target.is_empty()
        target.settle()

    def test_names_are_those_below(self, target: Target) -> None:
        for name in ("a/1", "a/b/2", "c/3"):
            target.put(name, [b"x"])
        assert target.names("a") == ["a/1", "a/b/2"]
        assert target.names("none") == []

    def test_put_replaces_and_delete_forgets(self, target: Target) -> None:
        target.put("a/1", [b"1"])
        target.put("a/1", [b"22"])
        assert read(target, "a/1") == b"22"
        target.delete("a/1")
        target.delete("a/1")
        with pytest.raises(FileNotFoundError):
            read(target, "a/1")
        assert target.names("a") == []

    def test_half_an_object_has_no_name(self, target: Target) -> None:
        def breaks() -> Iterator[bytes]:
            yield b"x"
            raise KeyError("the source broke")

        target.put("a/0", [b"there"])
        if isinstance(target, DirectoryTarget):
            with pytest.raises(KeyError):
                target.put("a/1", breaks())
            assert target.names("a") == ["a/0"]


def test_one_program_writes_to_a_directory(tmp_path: Path) -> None:
    path = str(tmp_path / "t")
    with open_target(path) as first:
        first.put("a", [b"x"])
        with pytest.raises(BackupUnreachable, match="another backup"), open_target(path):
            pass
    with open_target(path) as second:
        assert read(second, "a") == b"x"


def full(path: str) -> None:
    raise OSError(28, "No space left on device", path)


def gone(path: str) -> None:
    raise OSError(5, "Input/output error", path)


@pytest.mark.parametrize(("fault", "error"), [(full, OutOfSpace), (gone, BackupUnreachable)])
def test_what_the_disk_of_a_target_says_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[str], None],
    error: type[Exception],
) -> None:
    with open_target(str(tmp_path / "t")) as target:
        target.put("a/1", [b"x"])
        monkeypatch.setattr(os, "rename", lambda _, new: fault(new))
        with pytest.raises(error):
            target.put("a/2", [b"y"])
        monkeypatch.undo()
        assert target.names("a") == ["a/1"]


def test_a_directory_that_goes_away_is_noticed(tmp_path: Path) -> None:
    with open_target(str(tmp_path / "t")) as target:
        target.put("a/1", [b"x"])
        os.rename(tmp_path / "t", tmp_path / "other")
        target.put("a/2", [b"y"])
        with pytest.raises(BackupUnreachable):
            target.settle()


@pytest.mark.parametrize("url", ["", "gopher://x/y", "nothing://x"])
def test_a_target_that_cannot_be_meant(url: str) -> None:
    with pytest.raises(BackupUnfit):
        open_target(url)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(BackupUnfit, match="install s3fs beside Pulzar"):
        open_target("s3://bucket/path")


def missing(_scheme: str, **_: object) -> None:
    raise ImportError("Install s3fs")
