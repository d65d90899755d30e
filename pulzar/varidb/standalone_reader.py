"""Read a Pulzar volume without Pulzar: Python 3.8+ and its standard library are enough.

This file lies in every volume directory, beside the data, so that a backup explains itself:

    python3 READ_ME.py list [PREFIX] [--json]    every live key: size, written, expires, key
    python3 READ_ME.py get KEY [FILE]            one value, to a file or to stdout
    python3 READ_ME.py extract DIRECTORY         every live value into a new directory, as files

It only reads, and it reads everything again each time, a few MiB a second. Take a copy of a volume
whose server runs, or stop the server first. What does not match its checksum is named on stderr and
left out; the exit code is 1 then, and where there is no such key.

How a volume is laid out: segments/*.seg hold records one behind the other, blobs/*/*.blob one large
value each. Of each key the record with the largest (version, seq) counts; it may be a DELETE.
docs/log-format.md of Pulzar's source is the whole story.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import signal
import struct
import sys
import time
from datetime import datetime, timezone
from typing import Any, BinaryIO, Iterator, NamedTuple

FORMAT = 1
SEGMENT = struct.Struct("<8sIHH16s16sQQQQQ16s24x")  # 128 bytes, at the beginning of a segment
TRAILER = struct.Struct("<8sII16s16sQQQQQIIIIIHxxQ8x")  # 128 bytes, at the end of a sealed one
RECORD = struct.Struct("<IIBBHIIIQQQQQ")  # 64 bytes, then key, meta, value, zeros to 8
BLOB = struct.Struct("<QIH")  # the value of a BLOB: size, chunk bytes, length of the name
MAGIC = b"RPZ1"
PUT, DELETE, BLOB_TYPE, MOVED = 1, 2, 3, 4
KEYED = (PUT, DELETE, BLOB_TYPE, MOVED)
KEY_BYTES_MAX = 480
NAME_BYTES_MAX = 200  # of one part of a path; most file systems allow 255


TABLE = list(range(256))
for _ in range(8):
    TABLE = [one >> 1 ^ (0x82F63B78 if one & 1 else 0) for one in TABLE]


def crc32c(data: bytes, crc: int = 0) -> int:
    """The checksum of everything here (RFC 3720, appendix B.4)."""
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


class Segment(NamedTuple):
    """One file of segments/. `records_end` is None where no trailer tells."""

    id: int
    path: str
    kind: int  # 0: of the log, 1: written by compaction
    previous_id: int
    previous_end: int
    first_seq: int
    seed: int
    records_end: int | None


class Record(NamedTuple):
    """One record whose header holds. `whole` is whether its meta and value were seen to hold."""

    segment: Segment
    offset: int
    type: int
    key: bytes
    meta_length: int
    value_length: int
    body_crc: int
    seq: int
    version: int
    synced: int
    created_ms: int
    expires_s: int
    whole: bool

    @property
    def body_at(self) -> int:
        """Where meta and value are in the segment."""
        return self.offset + RECORD.size + len(self.key)

    @property
    def end(self) -> int:
        """Where the next record begins."""
        return self.body_at + self.meta_length + self.value_length + 7 & ~7


class Gap(NamedTuple):
    """Bytes between two offsets that are no record."""

    offset: int
    end: int


class Damage(Exception):
    """Bytes that are not what was written."""


class Volume:
    """A volume directory, read from the beginning to the end. `damage` collects what is wrong."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.damage: list[str] = []
        with open(os.path.join(directory, "volume.json"), "rb") as file:
            identity = json.loads(file.read())
        if identity["format"] > FORMAT:
            sys.exit(f"this volume has format {identity['format']}: take its own READ_ME.py")
        self.id = bytes.fromhex(identity["volume_id"])
        self.newest: dict[bytes, Record] = {}
        self._added = self._manifest()
        self._read()

    def live(self, prefix: str, now_s: float) -> Iterator[Record]:
        """The newest record of each key under a prefix that is there and has not expired."""
        for key in sorted(key for key in self.newest if key.startswith(prefix.encode())):
            record = self.newest[key]
            expired = record.expires_s and record.expires_s <= now_s
            if record.type in (PUT, BLOB_TYPE) and not expired:
                yield record

    def size(self, record: Record) -> int | None:
        """The bytes of a value; None where that is damaged."""
        if record.type == PUT:
            return record.value_length
        try:
            return int(BLOB.unpack_from(self._value(record))[0])
        except Damage as error:
            self.damage.append(f"{record.key.decode()}: {error}")
            return None

    def write_value(self, record: Record, target: BinaryIO) -> None:
        """Write a value, checked piece by piece. Raises Damage."""
        value = self._value(record)
        if record.type == PUT:
            target.write(value)
            return
        size, chunk_bytes, name_length = BLOB.unpack_from(value)
        crcs_at = BLOB.size + name_length
        name = value[BLOB.size : crcs_at].decode()
        crcs = struct.unpack_from(f"<{(len(value) - crcs_at) // 4}I", value, crcs_at)
        try:
            file = open(os.path.join(self.directory, "blobs", name[:2], name + ".blob"), "rb")
        except OSError as error:
            raise Damage(f"its blob {name} cannot be read: {error.strerror}") from None
        with file:
            for number, crc in enumerate(crcs):
                chunk = file.read(min(chunk_bytes, size - number * chunk_bytes))
                if crc32c(chunk) != crc:
                    raise Damage(f"chunk {number} of its blob {name} does not match its checksum")
                target.write(chunk)

    def _value(self, record: Record) -> bytes:
        with open(record.segment.path, "rb") as file:
            file.seek(record.body_at)
            body = file.read(record.meta_length + record.value_length)
        if crc32c(body) != record.body_crc:
            raise Damage("its value does not match its checksum")
        return body[record.meta_length :]

    # From files to records.

    def _manifest(self) -> dict[int, dict[str, Any]]:
        """What MANIFEST knows of each segment's header, should that be damaged."""
        added: dict[int, dict[str, Any]] = {}
        with open(os.path.join(self.directory, "MANIFEST"), "rb") as file:
            lines = file.read().splitlines(keepends=True)
        for line in lines:
            text = line[9:-1]
            if line.endswith(b"\n") and line[:9] == b"%08x " % crc32c(text):
                event = json.loads(text)
                if event["event"] == "added":
                    added[event["segment"]] = event
        return added

    def _read(self) -> None:
        folder = os.path.join(self.directory, "segments")
        segments = []
        for name in sorted(os.listdir(folder)):
            stem, _, suffix = name.partition(".")
            if suffix == "seg" and stem.isdigit():
                segment = self._segment(int(stem), os.path.join(folder, name))
                if segment is not None:
                    segments.append(segment)
        segments.sort(key=lambda segment: segment.id)
        log = [segment for segment in segments if segment.kind == 0]
        unborn = []
        while log and not self._is_born(log[-1]):
            unborn.append(log.pop())
        continued = {segment.previous_id for segment in log}
        unborn += [s for s in log[:-1] if s.records_end is None and s.id not in continued]
        log = [segment for segment in log if segment not in unborn]
        ends = {segment.previous_id: segment.previous_end for segment in log}
        next_seq = 1
        for segment in segments:
            if segment in unborn or (segment.kind and segment.records_end is None):
                continue
            end = ends.get(segment.id) if segment.records_end is None else segment.records_end
            records = self._tail(segment) if end is None else self._whole(segment, end)
            if segment in log[-1:]:
                next_seq = max((record.seq for record in records), default=0) + 1
            self._take(records)
        # A new segment that was begun and not used: it may carry the end of the one before.
        for segment in sorted(unborn):
            for item in self._items(segment, os.path.getsize(segment.path), whole=True):
                if isinstance(item, Record) and item.whole and item.seq == next_seq:
                    self._take([item])
                    next_seq += 1

    def _take(self, records: list[Record]) -> None:
        for record in records:
            known = self.newest.get(record.key)
            newer = known is None or (record.version, record.seq) > (known.version, known.seq)
            if record.type in KEYED and newer:
                self.newest[record.key] = record

    def _segment(self, number: int, path: str) -> Segment | None:
        with open(path, "rb") as file:
            head = file.read(SEGMENT.size)
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - TRAILER.size))
            tail = file.read()
        trailer = TRAILER.unpack(tail) if _holds(tail, b"PULZEND1") else None
        if _holds(head, b"PULZSEG1"):
            kind, volume, salt, own, previous, previous_end, first = SEGMENT.unpack(head)[3:10]
        elif number in self._added:
            line = self._added[number]
            kind, volume, salt, own = line["kind"], self.id, bytes.fromhex(line["salt"]), number
            previous, previous_end = line["previous"], line["previous_end"]
            first = line["first_seq"]
            self.damage.append(f"{path}: its header is damaged; MANIFEST tells what it was")
        else:
            return None  # a crash while it was made
        if (volume, own) != (self.id, number):
            return None
        seed = crc32c(salt + struct.pack("<Q", number))
        records_end = trailer[6] if trailer is not None and trailer[4] == salt else None
        return Segment(number, path, kind, previous, previous_end, first, seed, records_end)

    def _is_born(self, segment: Segment) -> bool:
        """Whether a record in it proves that all it stands on was durable."""
        if segment.previous_id == 0 or segment.records_end is not None:
            return True
        items = self._items(segment, os.path.getsize(segment.path))
        proof = segment.first_seq - 1
        return any(isinstance(item, Record) and item.synced >= proof for item in items)

    def _whole(self, segment: Segment, end: int) -> list[Record]:
        """The records of a segment of which it is known where they end."""
        items = list(self._items(segment, end))
        for gap in items:
            if isinstance(gap, Gap):
                self.damage.append(f"{segment.path}: bytes {gap.offset} to {gap.end} are no record")
        return [item for item in items if isinstance(item, Record)]

    def _tail(self, segment: Segment) -> list[Record]:
        """The records of the last segment. It ends in front of the first thing that is no record,
        unless something behind that says that it was durable once: then it is damage."""
        items = list(self._items(segment, os.path.getsize(segment.path), whole=True))
        durable = segment.first_seq - 1 if segment.previous_id else 0
        proven = [item.synced if isinstance(item, Record) else 0 for item in items]
        for at in range(len(proven) - 2, -1, -1):
            proven[at] = max(proven[at], proven[at + 1])
        records: list[Record] = []
        expected = 1
        for item, later in zip(items, proven):
            seq = item.seq if isinstance(item, Record) else expected
            bad = not isinstance(item, Record) or not item.whole or (records and seq < expected)
            if bad:
                if seq > max(durable, later):
                    break
                self.damage.append(f"{segment.path}: the record at {item.offset} is damaged")
            if isinstance(item, Record):
                records.append(item)
                expected = seq + 1
        return records

    def _items(self, segment: Segment, end: int, *, whole: bool = False) -> Iterator[Record | Gap]:
        """Records and the gaps between them. `whole`: check meta and value too."""
        with open(segment.path, "rb") as file:
            if end <= SEGMENT.size:
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                offset, end = SEGMENT.size, min(end, len(data))
                while offset < end:
                    record = _record(segment, data, offset, whole=whole)
                    record = record or _mended(segment, data, offset, whole=whole)
                    if record is not None:
                        yield record
                        offset = record.end
                        continue
                    resumed = _next(segment, data, offset + 8, end)
                    yield Gap(offset, resumed)
                    offset = resumed


def _holds(block: bytes, magic: bytes) -> bool:
    """Whether a header or trailer is one: its checksum covers all but itself."""
    if len(block) < 128 or block[:8] != magic:
        return False
    return crc32c(block[12:], crc32c(block[:8])) == int.from_bytes(block[8:12], "little")


def _record(
    segment: Segment, data: Any, offset: int, *, whole: bool = False, block: bytes = b""
) -> Record | None:
    """The record at an offset. Its checksum covers the place, so it is valid nowhere else.

    `block`: its header and key, where they are not to be taken from `data`.
    """
    block = block or data[offset : offset + RECORD.size + KEY_BYTES_MAX]
    if len(block) < RECORD.size or block[:4] != MAGIC:
        return None
    _, crc, type_, _, key_length, *rest = RECORD.unpack_from(block)
    key = bytes(block[RECORD.size : RECORD.size + key_length])
    covered = struct.pack("<Q", offset) + block[8 : RECORD.size] + key
    if len(key) != key_length or crc32c(covered, segment.seed) != crc:
        return None
    record = Record._make((segment, offset, type_, key, *rest, True))
    if whole:
        body = data[record.body_at : record.body_at + record.meta_length + record.value_length]
        record = record._replace(whole=crc32c(body) == record.body_crc)
    return record


def _mended(segment: Segment, data: Any, offset: int, *, whole: bool) -> Record | None:
    """The record at an offset, if one flipped bit of its header or key is all that is wrong."""
    block = bytearray(data[offset : offset + RECORD.size + KEY_BYTES_MAX])
    wrong = int.from_bytes(block[:4], "little") ^ int.from_bytes(MAGIC, "little")
    if len(block) < RECORD.size or wrong & wrong - 1:
        return None
    key_length = int.from_bytes(block[10:12], "little")
    for bit in range(min(len(block), RECORD.size + key_length) * 8):
        block[bit >> 3] ^= 1 << (bit & 7)
        record = _record(segment, data, offset, whole=whole, block=bytes(block))
        if record is not None:
            return record
        block[bit >> 3] ^= 1 << (bit & 7)
    return None


def _next(segment: Segment, data: Any, offset: int, end: int) -> int:
    """Where the next record begins, at a multiple of 8."""
    while (offset := data.find(MAGIC, offset, end)) >= 0:
        if offset % 8 == 0 and _record(segment, data, offset) is not None:
            return offset
        offset += 1
    return end


# What the commands do.


def find_volume(directory: str) -> str:
    """The volume that is a directory, or in it as in a data directory."""
    for path in (directory, os.path.join(directory, "volume")):
        if os.path.exists(os.path.join(path, "volume.json")):
            return path
    sys.exit(f"{directory} is no volume and holds none: there is no volume.json")


def show(volume: Volume, prefix: str, *, as_json: bool, now_s: float) -> None:
    """List the live keys under a prefix."""
    never = None if as_json else "never"
    form = "{size!s:>14}  {created}  {expires:20}  {key}"
    for record in volume.live(prefix, now_s):
        line = {
            "key": record.key.decode(),
            "size": volume.size(record),
            "version": f"{record.version:016x}",
            "created": _date(record.created_ms / 1000),
            "expires": _date(record.expires_s) if record.expires_s else never,
        }
        print(json.dumps(line, ensure_ascii=False) if as_json else form.format(**line))


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def get(volume: Volume, key: str, target: str, *, now_s: float) -> bool:
    """Write one value to a file, or to stdout; whether there is such a key. Raises Damage."""
    for record in volume.live(key, now_s):
        if record.key == key.encode():
            with open(1 if target == "-" else target, "wb", closefd=target != "-") as file:
                volume.write_value(record, file)
            return True
    return False


def extract(volume: Volume, directory: str, prefix: str, *, now_s: float) -> int:
    """Write every live value under a prefix into a new directory; how many.

    A key becomes a path. Where it cannot (see `file_name`), DIRECTORY.names.json tells the key.
    """
    os.makedirs(directory, exist_ok=True)
    if os.listdir(directory):
        sys.exit(f"{directory} is not empty: name a new directory")
    records = list(volume.live(prefix, now_s))
    keys = [record.key.decode() for record in records]
    parts = [file_name(key).split("/") for key in keys]
    folders = {"/".join(path[:depth]) for path in parts for depth in range(1, len(path))}
    changed = {}
    done = 0
    for record, key, path_parts in zip(records, keys, parts):
        name = "/".join(path_parts)
        if name in folders:  # a key that is also the beginning of another
            name += "%"
        if name != key:
            changed[name] = key
        path = os.path.join(directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            with open(path, "xb") as file:
                volume.write_value(record, file)
            done += 1
        except Damage as error:
            volume.damage.append(f"{key}: {error}")
            os.unlink(path)
    if changed:
        with open(directory.rstrip("/") + ".names.json", "w", encoding="utf-8") as names:
            json.dump(changed, names, ensure_ascii=False, indent=1)
    return done


def file_name(key: str) -> str:
    """A relative path for a key: no empty, dotted or too long part, and never one for two keys.

    `%` becomes `%25`; an empty part `%0`; `.` and `..` `%2E` and `%2E%2E`; of a part that is too
    long only the beginning and a number made of the whole stay.
    """
    parts = []
    for part in key.split("/"):
        name = part.replace("%", "%25")
        if part in ("", ".", ".."):
            name = part.replace(".", "%2E") or "%0"
        raw = name.encode()
        if len(raw) > NAME_BYTES_MAX:
            number = "".join(f"{crc32c(bytes([seed]) + raw):08x}" for seed in range(4))
            name = raw[:NAME_BYTES_MAX].decode(errors="ignore") + "%_" + number
        parts.append(name)
    return "/".join(parts)


def main() -> int:
    """What the command line asks for; the exit code."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    here = os.path.dirname(os.path.abspath(__file__))
    parser.add_argument("--volume", default=here, help="the volume, or the data directory of it")
    parser.add_argument("--expired", action="store_true", help="what has expired is shown too")
    commands = parser.add_subparsers(dest="command")
    listing = commands.add_parser("list", help="every live key")
    listing.add_argument("prefix", nargs="?", default="")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    getting = commands.add_parser("get", help="one value")
    getting.add_argument("key")
    getting.add_argument("file", nargs="?", default="-")
    extracting = commands.add_parser("extract", help="every live value as a file")
    extracting.add_argument("directory")
    extracting.add_argument("prefix", nargs="?", default="")
    arguments = parser.parse_args(sys.argv[1:] or ["list"])
    volume = Volume(find_volume(arguments.volume))
    now_s = 0 if arguments.expired else time.time()
    good = True
    try:
        if arguments.command == "get":
            good = get(volume, arguments.key, arguments.file, now_s=now_s)
            if not good:
                print(f"there is no key {arguments.key}", file=sys.stderr)
        elif arguments.command == "extract":
            done = extract(volume, arguments.directory, arguments.prefix, now_s=now_s)
            print(f"{done} values are in {arguments.directory}")
        else:
            show(volume, arguments.prefix, as_json=arguments.json, now_s=now_s)
    except Damage as error:
        volume.damage.append(f"{arguments.key}: {error}")
    for line in volume.damage:
        print(f"damaged: {line}", file=sys.stderr)
    return 0 if good and not volume.damage else 1


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    if hasattr(signal, "SIGPIPE"):  # `list | head` ends as cat does
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        sys.exit(main())
    except OSError as problem:
        sys.exit(f"{problem.filename or 'output'}: {problem.strerror}")
