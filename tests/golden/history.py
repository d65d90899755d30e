"""The history whose files are kept in tests/golden/volume: every type of record and of file.

    python -m tests.golden.history     writes the directory anew; a change of it is a new format

It runs on a simulated disk, with seeded random bytes and a clock that stands still, so that it
gives the same bytes everywhere. It ends without a clean stop: the last segment has no footer.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

from pulzar.testing import SimulatedDisk
from pulzar.varidb.blob import encode_blob
from pulzar.varidb.record import Record, Type, encode_meta, make_version
from tests.model.engine import Engine

VOLUME = Path(__file__).parent / "volume"
LEFT_OUT = {"READ_ME.py", "LOCK"}  # the one has tests of its own, the other is empty
LARGE = bytes(range(256)) * 8

LIVE: dict[bytes, bytes] = {
    b"empty": b"",
    b"typed": b'{"a": 1}\n',
    "schlüssel/钥匙".encode(): b"a key of many letters",
    b"twice": b"the second value",
    b"expires": b"in the year 9999",
    b"large": LARGE,
    b"late": b"carried into a new segment",
    b"latest": b"in a segment without a footer",
}
"""What a reader finds, but for what has expired."""


def record(engine: Engine, type_: Type, key: bytes, value: bytes = b"", **more: object) -> Record:
    """The next record of the history."""
    engine.version += 1
    fields: dict[str, object] = {
        "type": type_,
        "key": key,
        "value": value,
        "version": engine.version,
        "created_ms": engine.now_ms,
        **more,
    }
    return Record(**fields)  # type: ignore[arg-type]


def play() -> Engine:
    """Live it, and stop in the middle."""
    engine = Engine(7)
    volume, now_ms = engine.volume, engine.now_ms
    writer = volume.blob_writer()
    writer.write(LARGE)
    blob = encode_blob(writer.finish())
    members = b'{"generation":1,"members":["' + volume.id.hex().encode() + b'"]}'
    volume.append(
        [
            Record(type=Type.EPOCH, version=make_version(1, 0), created_ms=now_ms),
            Record(type=Type.MEMBERS, value=members, created_ms=now_ms),
            record(engine, Type.PUT, b"empty"),
            record(engine, Type.PUT, b"typed", LIVE[b"typed"], meta=encode_meta("text/json")),
            record(engine, Type.PUT, "schlüssel/钥匙".encode(), b"a key of many letters"),
            record(engine, Type.PUT, b"twice", b"the first value"),
            record(engine, Type.PUT, b"expires", b"in the year 9999", expires_s=253_402_300_799),
            record(engine, Type.PUT, b"expired", b"in 1970", expires_s=2000),
            record(engine, Type.BLOB, b"large", blob),
            record(engine, Type.PUT, b"deleted", b"soon"),
            record(engine, Type.PUT, b"moved", b"to another volume"),
        ],
        now_ms=now_ms,
    )
    volume.roll(now_ms=now_ms)
    volume.append(
        [
            record(engine, Type.PUT, b"twice", LIVE[b"twice"]),
            record(engine, Type.DELETE, b"deleted"),
            record(engine, Type.MOVED, b"moved"),
        ],
        now_ms=now_ms,
    )
    engine.compact()  # rewrites, and keeps the old files for the grace
    engine.now_ms += 200_000
    volume.remove_retired(now_ms=engine.now_ms)
    volume.append([record(engine, Type.PUT, b"passing", b"x" * 300)], now_ms=now_ms)
    volume.append([record(engine, Type.DELETE, b"passing")], now_ms=now_ms)
    engine.compact()  # purges: nothing older of that key is left
    volume.append([record(engine, Type.PUT, b"late", LIVE[b"late"])], now_ms=engine.now_ms)
    engine.disk.kill()
    engine.index.reset()
    volume = engine.open()  # carries what may not have been durable into a new segment
    volume.append([record(engine, Type.PUT, b"latest", LIVE[b"latest"])], now_ms=engine.now_ms)
    return engine


def files(disk: SimulatedDisk, path: str, name: str = "") -> Iterator[tuple[str, bytes]]:
    """Every file below a directory of a simulated disk: relative path, content."""
    for entry in disk.list(path):
        below = f"{path}/{entry}"
        try:
            file = disk.open(below)
        except IsADirectoryError:
            yield from files(disk, below, f"{name}{entry}/")
            continue
        if entry not in LEFT_OUT:
            yield name + entry, file.read(file.size(), offset=0)
        file.close()


def main() -> None:
    """Write tests/golden/volume anew."""
    engine = play()
    shutil.rmtree(VOLUME, ignore_errors=True)
    for name, content in files(engine.disk, engine.directory):
        path = VOLUME / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


if __name__ == "__main__":
    main()
