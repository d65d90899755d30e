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

SEGMENT = struct.Struct("<8sIHH16s16sQQQQQ16s24x")  # 128 bytes, at the beginning of a segment
TRAILER = struct.Struct("<8sII16s16sQQQQQIIIIIHxxQ8x")  # 128 bytes, at the end of a sealed one
RECORD = struct.Struct("<IIBBHIIIQQQQQ")  # 64 bytes, then key, meta, value, zeros to 8
BLOB = struct.Struct("<QIH")  # the value of a BLOB: size, chunk bytes, length of the name
MAGIC = b"RPZ1"
KEYED = PUT, DELETE, BLOB_TYPE, MOVED = (1, 2, 3, 4)
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
    doubtful: bool  # by compaction, and MANIFEST does not name it


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
    body_at: int  # where meta and value are
    end: int  # where the next record begins
    whole: bool


class Damage(Exception):
    """Bytes that are not what was written."""


class Volume:
    """A volume directory, read from the beginning to the end. `damage` collects what is wrong."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.damage: list[str] = []
        with open(os.path.join(directory, "volume.json"), "rb") as file:
            identity, place = json.load(file), os.fstat(file.fileno())
        if identity["format"] > 1:
            sys.exit(f"this volume has format {identity['format']}: take its own READ_ME.py")
        self.id = bytes.fromhex(identity["volume_id"])
        self.newest: dict[bytes, Record] = {}
        self._named: dict[int, dict[str, Any]] = {}
        self._sealed: set[int] = set()
        self._intact = self._read_manifest(f"{place.st_dev}:{place.st_ino}")
        self._read()

    def live(self, prefix: str, now_s: float) -> Iterator[Record]:
        """The newest live record of each key under a prefix. 0x00 begins Pulzar's own keys."""
        for key in sorted(key for key in self.newest if key.startswith(prefix.encode())):
            record = self.newest[key]
            if key[0] and record.type in (PUT, BLOB_TYPE) and not 0 < record.expires_s <= now_s:
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

    def _read_manifest(self, place: str) -> bool:
        """Which segments MANIFEST names, with the header of each; whether it is all there."""
        try:
            with open(os.path.join(self.directory, "MANIFEST"), "rb") as file:
                lines = file.read().splitlines(keepends=True)
        except FileNotFoundError:
            return False
        is_copy = False  # of the directory: then files may be newer than MANIFEST
        good = [s for s in lines if s[-1:] == b"\n" and s[:9] == b"%08x " % crc32c(s[9:-1])]
        for event in (json.loads(line[9:]) for line in good):
            if event["event"] == "added":
                self._named[event["segment"]] = event
            elif event["event"] == "sealed":
                self._sealed.add(event["segment"])
            elif event["event"] == "opened":
                is_copy = event["place"] not in ("", place)
            for output in event.get("outputs", ()):
                self._named.setdefault(output, {})
            for gone in event.get("segments", ()):  # removed, lost
                self._named.pop(gone, None)
        return bool(self._named) and len(good) == len(lines) and not is_copy

    def _read(self) -> None:
        folder = os.path.join(self.directory, "segments")
        names = [name for name in sorted(os.listdir(folder)) if name.endswith(".seg")]
        found = [self._segment(folder, name) for name in names if name[:-4].isdigit()]
        segments = sorted(segment for segment in found if segment is not None)
        for segment in [segment for segment in segments if segment.doubtful]:
            segments.remove(segment)
            there = {other.id for other in segments}.union(*map(_inputs, segments))
            if not self._intact and not (_inputs(segment) or {0}) <= there:
                segments.append(segment)  # it may be all that is left of its inputs
        log = [segment for segment in segments if segment.kind == 0]
        unborn = []
        while log and not self._is_born(log[-1]):
            unborn.append(log.pop())
        continued = {segment.previous_id for segment in log}
        alone = [s for s in log[:-1] if s.records_end is None and s.id not in continued]
        unborn += [segment for segment in alone if not self._is_born(segment)]
        log = [segment for segment in log if segment not in unborn]
        ends = {segment.previous_id: segment.previous_end for segment in log}
        next_seq = 1
        for segment in [segment for segment in segments if segment not in unborn]:
            said = len(self.damage)
            end = ends.get(segment.id) if segment.records_end is None else segment.records_end
            if segment.records_end is None and (segment.kind or segment.id in self._sealed):
                self.damage.append(f"{segment.path}: its trailer is damaged")
            is_last = segment in log[-1:]
            records = self._tail(segment) if is_last and end is None else self._whole(segment, end)
            if is_last:
                next_seq = max((record.seq for record in records), default=0) + 1
            newer = [self._take(record) for record in records]
            if segment.doubtful and not any(newer):
                del self.damage[said:]  # the others hold all of it
        # A new segment that was begun and not used: it may carry the end of the one before.
        for segment in sorted(unborn):
            for item in self._items(segment, whole=True):
                if isinstance(item, Record) and item.whole and item.seq == next_seq:
                    self._take(item)
                    next_seq += 1

    def _take(self, record: Record) -> bool:
        """Whether a record is newer than all that is known of its key."""
        known = self.newest.get(record.key)
        newer = known is None or (record.version, record.seq) > (known.version, known.seq)
        if record.type in KEYED and newer:
            self.newest[record.key] = record
        return record.type in KEYED and newer

    def _segment(self, folder: str, name: str) -> Segment | None:
        path, number = os.path.join(folder, name), int(name[:-4])
        with open(path, "rb") as file:
            head = file.read(SEGMENT.size)
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - TRAILER.size))
            tail = file.read()
        trailer = TRAILER.unpack(tail) if _holds(tail, b"PULZEND1") else None
        line = self._named.get(number)
        holds = _holds(head, b"PULZSEG1")
        if not holds and any(head):  # zeros: a crash while it was made
            self.damage.append(f"{path}: its header is damaged")
        if holds:
            kind, volume, salt, own, previous, previous_end, first = SEGMENT.unpack(head)[3:10]
        elif line:
            kind, volume, salt, own = line["kind"], self.id, bytes.fromhex(line["salt"]), number
            places = ("previous", "previous_end", "first_seq")
            previous, previous_end, first = (line[name] for name in places)
        elif trailer is not None:
            volume, salt, own, _, first = trailer[3:8]
            kind, previous, previous_end = trailer[15], 0, 0
        else:
            return None
        if (volume, own) != (self.id, number):
            self.damage.append(f"{path}: it is not of this volume, or not of this name")
            return None
        records_end = trailer[6] if trailer is not None and trailer[4] == salt else None
        known = (crc32c(salt + struct.pack("<Q", number)), records_end, kind != 0 and line is None)
        return Segment(number, path, kind, previous, previous_end, first, *known)

    def _is_born(self, segment: Segment) -> bool:
        """Whether a record in it proves that all it stands on was durable."""
        sure = segment.previous_id == 0 or segment.records_end is not None
        records = (item for item in self._items(segment) if isinstance(item, Record))
        return sure or any(record.synced >= segment.first_seq - 1 for record in records)

    def _whole(self, segment: Segment, end: int | None) -> list[Record]:
        """The records of a segment up to an end; where nothing tells it, up to the last record."""
        if end is None:
            end, seq = SEGMENT.size, 0
            for item in self._items(segment, whole=True):
                if isinstance(item, Record) and (segment.kind or (item.whole and item.seq > seq)):
                    end, seq = item.end, item.seq
            self.damage.append(f"{segment.path}: nothing tells whether it goes on behind {end}")
        records = []
        for item in self._items(segment):
            if isinstance(item, Record) and item.offset < end:
                records.append(item)
            elif isinstance(item, range) and item.start < end:
                gap = f"{item.start} to {min(item.stop, end)}"
                self.damage.append(f"{segment.path}: bytes {gap} are no record")
        return records

    def _tail(self, segment: Segment) -> list[Record]:
        """The records of the last segment. It ends in front of the first thing that is no record,
        unless something behind that says that it was durable once: then it is damage."""
        items = list(self._items(segment, whole=True))
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
                self.damage.append(f"{segment.path}: the record with seq {seq} is damaged")
            if isinstance(item, Record):
                records.append(item)
                expected = seq + 1
        return records

    def _items(self, segment: Segment, *, whole: bool = False) -> Iterator[Record | range]:
        """Records, and the ranges between them that are none. `whole`: check meta and value too."""
        with open(segment.path, "rb") as file:
            if os.path.getsize(segment.path) <= SEGMENT.size:
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                offset = SEGMENT.size
                while offset < len(data):
                    record = _record(segment, data, offset, whole=whole, mend=True)
                    yield (item := record or range(offset, _next(segment, data, offset + 8)))
                    offset = item.end if isinstance(item, Record) else item.stop


def _inputs(segment: Segment) -> set[int]:
    """The segments that one written by compaction stands for; none where that is not known."""
    if not segment.kind or segment.records_end is None:
        return set()
    with open(segment.path, "rb") as file:
        file.seek(segment.records_end)
        footer = file.read()
    body, trailer = footer[: -TRAILER.size], TRAILER.unpack(footer[-TRAILER.size :])
    entries, keys_bytes, notes, count = trailer[10:14]
    at = entries * 68 + keys_bytes + notes * 64
    end = at + count * 16 if crc32c(body) == trailer[2] else at
    pairs = struct.iter_unpack("<QQ", body[at:end])
    return {number for first, last in pairs for number in range(first, last + 1)}


def _holds(block: bytes, magic: bytes) -> bool:
    """Whether a header or trailer is one: its checksum covers all but itself."""
    crc = crc32c(block[12:], crc32c(block[:8])).to_bytes(4, "little")
    return len(block) == 128 and block[:12] == magic + crc


def _record(
    segment: Segment, data: Any, offset: int, *, whole: bool = False, mend: bool = False
) -> Record | None:
    """The record at an offset. Its checksum covers the place, so it is valid nowhere else.

    `whole`: check meta and value too. `mend`: put one flipped bit of header or key right.
    """
    block = bytearray(data[offset : offset + RECORD.size + KEY_BYTES_MAX])
    wrong = int.from_bytes(block[:4], "little") ^ int.from_bytes(MAGIC, "little")
    if len(block) < RECORD.size or wrong & wrong - 1:
        return None
    bits = min(len(block), RECORD.size + int.from_bytes(block[10:12], "little")) * 8
    for bit in range(-1, bits if mend else 0):  # -1: as it is
        flip = 1 << (bit & 7) if bit >= 0 else 0
        block[bit >> 3] ^= flip
        _, crc, type_, _, key_length, *rest = RECORD.unpack_from(block)
        body_at = offset + RECORD.size + key_length
        key = bytes(block[RECORD.size : RECORD.size + key_length])
        covered = struct.pack("<Q", offset) + block[8 : RECORD.size] + key
        if block[:4] == MAGIC and len(key) == key_length and crc32c(covered, segment.seed) == crc:
            body_end = body_at + rest[0] + rest[1]
            good = not whole or crc32c(data[body_at:body_end]) == rest[2]
            rest += [body_at, body_end + 7 & ~7, good]
            return Record(segment, offset, type_, key, *rest)
        block[bit >> 3] ^= flip
    return None


def _next(segment: Segment, data: Any, offset: int) -> int:
    """Where the next record begins, at a multiple of 8."""
    # Not at the last byte: Python 3.11.2 looks one further, out of the map (its issue 105235).
    while (offset := data.find(MAGIC, offset, len(data) - 1)) >= 0:
        if offset % 8 == 0 and _record(segment, data, offset) is not None:
            return offset
        offset += 1
    return len(data)


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
    records = [record for record in volume.live(key, now_s) if record.key == key.encode()]
    for record in records:
        with open(1 if target == "-" else target, "wb", closefd=target != "-") as file:
            volume.write_value(record, file)
    return bool(records)


def extract(volume: Volume, directory: str, prefix: str, *, now_s: float) -> None:
    """Write every live value under a prefix into a new directory, and say how many.

    A key becomes a path. Where it cannot (see `file_name`), DIRECTORY.names.json tells the key.
    """
    os.makedirs(directory, exist_ok=True)
    if os.listdir(directory):
        sys.exit(f"{directory} is not empty: name a new directory")
    records = {record.key.decode(): record for record in volume.live(prefix, now_s)}
    names = [file_name(key) for key in records]
    folders = {name[:at] for name in names for at, letter in enumerate(name) if letter == "/"}
    changed = {}
    done = 0
    for (key, record), name in zip(records.items(), names):
        target = name + "%" * (name in folders)  # a key that is also the beginning of another
        if target != key:
            changed[target] = key
        path = os.path.join(directory, target)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            with open(path, "xb") as file:
                volume.write_value(record, file)
            done += 1
        except Damage as error:
            volume.damage.append(f"{key}: {error}")
            os.unlink(path)
    if changed:
        with open(directory.rstrip("/") + ".names.json", "w", encoding="utf-8") as listing:
            json.dump(changed, listing, ensure_ascii=False, indent=1)
    print(f"{done} values are in {directory}")


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
            if not (good := get(volume, arguments.key, arguments.file, now_s=now_s)):
                print(f"there is no key {arguments.key}", file=sys.stderr)
        elif arguments.command == "extract":
            extract(volume, arguments.directory, arguments.prefix, now_s=now_s)
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
