"""A volume that was written once: today's code writes the same bytes, and reads them.

READ_ME.py reads them too. If the first test fails, the format has changed: that wants a new format
number, a way to read the old one, and this directory as it is beside a new one.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pulzar.disk import SystemDisk
from pulzar.testing.index import DictIndex
from pulzar.varidb.blob import decode_blob
from pulzar.varidb.check import check, inspect
from pulzar.varidb.read_me import read_me
from pulzar.varidb.record import Type
from pulzar.varidb.volume import Volume
from tests.golden.history import LEFT_OUT, LIVE, VOLUME, files, play

NOW_MS = 1_700_000_000_000


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The golden volume, in a place where it may be opened."""
    return Path(shutil.copytree(VOLUME, tmp_path / "volume"))


def test_the_format_has_not_changed() -> None:
    engine = play()
    written = dict(files(engine.disk, engine.directory))
    kept = {
        str(path.relative_to(VOLUME)): path.read_bytes()
        for path in VOLUME.rglob("*")
        if path.is_file() and path.name not in LEFT_OUT
    }
    assert sorted(written) == sorted(kept)
    for name, content in written.items():
        assert content == kept[name], name


def test_it_holds_every_type_of_record(copy: Path) -> None:
    assert {record.type for record in inspect(str(copy), SystemDisk())} == {t.name for t in Type}


def test_nothing_is_wrong_with_it(copy: Path) -> None:
    assert [found for found in check(str(copy), SystemDisk()) if found.kind == "damage"] == []


def test_todays_engine_reads_it(copy: Path) -> None:
    volume = Volume.open(
        str(copy),
        disk=SystemDisk(),
        open_index=lambda _: DictIndex(),
        token=lambda count: bytes(count - 1) + b"\x01",
        now_ms=NOW_MS,
    )
    try:
        assert volume.damaged == []
        assert volume.promised_epoch() == 1
        for key in [*LIVE, b"expired"]:
            position = volume.index.get(key)
            assert position is not None
            record = volume.records.read(key, position)
            value = record.value
            if record.type == Type.BLOB:
                blob = decode_blob(value)
                file = volume.open_blob(blob)
                value = file.read(blob.size, offset=0)
                file.close()
            assert value == LIVE.get(key, b"in 1970")
        for key in (b"deleted", b"passing", b"moved"):
            position = volume.index.get(key)
            assert position is None or position.type in (Type.DELETE, Type.MOVED)
    finally:
        volume.close(now_ms=NOW_MS)


def test_a_stranger_reads_it(copy: Path, tmp_path: Path) -> None:
    (copy / "READ_ME.py").write_bytes(read_me())
    command = [sys.executable, "-I", "-S", str(copy / "READ_ME.py")]
    listed = subprocess.run([*command, "list", "--json"], capture_output=True, check=True)
    keys = {json.loads(line)["key"].encode() for line in listed.stdout.splitlines()}
    assert keys == set(LIVE)
    subprocess.run([*command, "extract", str(tmp_path / "out")], capture_output=True, check=True)
    for key, value in LIVE.items():
        assert (tmp_path / "out" / key.decode()).read_bytes() == value
