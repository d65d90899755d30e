"""A volume of the cluster model: its log in memory, and the session in which it is written to.

A `Disk` is what a directory holds. It never loses what was written to it: crashes of one volume are
other tests' business. Only a directory that is put back as it was before loses something, and the
history that does it says so. The log has segments, openings and a horizon, as the real one: who
follows it from a cursor meets records in the order of seq, or hears that the cursor is no good.
"""

import random
from collections.abc import Iterable, Sequence
from contextlib import suppress

import msgspec

from pulzar.cluster.membership import Members, decode_members
from pulzar.cluster.messages import (
    PROTOCOL,
    Append,
    NewRecord,
    Presence,
    SessionOpened,
    SessionWanted,
)
from pulzar.cluster.sessions import Session
from pulzar.errors import OutOfSpace, StaleSession
from pulzar.varidb.position import NOWHERE, Cursor, Position
from pulzar.varidb.record import KEPT_FOREVER, KEYED, Record, Type, epoch_of, make_version

PUTS = frozenset({Type.PUT, Type.BLOB})


class Disk:
    """The log of one volume and its index: key -> newest record by (version, seq)."""

    def __init__(self) -> None:
        self.segments: list[list[Record]] = [[]]  # the last one is active
        self.index: dict[bytes, Record] = {}
        self.seq = 0
        self.opening = b""
        self.before = NOWHERE  # the opening before, and where it ended
        self.horizon = 0
        self.promised = 0
        self.promised_to = b""
        self.members = b""
        self.generation = 0
        self.purged = 0  # it was asked, and said so durably
        self.all_purged = 0  # it was told that all had said so

    def copy(self) -> "Disk":
        """The directory, copied."""
        copy = Disk()
        for name, value in vars(self).items():
            setattr(copy, name, value)
        copy.segments = [list(segment) for segment in self.segments]
        copy.index = dict(self.index)
        return copy

    @property
    def cursor(self) -> Cursor:
        """The head of the log."""
        return Cursor(self.opening, self.seq)

    def append(self, records: Iterable[Record]) -> None:
        """Durable when this returns."""
        for one in records:
            self.seq += 1
            record = msgspec.structs.replace(one, seq=self.seq)
            self.segments[-1].append(record)
            if record.type in KEYED:
                old = self.index.get(record.key)
                if old is None or (old.version, old.seq) < (record.version, record.seq):
                    self.index[record.key] = record
            elif record.type == Type.EPOCH:
                self.promised, self.promised_to = epoch_of(record.version), record.value
            elif record.type == Type.MEMBERS and record.version >= self.generation:
                self.members, self.generation = record.value, record.version
            elif record.type == Type.PURGE:
                self.purged = max(self.purged, record.version)
                if record.value:
                    self.all_purged = max(self.all_purged, record.version)

    def open(self, opening: bytes) -> None:
        """A process opens the log for writing."""
        self.before, self.opening = self.cursor, opening
        self.roll()
        self.append([Record(type=Type.OPEN, value=opening)])
        newest = max((record.version for record in self.index.values()), default=0)
        self.promised = max(self.promised, epoch_of(newest))

    def roll(self) -> None:
        """The active segment is sealed."""
        if self.segments[-1]:
            self.segments.append([])

    def records(self) -> list[Record]:
        """Everything that is in the directory."""
        return [record for segment in self.segments for record in segment]

    def behind(self, cursor: Cursor, limit: int) -> tuple[list[Record], Cursor] | None:
        """Keyed records behind a cursor and the cursor behind them; None: 410."""
        end = self.seq if cursor.opening == self.opening else self.before.seq
        known = cursor.opening in (self.opening, self.before.opening)
        if not known or not self.horizon <= cursor.seq <= end:
            return None
        found = sorted(
            (record for record in self.records() if record.seq > cursor.seq),
            key=lambda record: record.seq,
        )[:limit]
        seq = found[-1].seq if found else cursor.seq
        keyed = [record for record in found if record.type in KEYED]
        return keyed, Cursor(self.opening, seq)

    def compact(self, rng: random.Random, *, dropped: frozenset[tuple[bytes, int]]) -> bool:
        """Some sealed segments are rewritten without superseded records, and without the DELETE
        records in `dropped`; nothing else goes."""
        sealed = self.segments[:-1]
        if not sealed:
            return False
        picked = sorted(rng.sample(range(len(sealed)), rng.randint(1, len(sealed))))
        inputs = [record for number in picked for record in sealed[number]]
        rest = [segment for number, segment in enumerate(sealed) if number not in picked]
        dropped = frozenset(one for one in dropped if not self._has_older(*one))
        output = [record for record in inputs if self._is_live(record, dropped)]
        for record in inputs:
            self.horizon = max(self.horizon, record.seq)
            is_dropped = record.type == Type.DELETE and (record.key, record.version) in dropped
            if is_dropped and self.index.get(record.key) == record:
                del self.index[record.key]
        self.segments = [*rest, output, self.segments[-1]]
        return True

    def _has_older(self, key: bytes, version: int) -> bool:
        return any(one.key == key and one.version < version for one in self.records())

    def _is_live(self, record: Record, dropped: frozenset[tuple[bytes, int]]) -> bool:
        if record.type in KEPT_FOREVER:
            return True
        if record.type not in KEYED or self.index.get(record.key) != record:
            return False
        return record.type != Type.DELETE or (record.key, record.version) not in dropped

    def set_aside(self, key: bytes, version: int) -> None:
        """Take a key's records up to a version out of the log."""
        self.segments = [
            [one for one in segment if one.key != key or one.version > version]
            for segment in self.segments
        ]
        self.index.pop(key, None)

    def position(self, key: bytes) -> Position | None:
        """The row of the index."""
        record = self.index.get(key)
        return position_of(record) if record is not None else None

    def holds(self, key: bytes, version: int) -> bool:
        """Whether a fetch of a key at a version finds it."""
        record = self.index.get(key)
        return record is not None and record.version == version and record.type in PUTS


def position_of(record: Record) -> Position:
    """A record's row of an index; where it lies does not matter here."""
    return Position(
        segment=1,
        offset=0,
        length=0,
        type=record.type,
        flags=0,
        key_length=len(record.key),
        meta_length=0,
        seq=record.seq,
        version=record.version,
        size=len(record.value),
        created_ms=record.created_ms,
        expires_s=record.expires_s,
    )


class Volume:
    """A volume's program on its disk. `is_fenced` is False for a flaw: sessions do not matter."""

    def __init__(self, number: int, *, is_fenced: bool) -> None:
        self.id = f"{number:032x}"
        self.name = f"v{number}"
        self.disk = Disk()
        self.session = Session()
        self.is_up = False
        self.saved: Disk | None = None
        self.droppable: set[tuple[bytes, int]] = set()
        self._is_fenced = is_fenced

    def start(self, opening: bytes) -> None:
        """The program starts."""
        self.disk.open(opening)
        self.session = Session()
        self.is_up = True
        self.droppable.clear()

    def presence(self, cluster: str) -> Presence:
        """What it says of itself."""
        members = self.members()
        return Presence(
            protocol=PROTOCOL,
            id=self.id,
            instance=self.disk.opening.hex(),
            name=self.name,
            url=f"http://{self.name}",
            cluster=cluster if members is not None else "",
            generation=self.disk.generation,
            epoch=self.disk.promised,
            entries=len(self.disk.index),
            opening=self.disk.opening,
            seq=self.disk.seq,
            total_bytes=0,
            used_bytes=0,
            room_bytes=0,
            now_ms=0,
            members=self.disk.members,
        )

    def members(self) -> Members | None:
        """The newest list of members in its log."""
        return decode_members(self.disk.members)

    def open_session(self, wanted: SessionWanted) -> SessionOpened:
        """As the real one. Raises StaleSession."""
        disk = self.disk
        is_new = wanted.epoch > disk.promised
        promise = (disk.promised, disk.promised_to)
        if not is_new and (wanted.epoch, wanted.master) != promise:
            raise StaleSession("it is promised to another master")
        self.session.end()
        if is_new:
            version = make_version(wanted.epoch, 0)
            disk.append([Record(type=Type.EPOCH, version=version, value=wanted.master)])
        else:
            disk.append([Record(type=Type.CHECKPOINT)])
        self.session.begin(wanted.epoch, wanted.session)
        return SessionOpened(disk.opening, disk.seq, disk.members)

    def receive(self, append: Append, *, is_full: bool = False) -> Cursor:
        """Make an append durable. Raises StaleSession, OutOfSpace: nothing was written."""
        if self._is_fenced:
            self.session.take(append)
        if is_full:
            raise OutOfSpace("no room")
        self.disk.append(_records(append.records))
        return self.disk.cursor

    def receive_late(self, append: Append) -> None:
        """An append comes of which nobody waits for the answer."""
        with suppress(StaleSession):
            self.receive(append)


def _records(new: Sequence[NewRecord]) -> list[Record]:
    return [
        Record(
            type=Type(one.type),
            key=one.key,
            value=one.value,
            version=one.version,
            created_ms=one.created_ms,
            expires_s=one.expires_s,
        )
        for one in new
    ]
