"""`pulzar check`, `rebuild` and `inspect` on a data directory that a store wrote."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pulzar.cli import pulzar
from pulzar.cli.exit import run
from pulzar.clock import SystemClock
from pulzar.disk import SystemDisk
from pulzar.limits import KIB
from pulzar.varidb.entry import Delete, Put
from pulzar.varidb.serving import StoreOptions
from pulzar.varidb.store import open_store

VALUE = b"a value that is easily found " * 4

Ran = tuple[int, list[dict[str, Any]], str]
Pulzar = Callable[..., Ran]


async def write(directory: Path) -> None:
    store = await open_store(
        str(directory),
        disk=SystemDisk(),
        clock=SystemClock(),
        options=StoreOptions(segment_bytes=64 * KIB, reserve_bytes=0),
    )
    for number in range(5):
        await store.put(Put(key=b"key/%d" % number, value=VALUE + b"%d" % number))
    await store.put(Put(key=b"key/0", value=b"another", expires_s=4_000_000_000))
    await store.delete(Delete(key=b"key/1"))
    await store.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory whose server is down: five keys, one replaced, one deleted."""
    asyncio.run(write(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Pulzar:
    """Runs a command with --json: its exit code, its objects, its stderr."""

    def ran(*arguments: str) -> Ran:
        code = run(pulzar, [*arguments, "--json"])
        output = capsys.readouterr()
        return code, [json.loads(line) for line in output.out.splitlines()], output.err

    return ran


def flip(data: Path, content: bytes) -> Path:
    """Flip one bit in the first segment that holds `content`."""
    for path in sorted((data / "volume" / "segments").iterdir()):
        stored = bytearray(path.read_bytes())
        place = stored.find(content)
        if place >= 0:
            stored[place] ^= 1
            stored[place + 1] ^= 1
            path.write_bytes(stored)
            return path
    raise AssertionError("no segment holds that")


def test_check_of_a_whole_volume_finds_no_damage(data: Path, command: Pulzar) -> None:
    for directory in (data, data / "volume"):
        code, findings, said = command("check", str(directory))
        assert code == 0
        assert [finding for finding in findings if finding["kind"] == "damage"] == []
        assert f"check of {directory}: damage 0" in said


def test_check_names_a_damaged_value(data: Path, command: Pulzar) -> None:
    segment = flip(data, VALUE + b"3")
    before = segment.read_bytes()
    code, findings, said = command("check", str(data))
    assert code == 5
    (damage,) = [finding for finding in findings if finding["kind"] == "damage"]
    assert damage["key"] == "key/3"
    assert damage["place"].startswith(f"segments/{segment.name}:")
    assert "damage 1" in said
    assert segment.read_bytes() == before


def test_inspect_lists_every_record(data: Path, command: Pulzar) -> None:
    code, records, _ = command("inspect", str(data))
    assert code == 0
    puts = [record["key"] for record in records if record["type"] == "PUT"]
    assert puts == ["key/0", "key/1", "key/2", "key/3", "key/4", "key/0"]
    assert [record["key"] for record in records if record["type"] == "DELETE"] == ["key/1"]
    assert {"OPEN", "EPOCH"} <= {record["type"] for record in records}
    assert {record["state"] for record in records} == {"ok"}


def test_inspect_shows_the_history_of_a_key(data: Path, command: Pulzar) -> None:
    _, records, _ = command("inspect", str(data / "volume"), "--key", "key/0")
    assert [(record["size"], record["expires"]) for record in records] == [
        (len(VALUE) + 1, None),
        (7, "2096-10-02T07:06:40.000Z"),
    ]
    assert records[0]["version"] < records[1]["version"]


def test_inspect_prints_one_line_per_record_for_programs(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(pulzar, ["inspect", str(data), "--key", "key/4"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    cells = line.split("\t")
    assert (cells[3], cells[5], cells[8], cells[9]) == ("PUT", str(len(VALUE) + 1), "ok", "key/4")


def test_rebuild_makes_the_views_anew(data: Path, command: Pulzar) -> None:
    shutil.rmtree(data / "catalog.views")
    shutil.rmtree(data / "volume.views")
    code, (made,), _ = command("rebuild", str(data / "volume"))
    assert (code, made["keys"], made["damaged"]) == (0, 4, 0)
    assert (data / "catalog.views").is_dir()
    assert (data / "volume.views").is_dir()


@pytest.mark.parametrize("name", ["check", "rebuild", "inspect"])
def test_command_on_something_else_says_so_and_makes_nothing(
    tmp_path: Path, command: Pulzar, name: str
) -> None:
    code, output, said = command(name, str(tmp_path))
    assert (code, output) == (6, [])
    assert "is not a volume" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["check", "rebuild", "inspect"])
def test_command_on_a_volume_in_use_says_so(data: Path, command: Pulzar, name: str) -> None:
    lock = SystemDisk().lock(str(data / "volume" / "LOCK"))
    code, output, said = command(name, str(data))
    lock.release()
    assert (code, output) == (6, [])
    assert "in use" in said


def test_rebuild_of_a_volume_without_its_data_directory_says_so(
    data: Path, command: Pulzar
) -> None:
    copy = data.parent / "copy"
    shutil.copytree(data / "volume", copy)
    code, _, said = command("rebuild", str(copy))
    assert code == 6
    assert "not the volume/ of a data directory" in said
    assert command("check", str(copy))[0] == 0


def test_rebuild_reports_the_damage_that_it_meets(data: Path, command: Pulzar) -> None:
    flip(data, VALUE + b"3")
    code, (made,), said = command("rebuild", str(data))
    assert (code, made["damaged"]) == (5, 1)
    assert f"`pulzar check {data}` lists all there is" in said


@pytest.mark.parametrize("name", ["check", "rebuild", "inspect"])
def test_command_on_what_is_not_there_says_so(tmp_path: Path, command: Pulzar, name: str) -> None:
    code, output, said = command(name, str(tmp_path / "missing"))
    assert (code, output) == (6, [])
    assert said.startswith("pulzar: ")
    assert said.count("\n") == 1


def test_init_wants_a_name(command: Pulzar) -> None:
    code, _, said = command("init", "")
    assert (code, said) == (2, "pulzar: DIR is empty: name a folder, . for this one\n")
