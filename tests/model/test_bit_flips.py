"""Every bit of what describes the data, flipped; and samples of the data itself.

A volume with one of everything is damaged in one bit, and opened: with the index that it had, and
with none. Then each key has its value, or is reported as damaged. Never an older value, never a
wrong byte, never a deleted key that is back, never an error that is not one of ours; and opening
it once more ends the same.

Where it cannot be told which key a damaged place belonged to, `Volume.damaged` must have it.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from pulzar.errors import Damage, OpenError
from pulzar.testing import SimulatedDisk
from pulzar.testing.copies import Snapshot
from pulzar.testing.index import DictIndex
from pulzar.varidb.check import check
from pulzar.varidb.footer import TRAILER_BYTES, read_trailer
from pulzar.varidb.log import SEGMENTS, segment_path
from pulzar.varidb.record import HEADER_BYTES, padded
from pulzar.varidb.segment import SEGMENT_HEADER_BYTES, Found, decode_segment_header, scan
from pulzar.varidb.volume import Volume
from tests.model.engine import Engine, State, open_volume, read

DIRECTORY = "/volume"
SAMPLES = 64
EVERY_BIT_BYTES = 170  # of larger parts, one bit of each byte


class World(NamedTuple):
    """A volume before it is damaged."""

    snapshot: Snapshot
    index_view: DictIndex
    expected: dict[bytes, State]
    disk: SimulatedDisk


def build() -> World:
    """Overwritten and deleted keys, a blob; sealed, compacted, retired and unsealed segments."""
    engine = Engine(3)
    engine.write([(b"kept", b"k" * 90), (b"changed", b"old"), (b"gone", b"soon")])
    engine.write([(b"large", b"in a file")], blob=True)
    engine.write([(b"changed", b"new"), (b"gone", None)])
    engine.compact()
    engine.write([(b"changed", b"newer"), (b"sealed", b"s" * 40), (b"both", b"first")])
    engine.volume.roll(now_ms=engine.now_ms)
    engine.seal()
    engine.write([(b"both", b"second"), (b"open", b"o" * 30)])
    engine.write([(b"back", b"no"), (b"late", b"l")])
    engine.write([(b"back", None)])
    engine.disk.kill()
    return World(
        engine.disk.snapshot(DIRECTORY), engine.index, dict(engine.acknowledged), engine.disk
    )


WORLD = build()


def parts() -> Iterator[tuple[str, str, list[int]]]:
    """(name of the part, file, its byte offsets)."""
    disk = WORLD.disk
    for name in ("volume.json", "MANIFEST"):
        yield name, name, list(range(disk_size(name)))
    for name in disk.list(f"{DIRECTORY}/{SEGMENTS}"):
        path = f"{SEGMENTS}/{name}"
        file = disk.open(f"{DIRECTORY}/{path}")
        header = decode_segment_header(file.read(SEGMENT_HEADER_BYTES, offset=0))
        assert header is not None
        yield f"{name} header", path, list(range(SEGMENT_HEADER_BYTES))
        trailer = read_trailer(file)
        end = file.size() if trailer is None else trailer.records_end
        heads: list[int] = []
        bodies: list[int] = []
        for item in scan(file, start=SEGMENT_HEADER_BYTES, end=end, seed=header.seed):
            if isinstance(item, Found):
                key_end = item.offset + HEADER_BYTES + item.header.key_length
                heads += range(item.offset, key_end)
                bodies += range(key_end, item.offset + padded(item.header.length))
        yield f"{name} record headers and keys", path, heads
        if trailer is None:
            yield f"{name} first records, every bit", path, heads[:EVERY_BIT_BYTES]
        yield f"{name} values", path, sampled(bodies)
        if trailer is not None:
            size = file.size()
            yield f"{name} footer", path, sampled(range(end, size - TRAILER_BYTES))
            yield f"{name} trailer", path, list(range(size - TRAILER_BYTES, size))
    blob = next(iter(blobs(disk)))
    yield "blob", blob, sampled(range(disk_size(blob)))


def disk_size(name: str) -> int:
    file = WORLD.disk.open(f"{DIRECTORY}/{name}")
    return file.size()


def blobs(disk: SimulatedDisk) -> Iterator[str]:
    for group in disk.list(f"{DIRECTORY}/blobs"):
        for name in disk.list(f"{DIRECTORY}/blobs/{group}"):
            yield f"blobs/{group}/{name}"


def sampled(offsets: "range | list[int]") -> list[int]:
    known = list(offsets)
    return known if len(known) <= SAMPLES else sorted(random.Random(1).sample(known, SAMPLES))


def index_as_it_was() -> DictIndex:
    """The index that the process left, which the next one may trust."""
    index = DictIndex()
    was = WORLD.index_view
    index.apply(list(was.entries.items()), was.cursor(), was.place())
    return index


PARTS = list(parts())


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("indexed", [False, True], ids=["no index", "index"])
@pytest.mark.parametrize("part", range(len(PARTS)), ids=lambda number: PARTS[number][0])
def test_one_flipped_bit_is_detected_or_harmless(part: int, *, indexed: bool) -> None:
    _, name, offsets = PARTS[part]
    rng = random.Random(part)
    for offset in offsets:
        bits = range(8) if len(offsets) <= EVERY_BIT_BYTES else [rng.randrange(8)]
        for bit in bits:
            flip_and_read(name, offset, bit, indexed=indexed, twice=rng.random() < 0.2)


def damaged_disk(name: str, offset: int, bit: int) -> SimulatedDisk:
    disk = SimulatedDisk()
    disk.rollback(DIRECTORY, WORLD.snapshot)
    disk.flip(f"{DIRECTORY}/{name}", offset, bit)
    return disk


def flip_and_read(name: str, offset: int, bit: int, *, indexed: bool, twice: bool) -> None:
    disk = damaged_disk(name, offset, bit)
    place = f"{name} byte {offset} bit {bit}"
    index = index_as_it_was() if indexed else DictIndex()
    seen = answers(disk, index)
    for key, state in (seen or {}).items():
        if state is not DAMAGED:
            assert state == WORLD.expected[key], f"{place}: {key!r} is {state!r}"
    if seen is None or DAMAGED in seen.values():
        assert is_reported(damaged_disk(name, offset, bit)), f"{place}: check says nothing"
    if twice:  # a process that met it dies; the next one is no worse off
        disk.kill()
        again = answers(disk, index if indexed else DictIndex())
        assert again == seen, f"{place}: first {seen}, then {again}"


DAMAGED: State = b"<damaged>"


def answers(disk: SimulatedDisk, index: DictIndex) -> dict[bytes, State] | None:
    """What a reader gets for each key; None where the volume does not open."""
    try:
        volume = open_volume(disk, DIRECTORY, index, random.Random(5), 2_000_000)
    except OpenError:
        return None
    seen = {key: answer(volume, key) for key in WORLD.expected}
    if any(damaged.key is None for damaged in volume.damaged):
        # Which key was lost cannot be told: what is older, or nothing, is what is left of it.
        seen = {k: s if s == WORLD.expected[k] else DAMAGED for k, s in seen.items()}
    return seen


def answer(volume: Volume, key: bytes) -> State:
    try:
        return read(volume, key)
    except Damage:
        return DAMAGED


def is_reported(disk: SimulatedDisk) -> bool:
    """Whether `check` speaks of damage; a volume that it cannot open is some."""
    try:
        return any(finding.kind == "damage" for finding in check(DIRECTORY, disk))
    except OpenError:
        return True


def test_a_segment_inside_a_value_is_only_a_value() -> None:
    engine = Engine(4)
    engine.write([(b"victim", b"old")])
    engine.volume.roll(now_ms=engine.now_ms)
    engine.seal()
    file = engine.disk.open(segment_path(DIRECTORY, 1))
    inner = file.read(file.size(), offset=0)
    engine.write([(b"victim", b"new")])
    engine.write([(b"file", inner)])
    engine.volume.log.checkpoint(now_ms=engine.now_ms)  # else its damage looks like a torn tail
    path = segment_path(DIRECTORY, engine.volume.log.segment)
    outer = engine.disk.open(path)
    content = outer.read(outer.size(), offset=0)
    begins = content.index(inner)
    expected = dict(engine.acknowledged)
    engine.disk.kill()
    snapshot = engine.disk.snapshot(DIRECTORY)
    record_at = begins - HEADER_BYTES - len(b"file")
    for offset in [*range(record_at, begins), *range(begins, begins + 300)]:
        disk = SimulatedDisk()
        disk.rollback(DIRECTORY, snapshot)
        disk.flip(path, offset, offset % 8)
        volume = open_volume(disk, DIRECTORY, DictIndex(), random.Random(5), 2_000_000)
        assert read(volume, b"victim") == b"new", offset
        assert answer(volume, b"file") in (expected[b"file"], DAMAGED), offset
