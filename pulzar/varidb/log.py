"""The log: the durable sequence of a volume's records, and the only truth.

One segment is active; batches are appended to it. A batch goes through three steps, so that an
event loop can give the slow one to a thread while the next batch gathers:

    prepare   give each record its seq and its place, encode it            (no I/O)
    write     one pwritev that returns when the bytes are durable          (blocks)
    settle    the batch is durable: move `durable_seq`                     (no I/O)

At most one batch is between prepare and settle. An OSError from `write` is final: the log takes
no more records, and nothing is ever appended to that segment again; the next opening copies what
is valid behind the last durable record into a new segment.

A full segment is *rolled*: a new one is created, synced, named in the MANIFEST, and only then used.
Every opening begins a new segment too, with the carried tail of the one before (recovery.py), an
OPEN record, and a CHECKPOINT behind it; an opening never appends to a segment it did not create.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from pulzar.disk import Disk, File
from pulzar.errors import WritesStopped
from pulzar.limits import BATCH_BYTES_MAX, BATCH_RECORDS_MAX, SEGMENT_RECORDS_MAX
from pulzar.varidb import record as rec
from pulzar.varidb.crash_point import CrashPoint
from pulzar.varidb.manifest import Added, ManifestFile
from pulzar.varidb.position import Cursor
from pulzar.varidb.record import Record, Type
from pulzar.varidb.segment import (
    SALT_BYTES,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    encode_segment_header,
    segment_name,
)

SEGMENTS = "segments"


class Batch(msgspec.Struct, frozen=True):
    """Records on the way to the disk, one behind the other from `offset` of a segment on, and
    their bytes, padding included: `records` and `buffers` are parallel. Their seqs are dense."""

    segment: int
    offset: int
    end: int
    buffers: list[bytes]
    last_seq: int
    records: list[Record]

    @property
    def first_seq(self) -> int:
        """The seq of the first record."""
        return self.last_seq - len(self.records) + 1


NO_RECORDS = Batch(0, 0, 0, [], 0, [])


class Place(NamedTuple):
    """Where a log stands: its last record begins at `last` and ends at `end`."""

    segment: int
    end: int
    last: int


NO_PLACE = Place(0, 0, 0)


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """Where a new opening of a log goes on."""

    next_segment: int = 1
    previous_id: int = 0
    previous_end: int = 0
    next_seq: int = 1
    durable_seq: int = 0
    carried: tuple[Record, ...] = ()


class Active(NamedTuple):
    """A segment that takes records."""

    header: SegmentHeader
    file: File


class Log:
    """The log of one volume, open for appending."""

    def __init__(
        self,
        *,
        disk: Disk,
        directory: str,
        volume_id: bytes,
        manifest: ManifestFile,
        segment_bytes: int,
        token: Callable[[int], bytes],
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._volume_id = volume_id
        self._manifest = manifest
        self._segment_bytes = segment_bytes
        self._token = token
        self._file: File | None = None
        self._prepared: Batch | None = None
        self._next_id = 1
        self.opening = b""
        self.header: SegmentHeader | None = None
        self.seed = 0
        self.segment = 0
        self.end = 0
        self.place = NO_PLACE
        self.records_in_segment = 0
        self.next_seq = 1
        self.durable_seq = 0
        self.checkpoint_seq = 0
        self.failed: str | None = None

    def open(self, start: Start, *, now_ms: int) -> Batch:
        """Begin a new segment behind what recovery found. Returns the carried records and OPEN.

        Durable when this returns. Raises OSError.
        """
        self.opening = self._token(16)
        self._next_id = start.next_segment
        self.durable_seq = start.durable_seq
        open_seq = start.next_seq
        self.next_seq = start.carried[0].seq if start.carried else open_seq
        active = self._create(
            self.take_segment_id(),
            previous_id=start.previous_id,
            previous_end=start.previous_end,
            first_seq=open_seq + 1,
            now_ms=now_ms,
        )
        self._begin(active)
        opened = Record(type=Type.OPEN, value=self.opening, created_ms=now_ms)
        batch = self.prepare([*start.carried, opened], bounded=False)
        if batch.last_seq != open_seq:
            raise WritesStopped("the carried records of the log are not dense")
        self.write(batch)
        self._disk.sync_directory(f"{self._directory}/{SEGMENTS}")
        self.settle(batch)
        self._disk.reached(CrashPoint.RECOVERY_COPIED)
        self._add(active.header)
        # What was carried may fill the segment; without this record it would not count (recovery).
        self.append([Record(type=Type.CHECKPOINT, created_ms=now_ms)], bounded=False)
        return batch

    def cursor(self) -> Cursor:
        """The head of the log: everything up to it is durable."""
        return Cursor(self.opening, self.durable_seq)

    def fits(self, record: Record) -> bool:
        """Whether the active segment has room for one more record."""
        return (
            self.end + rec.padded(rec.record_length(record)) <= self._segment_bytes
            and self.records_in_segment < SEGMENT_RECORDS_MAX
        )

    def prepare(self, records: Sequence[Record], *, bounded: bool = True) -> Batch:
        """Place the first records of `records`: as many as the segment and one batch hold.

        The rest is for the next batch; where nothing fits, `fits` is False: roll first.
        """
        self._require_writable()
        if self._prepared is not None:
            raise WritesStopped("a batch is already on its way")
        seed, synced = self.seed, self.durable_seq
        offset, seq = self.end, self.next_seq
        room = self._segment_bytes if bounded else 1 << 62
        limit = min(room, offset + BATCH_BYTES_MAX) if bounded else room
        count_max = SEGMENT_RECORDS_MAX - self.records_in_segment if bounded else len(records)
        buffers: list[bytes] = []
        for record in records[: min(count_max, BATCH_RECORDS_MAX) if bounded else None]:
            buffer = rec.encode(record, seq=seq, synced=synced, offset=offset, seed=seed)
            end = offset + len(buffer)
            if end > limit and (buffers or end > room):
                break
            buffers.append(buffer)
            offset = end
            seq += 1
        taken = list(records[: len(buffers)])
        batch = Batch(self.segment, self.end, offset, buffers, seq - 1, taken)
        self._prepared = batch
        return batch

    def write(self, batch: Batch) -> None:
        """Write and sync a prepared batch. Raises OSError: then the log takes no more records."""
        assert self._file is not None
        try:
            self._file.write_synced(batch.buffers, offset=batch.offset)
        except OSError as error:
            self.fail(f"writing segment {batch.segment} failed: {error}")
            raise
        self._disk.reached(CrashPoint.COMMIT_SYNCED)

    def settle(self, batch: Batch) -> None:
        """The batch is durable."""
        self._prepared = None
        self.end = batch.end
        self.next_seq = batch.last_seq + 1
        self.durable_seq = batch.last_seq
        self.records_in_segment += len(batch.records)
        if batch.buffers:
            self.place = Place(batch.segment, batch.end, batch.end - len(batch.buffers[-1]))
        if batch.records and batch.records[-1].type == Type.CHECKPOINT:
            self.checkpoint_seq = batch.last_seq

    def append(self, records: Sequence[Record], *, bounded: bool = True) -> Batch:
        """prepare, write and settle in one call, for records that fit. Raises OSError."""
        batch = self.prepare(records, bounded=bounded)
        self.write(batch)
        self.settle(batch)
        return batch

    def checkpoint(self, *, now_ms: int) -> None:
        """Record that everything so far is durable, unless that was the last thing recorded."""
        record = Record(type=Type.CHECKPOINT, created_ms=now_ms)
        if self.checkpoint_seq != self.durable_seq and self.fits(record):
            self.append([record])

    def begin_roll(self, *, now_ms: int) -> Active:
        """Create the next segment; a thread may do it. `end_roll` makes it the active one.

        Raises OSError: without room nothing has changed; an error of the MANIFEST is final.
        """
        self._require_writable()
        active = self._create(
            self.take_segment_id(),
            previous_id=self.segment,
            previous_end=self.end,
            first_seq=self.next_seq,
            now_ms=now_ms,
        )
        try:
            self._disk.sync_directory(f"{self._directory}/{SEGMENTS}")
        except OSError:
            self._discard(active)
            raise
        self._add(active.header)
        return active

    def end_roll(self, active: Active) -> None:
        """From now on records go to the new segment. The old one can be sealed."""
        self.close()
        self._begin(active)

    def roll(self, *, now_ms: int) -> None:
        """begin_roll and end_roll in one call. Raises OSError."""
        self.end_roll(self.begin_roll(now_ms=now_ms))

    def take_segment_id(self) -> int:
        """An id that no segment ever had."""
        self._next_id += 1
        return self._next_id - 1

    def fail(self, reason: str) -> None:
        """Take no more records."""
        self.failed = self.failed or reason

    def close(self) -> None:
        """Close the active segment's file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def release_room(self) -> None:
        """Give back what is allocated behind the last record; no more may be appended.

        The next opening finds the same end either way.
        """
        if self._file is not None and self.failed is None:
            self._file.truncate(self.end)

    def _require_writable(self) -> None:
        if self.failed is not None:
            raise WritesStopped(f"the volume takes no more writes: {self.failed}")

    def _create(
        self, segment_id: int, *, previous_id: int, previous_end: int, first_seq: int, now_ms: int
    ) -> Active:
        header = SegmentHeader(
            volume_id=self._volume_id,
            salt=self._token(SALT_BYTES),
            segment_id=segment_id,
            previous_id=previous_id,
            previous_end=previous_end,
            first_seq=first_seq,
            created_ms=now_ms,
            opening=self.opening,
        )
        active = Active(header, self._disk.create(segment_path(self._directory, segment_id)))
        try:
            active.file.allocate(self._segment_bytes)
            active.file.write([encode_segment_header(header)], offset=0)
            active.file.sync()
        except OSError:
            self._discard(active)
            raise
        self._disk.reached(CrashPoint.SEGMENT_CREATED)
        return active

    def _begin(self, active: Active) -> None:
        self._file = active.file
        self.header = active.header
        self.seed = active.header.seed
        self.segment = active.header.segment_id
        self.end = SEGMENT_HEADER_BYTES
        self.records_in_segment = 0

    def _add(self, header: SegmentHeader) -> None:
        try:
            self._manifest.append([added(header)])
        except OSError as error:
            self.fail(f"writing the MANIFEST failed: {error}")
            raise
        self._disk.reached(CrashPoint.SEGMENT_ADDED)

    def _discard(self, active: Active) -> None:
        """Remove a half-made segment, or stop: its name is taken and its state unknown."""
        active.file.close()
        try:
            self._disk.unlink(segment_path(self._directory, active.header.segment_id))
        except OSError as error:
            self.fail(f"a new segment could be neither used nor removed: {error}")


def segment_path(directory: str, segment_id: int) -> str:
    """Where a segment is in a volume directory."""
    return f"{directory}/{SEGMENTS}/{segment_name(segment_id)}"


def added(header: SegmentHeader) -> Added:
    """The MANIFEST's line for a segment."""
    return Added(
        segment=header.segment_id,
        kind=header.kind,
        salt=header.salt.hex(),
        opening=header.opening.hex(),
        first_seq=header.first_seq,
        previous=header.previous_id,
        previous_end=header.previous_end,
        created_ms=header.created_ms,
    )
