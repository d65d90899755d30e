"""READ_ME.py, run as a stranger runs it, against the engine that wrote the volume."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pulzar.disk import SystemDisk
from pulzar.testing import SimulatedDisk
from pulzar.testing.index import DictIndex
from pulzar.varidb.blob import encode_blob
from pulzar.varidb.footer import build_footer
from pulzar.varidb.log import segment_path
from pulzar.varidb.read_me import READ_ME_NAME, read_me, write_read_me
from pulzar.varidb.record import Record, Type, encode, encode_meta, make_version
from pulzar.varidb.segment import KIND_COMPACTED, SegmentHeader, encode_segment_header
from pulzar.varidb.standalone_reader import Segment, _next, crc32c, file_name
from pulzar.varidb.volume import Options, Volume
from tests.model.engine import BLOB, Engine

NOW_MS = 1_700_000_000_000


class Mapped(bytes):
    """A map behind which there is nothing: looking for something must stop before its last byte,
    as some Pythons look at one byte more."""

    def find(self, what: bytes, start: int, end: int) -> int:  # type: ignore[override]
        assert end < len(self)
        return super().find(what, start, end)


def test_nothing_is_read_behind_the_end_of_a_segment() -> None:
    segment = Segment(1, "", 0, 0, 0, 1, 0, None, doubtful=False)
    for size in (8, 4096, 8192):
        for offset in (0, size - 8, size - 1, size):
            assert _next(segment, Mapped(size), offset) == size


def run(directory: str | Path, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
    """READ_ME.py with the standard library and nothing else."""
    command = [sys.executable, "-I", "-S", f"{directory}/{READ_ME_NAME}", *arguments]
    return subprocess.run(command, capture_output=True, check=False, timeout=15)


def listed(directory: str | Path, *options: str) -> dict[str, dict[str, object]]:
    done = run(directory, *options, "list", "--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["key"]: line for line in lines}


def put_on_disk(disk: SimulatedDisk, source: str, target: Path) -> None:
    """What a simulated disk holds, as real files."""
    for name in disk.list(source):
        path = f"{source}/{name}"
        try:
            file = disk.open(path)
        except IsADirectoryError:
            (target / name).mkdir(parents=True)
            put_on_disk(disk, path, target / name)
            continue
        (target / name).write_bytes(file.read(file.size(), offset=0))
        file.close()


def live_a_while(engine: Engine, rng: random.Random) -> None:
    """A random history: writes, large values, rolls, seals, compactions, restarts and crashes."""
    steps: list[Callable[[], object]] = [
        lambda: engine.volume.roll(now_ms=engine.now_ms),
        engine.seal,
        engine.compact,
        engine.restart,
        lambda: engine.crash(power=False),
        lambda: engine.crash(power=True),
    ]
    for _ in range(30):
        if rng.random() < 0.7:
            keys = [b"key/%d" % rng.randrange(12) for _ in range(rng.randrange(1, 5))]
            states = [
                None if rng.random() < 0.3 else rng.randbytes(rng.choice([0, 9, 900])) for _ in keys
            ]
            engine.write(zip(keys, states, strict=True), blob=rng.random() < 0.2)
        else:
            rng.choice(steps)()


@pytest.mark.parametrize("seed", range(8))
def test_a_stranger_reads_what_the_engine_reads(seed: int, tmp_path: Path) -> None:
    engine = Engine(seed)
    live_a_while(engine, random.Random(seed))
    engine.check()
    target = tmp_path / "volume"
    target.mkdir()
    put_on_disk(engine.disk, engine.directory, target)
    expected = {k.decode(): v for k, v in engine.acknowledged.items() if v is not None}
    assert set(listed(target)) == set(expected)
    done = run(target, "extract", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    for key, value in expected.items():
        assert (tmp_path / "out" / key).read_bytes().removeprefix(BLOB) == value


class RealVolume:
    """A volume in a real directory, closed after each write, as a crash never is."""

    def __init__(self, directory: Path) -> None:
        self.directory = str(directory)
        self.rng = random.Random(1)
        self.counter = 0
        self.open()

    def open(self) -> None:
        self.volume = Volume.open(
            self.directory,
            disk=SystemDisk(),
            open_index=lambda _: DictIndex(),
            token=self.rng.randbytes,
            now_ms=NOW_MS,
            options=Options(segment_bytes=1 << 20),
        )

    def put(self, key: bytes, value: bytes, *, expires_s: int = 0, meta: bytes = b"") -> None:
        self.append(Type.PUT, key, value, expires_s=expires_s, meta=meta)

    def append(
        self, type_: Type, key: bytes, value: bytes, *, expires_s: int = 0, meta: bytes = b""
    ) -> None:
        self.counter += 1
        record = Record(
            type=type_,
            key=key,
            value=value,
            version=make_version(1, self.counter),
            created_ms=NOW_MS,
            expires_s=expires_s,
            meta=meta,
        )
        self.volume.append([record], now_ms=NOW_MS)

    def close(self) -> None:
        self.volume.close(now_ms=NOW_MS)


@pytest.fixture
def real(tmp_path: Path) -> RealVolume:
    return RealVolume(tmp_path / "volume")


def test_a_value_comes_back_by_its_key(real: RealVolume, tmp_path: Path) -> None:
    real.put(b"notes/\xc3\xa9", b"\x00one\n", meta=encode_meta("text/plain"))
    real.close()
    done = run(real.directory, "get", "notes/é")
    assert (done.returncode, done.stdout) == (0, b"\x00one\n")
    run(real.directory, "get", "notes/é", str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == b"\x00one\n"
    assert run(real.directory, "get", "missing").returncode == 1


def test_a_moved_directory_is_read_where_it_is(real: RealVolume, tmp_path: Path) -> None:
    real.put(b"a", b"1")
    real.close()
    os.rename(real.directory, tmp_path / "elsewhere")
    assert set(listed(tmp_path / "elsewhere")) == {"a"}


def test_list_into_a_closed_pipe_ends_without_a_traceback(real: RealVolume) -> None:
    for number in range(3000):
        real.put(b"key/%d" % number, b"")
    real.close()
    command = [sys.executable, "-I", "-S", f"{real.directory}/{READ_ME_NAME}", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().endswith(b"key/0\n")
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == -signal.SIGPIPE


def test_the_data_directory_will_do_and_what_is_no_volume_is_one_sentence(tmp_path: Path) -> None:
    real = RealVolume(tmp_path / "data" / "volume")
    real.put(b"a", b"1")
    real.close()
    assert set(listed(real.directory, "--volume", str(tmp_path / "data"))) == {"a"}
    assert b"  never  " in run(real.directory, "list").stdout
    done = run(real.directory, "--volume", str(tmp_path / "none"), "list")
    said = f"{tmp_path}/none is no volume and holds none: there is no volume.json\n"
    assert (done.returncode, done.stderr.decode()) == (1, said)
    done = run(real.directory, "get", "a", str(tmp_path / "none" / "file"))
    assert done.stderr.decode() == f"{tmp_path}/none/file: No such file or directory\n"
    done = run(real.directory, "get", "a", str(tmp_path))
    assert done.stderr.decode() == f"{tmp_path}: Is a directory\n"


def test_what_has_expired_or_moved_away_is_not_there(real: RealVolume) -> None:
    real.put(b"gone", b"1", expires_s=NOW_MS // 1000 + 1)
    real.put(b"soon", b"1", expires_s=253_402_300_799)
    real.put(b"moved", b"1")
    real.append(Type.MOVED, b"moved", b"")
    real.close()
    assert set(listed(real.directory)) == {"soon"}
    assert listed(real.directory)["soon"]["expires"] == "9999-12-31T23:59:59Z"
    assert set(listed(real.directory, "--expired")) == {"soon", "gone"}


def test_what_is_not_the_users_is_not_shown(real: RealVolume, tmp_path: Path) -> None:
    real.put(b"\0jobs/0000000000000001", b"{}")
    real.put(b"key", b"1")
    real.close()
    assert set(listed(real.directory)) == {"key"}
    assert run(real.directory, "extract", str(tmp_path / "out")).returncode == 0
    assert os.listdir(tmp_path / "out") == ["key"]


def test_a_damaged_value_is_named_and_the_others_are_read(real: RealVolume, tmp_path: Path) -> None:
    real.put(b"good", b"G" * 100)
    real.put(b"bad", b"B" * 100)
    real.put(b"more", b"M" * 100)
    real.close()
    path = Path(segment_path(real.directory, 1))
    content = bytearray(path.read_bytes())
    content[content.find(b"B" * 100) + 50] ^= 1
    path.write_bytes(content)
    done = run(real.directory, "extract", str(tmp_path / "out"))
    assert done.returncode == 1
    assert b"bad" in done.stderr or b"damaged" in done.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["good", "more"]
    assert run(real.directory, "get", "bad").returncode == 1


KEYS = {"precious", "precious/0", "precious/1", "x"}


def compacted(*, live_ratio_max: float = 0.99) -> tuple[Engine, list[int]]:
    """A log of two segments, compacted; what the inputs held is nowhere else. The outputs."""
    engine = Engine(1)
    engine.write([(b"precious", b"p" * 900)])
    engine.write([(b"precious/%d" % n, b"p" * 900) for n in range(2)])
    engine.volume.roll(now_ms=engine.now_ms)
    for number in range(4):
        engine.write([(b"x", b"%d" % number)])
    engine.compact(
        live_ratio_max=live_ratio_max, segment_bytes=4096 if live_ratio_max > 0.9 else 1024
    )
    engine.now_ms += 200_000
    engine.volume.remove_retired(now_ms=engine.now_ms)
    return engine, [s.id for s in engine.volume.segments.values() if s.header.kind]


def flip_trailer(engine: Engine, segment: int) -> None:
    path = segment_path(engine.directory, segment)
    engine.disk.flip(path, engine.disk.open(path).size() - 30, 0)


def read_with_damage(engine: Engine, target: Path) -> tuple[set[str], str]:
    """The keys that READ_ME.py lists, and what it says is damaged."""
    target.mkdir()
    put_on_disk(engine.disk, engine.directory, target)
    done = run(target, "list", "--json")
    assert (done.returncode == 1) == bool(done.stderr)
    return {json.loads(line)["key"] for line in done.stdout.splitlines()}, done.stderr.decode()


@pytest.mark.parametrize("gone", [None, "MANIFEST"])
def test_an_output_whose_trailer_is_damaged_is_searched(gone: str | None, tmp_path: Path) -> None:
    engine, (output,) = compacted()
    assert read_with_damage(engine, tmp_path / "whole") == (KEYS, "")
    flip_trailer(engine, output)
    if gone:
        engine.disk.unlink(f"{engine.directory}/{gone}")
    keys, said = read_with_damage(engine, tmp_path / "damaged")
    assert keys == KEYS
    assert f"{output:08d}.seg: its trailer is damaged" in said
    if not gone:
        engine.restart()
        assert engine.volume.damaged
        assert engine.read(b"precious") == b"p" * 900


def test_a_sealed_segment_that_stands_alone_is_read_to_its_last_record(tmp_path: Path) -> None:
    engine, _ = compacted(live_ratio_max=0.6)
    assert 1 in engine.volume.segments
    assert 2 not in engine.volume.segments
    flip_trailer(engine, 1)
    keys, said = read_with_damage(engine, tmp_path / "damaged")
    assert keys == KEYS
    assert "00000001.seg: nothing tells whether it goes on" in said
    engine.restart()
    assert engine.volume.damaged
    assert engine.read(b"precious") == b"p" * 900


def test_without_a_manifest_everything_is_read(tmp_path: Path) -> None:
    engine, _ = compacted()
    engine.disk.unlink(f"{engine.directory}/MANIFEST")
    assert read_with_damage(engine, tmp_path / "volume") == (KEYS, "")


def uncommitted(real: RealVolume, *, ends: bool) -> None:
    """An output of compaction that no line of MANIFEST names, with a record that is newest."""
    header = SegmentHeader(
        volume_id=real.volume.id, salt=bytes(16), segment_id=9, kind=KIND_COMPACTED
    )
    record = Record(
        type=Type.PUT, key=b"a", value=b"2", version=make_version(2, 1), created_ms=NOW_MS
    )
    content = encode_segment_header(header)
    content += encode(record, seq=99, synced=98, offset=len(content), seed=header.seed)
    if ends:
        content += build_footer(header, [], records_end=len(content), inputs=[(1, 1)])
    Path(segment_path(real.directory, 9)).write_bytes(content)


@pytest.mark.parametrize("ends", [True, False])
def test_an_output_that_the_manifest_does_not_name_is_not_read(
    real: RealVolume, *, ends: bool
) -> None:
    real.put(b"a", b"1")
    real.close()
    uncommitted(real, ends=ends)
    assert listed(real.directory)
    assert run(real.directory, "get", "a").stdout == b"1"
    Path(real.directory, "MANIFEST").unlink()
    done = run(real.directory, "get", "a")
    if ends:  # all that it stands for is there
        assert (done.returncode, done.stdout, done.stderr) == (0, b"1", b"")
    else:
        assert (done.returncode, done.stdout) == (1, b"2")
        assert b"00000009.seg: its trailer is damaged" in done.stderr


def test_a_damaged_segment_header_is_taken_from_elsewhere_and_never_passed_over(
    tmp_path: Path,
) -> None:
    engine, (output,) = compacted()
    engine.disk.flip(segment_path(engine.directory, output), 60, 0)
    for number, lost in enumerate(["LOCK", "MANIFEST"]):
        engine.disk.unlink(f"{engine.directory}/{lost}")
        keys, said = read_with_damage(engine, tmp_path / str(number))
        assert keys == KEYS
        assert f"{output:08d}.seg: its header is damaged" in said
    flip_trailer(engine, output)
    keys, said = read_with_damage(engine, tmp_path / "both")
    assert f"{output:08d}.seg: its header is damaged" in said


def test_a_segment_that_is_a_value_is_only_a_value(real: RealVolume) -> None:
    real.put(b"victim", b"old")
    inside = Path(segment_path(real.directory, 1)).read_bytes()[:400]
    real.append(Type.DELETE, b"victim", b"")
    real.put(b"file", inside)
    real.close()
    assert set(listed(real.directory)) == {"file"}
    assert run(real.directory, "get", "file").stdout == inside


def test_a_blob_is_checked_chunk_by_chunk(real: RealVolume) -> None:
    writer = real.volume.blob_writer()
    writer.write(b"x" * 1_500_000)
    blob = writer.finish()
    real.append(Type.BLOB, b"large", encode_blob(blob))
    real.close()
    assert listed(real.directory)["large"]["size"] == 1_500_000
    assert len(run(real.directory, "get", "large").stdout) == 1_500_000
    path = next(Path(real.directory, "blobs").glob("*/*.blob"))
    with path.open("r+b") as file:
        file.seek(1_200_000)
        file.write(b"y")
    done = run(real.directory, "get", "large")
    assert done.returncode == 1
    assert b"chunk 1" in done.stderr


HOSTILE = [
    "../x",
    "/abs",
    "a",
    "a/b",
    "a/b/c",
    ".",
    "..",
    "a//b",
    "%2E",
    "p" * 300,
    "q" * 300 + "/1",
]


def test_no_key_leaves_the_directory_that_it_is_extracted_to(
    real: RealVolume, tmp_path: Path
) -> None:
    for key in HOSTILE:
        real.put(key.encode(), key.encode())
    real.close()
    target = tmp_path / "deep" / "out"
    done = run(real.directory, "extract", str(target))
    assert done.returncode == 0, done.stderr
    names = json.loads((tmp_path / "deep" / "out.names.json").read_text())
    files = [path for path in target.rglob("*") if path.is_file()]
    assert {path.read_text() for path in files} == set(HOSTILE)
    for path in files:
        name = str(path.relative_to(target))
        assert names.get(name, name) == path.read_text()
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["out", "out.names.json"]
    assert b"not empty" in run(real.directory, "extract", str(target)).stderr


def test_two_keys_never_share_a_file_name() -> None:
    keys = [*HOSTILE, "%0", "", "a%", "%25", "p" * 301, "é" * 150, "é" * 151]
    assert len({file_name(key) for key in keys}) == len(keys)


def test_the_checksum_is_the_one_of_rfc_3720() -> None:
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_a_newer_version_replaces_it_and_a_full_disk_is_no_reason_to_stop() -> None:
    disk = SimulatedDisk()
    disk.make_directory("/v")
    disk.create(f"/v/{READ_ME_NAME}").write([b"old"], offset=0)
    write_read_me(disk, "/v")
    file = disk.open(f"/v/{READ_ME_NAME}")
    assert file.read(file.size(), offset=0) == read_me()
    full = SimulatedDisk(capacity=100)
    full.make_directory("/v")
    write_read_me(full, "/v")
    assert not full.exists(f"/v/{READ_ME_NAME}")
