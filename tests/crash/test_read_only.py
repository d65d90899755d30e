"""`pulzar up` where nothing can be written: the documented exit code, one sentence, no change."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from pulzar.client.process import Server
from pulzar.errors import NotReady
from tests.crash.conftest import MakeServer
from tests.crash.wire import exchange, put, value

pytestmark = pytest.mark.slow

CANNOT_OPEN = 6  # docs/cli.md


def remount(disk: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", disk], check=True)


def names_in(directory: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_size) for path in directory.rglob("*"))


def refusal(server: Server) -> str:
    """The sentence of a server that does not start."""
    with pytest.raises(NotReady) as refused:
        server.start()
    said = str(refused.value)
    assert f"ended with {CANNOT_OPEN} at its start" in said
    assert "Traceback" not in said
    sentences = re.findall(r"(?m)^pulzar: (.*)$", said)
    assert len(sentences) == 1
    return str(sentences[0])


def test_an_empty_read_only_file_system(make_server: MakeServer, small_disk: Path) -> None:
    remount(small_disk, "ro")
    for data in (small_disk, small_disk / "data"):
        assert re.search("read-only|cannot be written", refusal(make_server(str(data))).lower())
    assert names_in(small_disk) == []


@pytest.mark.parametrize("is_clean", [True, False], ids=["stopped", "killed"])
def test_data_on_a_file_system_that_became_read_only(
    make_server: MakeServer, small_disk: Path, is_clean: bool
) -> None:
    with make_server(str(small_disk / "data"), segment="2MiB", reserve="8MiB") as server:
        assert exchange(server.url, put("key", b"value")).status == 201
        if is_clean:
            assert server.terminate() == 0
    remount(small_disk, "ro")
    before = names_in(small_disk)
    assert re.search("read-only|cannot be written", refusal(server).lower())
    assert names_in(small_disk) == before
    remount(small_disk, "rw")
    with server:
        assert value(server.url, "key") == b"value"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_of_somebody_else(make_server: MakeServer, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        assert "cannot be written" in refusal(make_server(str(tmp_path / "data")))
        assert names_in(tmp_path) == []
    finally:
        tmp_path.chmod(0o755)
