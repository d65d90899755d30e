"""The volume: a directory with one log, and the index key -> position that follows it.

    put:   Log.prepare -> Log.write (a thread may do it) -> Volume.settle: index, then acknowledge
    get:   index -> position -> RecordFiles.read -> checked record

`Volume.open` brings a directory from whatever state a crash left it in to a running log:
identity, MANIFEST, recovery (recovery.py), a new segment, the index caught up or rebuilt, files
that nothing names swept. Only then is anything served.

Everything here blocks and belongs to one thread, except what says otherwise. Sealing, compaction
and purge read sealed segments only and run elsewhere (background.py); what they did is taken in
here by `sealed` and `replace`.
"""

import errno
import struct
from collections.abc import Callable, Iterable, Sequence

import msgspec

from pulzar.disk import Disk, File, Lock
from pulzar.errors import (
    Damage,
    HistoryTrimmed,
    OpenError,
    OutOfSpace,
    PulzarError,
    VolumeInUse,
    VolumeReadOnly,
)
from pulzar.limits import RETIRED_GRACE_S, SEGMENT_BYTES
from pulzar.varidb import record as rec
from pulzar.varidb.blob import Blob, BlobWriter, blob_names, blob_path
from pulzar.varidb.crash_point import CrashPoint
from pulzar.varidb.following import (
    IndexView,
    Item,
    Logged,
    LogReader,
    batch_rows,
    blob_items,
    blob_key,
    footer_of,
    load_segment,
    note_key,
)
from pulzar.varidb.footer import Footer, Trailer, read_body
from pulzar.varidb.identity import IDENTITY_NAME, LOCK_NAME, create_identity, read_identity
from pulzar.varidb.log import NO_RECORDS, Active, Batch, Log, added, segment_path
from pulzar.varidb.manifest import Lost, ManifestFile, Opened, Removed, Replaced, Sealed, Swapped
from pulzar.varidb.position import NOWHERE, Cursor, unpack_position
from pulzar.varidb.read_me import write_read_me
from pulzar.varidb.record import Record, Type
from pulzar.varidb.record_files import RecordFiles
from pulzar.varidb.recovery import Damaged, Recovered, Segment, recover, survey
from pulzar.varidb.segment import KIND_LOG

_PLACE = struct.Struct("<QQ")
_UNKNOWN = 1 << 64  # larger than every version


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What may be set of a volume."""

    segment_bytes: int = SEGMENT_BYTES
    grace_s: int = RETIRED_GRACE_S


class Volume:
    """One volume, open for reading and writing. Use `Volume.open`."""

    def __init__(
        self,
        *,
        disk: Disk,
        directory: str,
        volume_id: bytes,
        lock: Lock,
        manifest: ManifestFile,
        index: IndexView,
        log: Log,
        options: Options,
        token: Callable[[int], bytes],
    ) -> None:
        self.directory = directory
        self.id = volume_id
        self.log = log
        self.index = index
        self.options = options
        self.damaged: list[Damaged] = []
        self.last_opening = b""
        self.segments: dict[int, Segment] = {}
        self._version_max = _UNKNOWN  # of all records; known from the first EPOCH on
        self._disk = disk
        self._lock = lock
        self._manifest = manifest
        self._token = token
        self.records = RecordFiles(disk, directory, log, self.segments)
        self._reader = LogReader(disk, directory, self.segments, self.active_segment)

    @classmethod
    def open(
        cls,
        directory: str,
        *,
        disk: Disk,
        open_index: Callable[[bytes], IndexView],
        token: Callable[[int], bytes],
        now_ms: int,
        options: Options | None = None,
    ) -> "Volume":
        """Open a volume, or make an empty directory one. Raises OpenError, OutOfSpace.

        `open_index` is given the volume's id; `token(n)` gives n random bytes.
        """
        try:
            disk.make_directory(directory)
            lock = disk.lock(f"{directory}/{LOCK_NAME}")
        except BlockingIOError:
            raise VolumeInUse(f"{directory} is in use by another process") from None
        except OSError as error:
            raise VolumeReadOnly(f"{directory} cannot be written: {error}") from None
        volume: Volume | None = None
        try:
            if disk.exists(f"{directory}/{IDENTITY_NAME}"):
                identity = read_identity(disk, directory)
            else:
                identity = create_identity(disk, directory, token=token, now_ms=now_ms)
            write_read_me(disk, directory)
            manifest = ManifestFile(disk, directory)
            options = options or Options()
            volume = cls(
                disk=disk,
                directory=directory,
                volume_id=identity.id,
                lock=lock,
                manifest=manifest,
                index=open_index(identity.id),
                log=Log(
                    disk=disk,
                    directory=directory,
                    volume_id=identity.id,
                    manifest=manifest,
                    segment_bytes=options.segment_bytes,
                    token=token,
                ),
                options=options,
                token=token,
            )
            volume._recover(now_ms=now_ms)
        except BaseException as error:  # whatever it is, nothing may outlive the attempt
            if volume is None:
                lock.release()
            else:
                volume.abandon()
            if isinstance(error, OSError):
                raise cannot_open(directory, error) from error
            raise
        return volume

    def _recover(self, *, now_ms: int) -> None:
        place_now = self._disk.file_id(f"{self.directory}/{IDENTITY_NAME}")
        is_copy = self._manifest.is_copy(place_now)
        found = survey(
            self._disk, self.directory, self._manifest, volume_id=self.id, is_copy=is_copy
        )
        if found.lines:
            self._manifest.append(found.lines)
        known, place = self.index.cursor(), _unpack_place(self.index.place())
        if known.seq == 0 or all(s.header.opening != known.opening for s in found.segments):
            self.index.reset()
            known, place = NOWHERE, (0, 0)
        recovered = recover(
            self._disk,
            self.directory,
            found.segments,
            found.others,
            named=self._manifest.state.segments.keys(),
            known=known,
            place=place,
        )
        complete = {segment.id for segment in found.segments if segment.trailer is not None}
        if self._manifest.bad_lines and complete.intersection(recovered.unborn):
            # The line that was lost may have been the one that pointed the index there.
            self.index.reset()
            known, place = NOWHERE, (0, 0)
        self.segments.update((segment.id, segment) for segment in recovered.segments)
        self.damaged = list(recovered.damaged)
        self.last_opening = recovered.last_opening
        unknown = [s for s in recovered.segments if s.id not in self._manifest.state.segments]
        lines = [added(segment.header) for segment in unknown]
        self._manifest.append([*lines, Opened(place=place_now)])
        batch = self.log.open(recovered.start, now_ms=now_ms)
        self._fill_index(known, place)
        self.apply(batch, self.log.cursor(), self.place())
        for replaced in self._manifest.state.unswapped:
            self.swap(replaced)
        self._sweep(recovered)

    def _fill_index(self, known: Cursor, place: tuple[int, int]) -> None:
        """Tell the index what the log has behind the place where it stands."""
        packed = _PLACE.pack(*place)
        # Of a record in two places the first is kept: those that will be removed come last.
        retired = self._manifest.state.retired
        for segment in sorted(self.segments.values(), key=lambda one: one.id in retired):
            if known.seq == 0:
                load_segment(self._disk, self.directory, segment, self.index, known, packed)
            elif segment.header.kind == KIND_LOG and segment.id >= place[0]:
                start = {"start": place[1]} if segment.id == place[0] else {}
                load_segment(
                    self._disk, self.directory, segment, self.index, known, packed, **start
                )

    def _sweep(self, recovered: Recovered) -> None:
        """Remove files that no record and no line of the MANIFEST names; before serving only."""
        for segment_id in recovered.unborn:
            if segment_id in self._manifest.state.segments:
                self._manifest.append([Lost(segments=(segment_id,))])
            _unlink(self._disk, segment_path(self.directory, segment_id))
        retired = self._manifest.state.retired_blobs
        for name in list(blob_names(self._disk, self.directory)):
            if name not in retired and self.index.get(blob_key(name)) is None:
                _unlink(self._disk, blob_path(self.directory, name))

    # Writing.

    def place(self) -> bytes:
        """Where the next record goes, for the index."""
        return _PLACE.pack(self.log.segment, self.log.end)

    def apply(self, batch: Batch, cursor: Cursor, place: bytes) -> None:
        """Tell the index of a settled batch. Not before this may it be acknowledged.

        `cursor` and `place` are those of when the batch was settled.
        """
        newest, version_max = True, self._version_max
        for record in batch.records:
            version = record.version
            if version > version_max:
                version_max = version
            elif version:
                newest = False
            if record.type == Type.EPOCH and version_max == _UNKNOWN:
                version_max = version  # it was promised: all that came before is smaller
        rows = batch_rows(batch)
        if newest:
            self.index.append(rows, cursor, place)
        else:
            items = [(key, unpack_position(key, entry)) for key, entry in rows]
            self.index.apply(items, cursor, place)
        self._version_max = version_max
        self._disk.reached(CrashPoint.COMMIT_INDEXED)

    def append(self, records: Sequence[Record], *, now_ms: int) -> None:
        """Write records: durable and indexed when this returns. For tools and tests.

        Raises WritesStopped, OSError.
        """
        rest = list(records)
        while rest:
            if not self.log.fits(rest[0]):
                self.roll(now_ms=now_ms)
            batch = self.log.prepare(rest)
            self.log.write(batch)
            self.log.settle(batch)
            self.apply(batch, self.log.cursor(), self.place())
            rest = rest[len(batch.records) :]

    def roll(self, *, now_ms: int) -> None:
        """Begin a new active segment: the old one can be sealed. Raises OSError.

        The CHECKPOINT makes it a born one (recovery.py), so that it does not need the old one.
        """
        self.end_roll(self.log.begin_roll(now_ms=now_ms))
        self.log.append([Record(type=Type.CHECKPOINT, created_ms=now_ms)])

    def end_roll(self, active: Active) -> None:
        """Make a segment that `Log.begin_roll` created the active one."""
        old = self.active_segment()
        self.segments[old.id] = old
        self.log.end_roll(active)

    def reached(self, point: CrashPoint) -> None:
        """Pass a crash point that lies outside of this file."""
        self._disk.reached(point)

    def active_segment(self) -> Segment:
        """The active segment as it is now."""
        header, end = self.log.header, self.log.end
        assert header is not None
        return Segment(header=header, trailer=None, size=end, end=end)

    def blob_writer(self) -> BlobWriter:
        """A new blob. Its methods may be called in any one thread. Raises OSError."""
        return BlobWriter(self._disk, self.directory, self._token(16).hex())

    def free_bytes(self) -> int:
        """What can still be written to the disk of this volume. Raises OSError."""
        return self._disk.free_bytes(self.directory)

    def promised_epoch(self) -> int:
        """The largest epoch that this volume ever promised."""
        position = self.index.get(note_key(Type.EPOCH))
        return rec.epoch_of(position.version) if position else 0

    # Reading.

    def open_blob(self, blob: Blob) -> File:
        """The file of a blob. Any thread. Raises Damage where it is missing."""
        try:
            return self._disk.open(blob_path(self.directory, blob.name))
        except FileNotFoundError:
            raise Damage(f"blob {blob.name} of volume {self.id.hex()} is missing") from None

    # Following.

    def follow(self, cursor: Cursor, *, limit: int) -> tuple[list[Logged], Cursor]:
        """Up to `limit` records behind `cursor`, and the cursor behind them; none at the head.

        Raises HistoryTrimmed where the cursor is not one of this log's, or is below the horizon:
        then take `index.columns` as a snapshot and go on from `log.cursor()`.
        """
        known = (self.log.opening, self.last_opening)
        horizon = self._manifest.state.horizon
        if cursor.opening not in known or not horizon <= cursor.seq <= self.log.durable_seq:
            raise HistoryTrimmed(f"the log cannot be followed from seq {cursor.seq}")
        logged = self._reader.records_behind(cursor.seq, limit=limit)
        seq = logged[-1].position.seq if logged else cursor.seq
        return logged, Cursor(self.log.opening, seq)

    # Files that the background wrote.

    def sealed(self, segment: Segment) -> None:
        """A segment got its footer: it is immutable from now on. Raises OSError."""
        if segment.id not in self._manifest.state.sealed:
            self._manifest.append([Sealed(segment=segment.id)])
        self.segments[segment.id] = segment

    def unsealed(self) -> list[Segment]:
        """The segments that wait for their footers, oldest first."""
        return [s for _, s in sorted(self.segments.items()) if s.trailer is None]

    def retired(self) -> dict[int, int]:
        """Segments that compaction replaced -> when (ms). They stay for the grace."""
        return self._manifest.state.retired

    def take_segment_id(self) -> int:
        """A new id for compaction to write to."""
        return self.log.take_segment_id()

    def replace(self, replaced: Replaced, outputs: Sequence[Segment]) -> None:
        """Take in what compaction wrote: one line, and the outputs stand for the inputs.

        Then swap the index (`swap`, or `swap_entries` piece by piece and `swapped`).
        """
        lines = [added(segment.header) for segment in outputs]
        seals = [Sealed(segment=segment.id) for segment in outputs]
        self._manifest.append([*lines, *seals, replaced])
        self.segments.update((segment.id, segment) for segment in outputs)
        self._disk.reached(CrashPoint.COMPACTION_COMMITTED)

    def swap_entries(self, keys: Sequence[bytes], entries: Sequence[bytes]) -> int:
        """Point the index at entries of an output, where it still has the same record."""
        columns = zip(keys, entries, strict=True)
        return self._swap([(key, unpack_position(key, entry)) for key, entry in columns])

    def _swap(self, items: Sequence[Item]) -> int:
        changes = []
        for key, new in items:
            old = self.index.get(key)
            if old is not None and old.order == new.order:
                changes.append((key, old, new))
        return self.index.swap(changes)

    def swap(self, replaced: Replaced) -> None:
        """Finish a replacement at once. Raises OSError, Damage."""
        for output in replaced.outputs:
            footer = self.footer(output)
            self.swap_entries(footer.keys, footer.entries)
        self.swap_names(replaced)
        self.swapped(replaced)

    def footer(self, segment_id: int) -> Footer:
        """The footer of a sealed segment. Any thread. Raises Damage, OSError."""
        footer = footer_of(self._disk, self.directory, self.segments[segment_id])
        if footer is None:
            raise Damage(f"the footer of segment {segment_id} does not match its checksum")
        return footer

    def footer_body(self, segment_id: int) -> tuple[bytes, Trailer]:
        """The bytes of a footer, for `footer.columns`. Any thread. Raises Damage, OSError."""
        trailer = self.segments[segment_id].trailer
        assert trailer is not None
        file = self._disk.open(segment_path(self.directory, segment_id))
        try:
            return read_body(file, trailer), trailer
        finally:
            file.close()

    def swap_names(self, replaced: Replaced) -> None:
        """As `swap_entries`, for the few notes and names of blobs in the outputs."""
        for output in replaced.outputs:
            footer = self.footer(output)
            items = [(note_key(note.type), note) for note in footer.notes]
            segment = self.segments[output]
            items += blob_items(self._disk, self.directory, segment, footer.keys, footer.entries)
            self._swap(items)
        gone = [(blob_key(name), self.index.get(blob_key(name))) for name in replaced.blobs]
        self.index.drop([(name, old.order) for name, old in gone if old is not None])

    def swapped(self, replaced: Replaced) -> None:
        """The index no longer points into the inputs."""
        self._disk.reached(CrashPoint.COMPACTION_SWAPPED)
        self._manifest.append([Swapped(inputs=replaced.inputs)])

    def forget_deletes(self, purged: Iterable[tuple[bytes, int, int]]) -> int:
        """Drop the entries of purged DELETE records; how many."""
        return self.index.drop([(key, (version, seq)) for key, version, seq in purged])

    def remove_retired(self, *, now_ms: int) -> int:
        """Remove replaced files whose grace is over; how many segments. Raises OSError."""
        state = self._manifest.state
        due_ms = now_ms - self.options.grace_s * 1000
        due = [r for r in state.replaced if r.at_ms <= due_ms and r.inputs in state.swapped]
        segments = tuple(segment for replaced in due for segment in replaced.inputs)
        if not segments:
            return 0
        self._manifest.append([Removed(segments=segments)])
        self._disk.reached(CrashPoint.RETIRED_REMOVED)
        for segment_id in segments:
            self.records.forget(segment_id)
            self.segments.pop(segment_id, None)
            _unlink(self._disk, segment_path(self.directory, segment_id))
        for replaced in due:
            for name in replaced.blobs:
                _unlink(self._disk, blob_path(self.directory, name))
        return len(segments)

    def rebuild_index(self) -> None:
        """Empty the index and fill it from the log."""
        self.index.reset()
        self._fill_index(NOWHERE, (0, 0))
        load_segment(
            self._disk,
            self.directory,
            self.active_segment(),
            self.index,
            self.log.cursor(),
            self.place(),
        )

    def close(self, *, now_ms: int) -> None:
        """Write a checkpoint, close everything, give the lock back."""
        try:
            if self.log.failed is None:
                self.log.checkpoint(now_ms=now_ms)
                self.log.release_room()
                self.apply(NO_RECORDS, self.log.cursor(), self.place())
        except BaseException:  # whatever it is, nothing may stay open or locked
            self.abandon()
            raise
        self._release(clean=self.log.failed is None)

    def abandon(self) -> None:
        """Close everything and write nothing, as if the process had died here."""
        self._release(clean=False)

    def _release(self, *, clean: bool) -> None:
        self.records.close()
        self.log.close()
        self._manifest.close()
        self.index.close(clean=clean)
        self._lock.release()


def cannot_open(directory: str, error: OSError) -> PulzarError:
    """What an error of the disk means to whoever wants to open a volume there."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfSpace(f"{directory} cannot be opened, the disk is full: make room first")
    return OpenError(f"{directory} cannot be opened: {error}")


def _unpack_place(place: bytes) -> tuple[int, int]:
    if len(place) != _PLACE.size:
        return (0, 0)
    segment, offset = _PLACE.unpack(place)
    return int(segment), int(offset)


def _unlink(disk: Disk, path: str) -> None:
    try:
        disk.unlink(path)
    except FileNotFoundError:
        return
