"""The volume: a directory with one log, and the index key -> position that follows it.

    put:   Log.prepare -> Log.write (a thread may do it) -> Volume.settle: index, then acknowledge
    get:   index -> position -> RecordFiles.read -> checked record

`Volume.open` brings a directory from whatever state a crash left it in to a running log:
identity, MANIFEST, recovery (recovery.py), a new segment, the index caught up or rebuilt, files
that nothing names swept. Only then is anything served.

Everything here blocks and belongs to one thread, except what says otherwise. Sealing, compaction
and purge read sealed segments only and run elsewhere (background.py); what they did is taken in
by `sealed` and by `replacements` (replacement.py).
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
    ValueTooLarge,
    VolumeInUse,
    VolumeReadOnly,
)
from pulzar.limits import RETIRED_GRACE_S, SEGMENT_BYTES
from pulzar.varidb import record as rec
from pulzar.varidb.blob import Blob, BlobWriter, blob_path
from pulzar.varidb.crash_point import CrashPoint
from pulzar.varidb.following import (
    UNSURE_KEY,
    IndexView,
    Logged,
    LogReader,
    batch_rows,
    load_segment,
    note_key,
)
from pulzar.varidb.identity import IDENTITY_NAME, LOCK_NAME, create_identity, read_identity
from pulzar.varidb.log import NO_PLACE, NO_RECORDS, Active, Batch, Log, Place, added, segment_path
from pulzar.varidb.manifest import Lost, ManifestFile, Opened, Replaced, Sealed
from pulzar.varidb.position import NOWHERE, Cursor, Position, unpack_position
from pulzar.varidb.read_me import write_read_me
from pulzar.varidb.record import Record, Type
from pulzar.varidb.record_files import RecordFiles
from pulzar.varidb.recovery import Damaged, Recovered, recover
from pulzar.varidb.replacement import Replacements
from pulzar.varidb.segment import KIND_LOG, SEGMENT_HEADER_BYTES, header_at
from pulzar.varidb.survey import Segment, Survey, survey
from pulzar.varidb.sweep import sweep

_PLACE = struct.Struct("<QQQ")
_NOTHING = Position(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
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
        self.remarks: list[str] = []  # what the opening met, for the log
        self.last_opening = b""
        self.segments: dict[int, Segment] = {}
        self._version_max = _UNKNOWN  # of all records; known from the first EPOCH on
        self._opened_behind = 0  # the last seq of the opening before
        self.is_other = False  # the index was not of this state of the log: nor is any other view
        self._version_found = 0  # the largest that was met while the volume was opened
        self._disk = disk
        self._lock = lock
        self._manifest = manifest
        self._token = token
        self.records = RecordFiles(disk, directory, log, self.segments)
        self.replacements = Replacements(
            disk, directory, manifest=manifest, index=index, segments=self.segments
        )
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
            lost = [s for line in found.lines if isinstance(line, Lost) for s in line.segments]
            self.remarks.append(f"a copy, begun before segments {lost}: what they held is not here")
        sealed = self._sync_trailers(found.segments)
        known, place = self.index.cursor(), _unpack_place(self.index.place())
        if is_copy:
            known, place = NOWHERE, NO_PLACE
        recovered = self._recover_from(found, known, place)
        complete = {segment.id for segment in found.segments if segment.trailer is not None}
        # A line that was lost may have been the one that pointed the index there.
        doubt = self._manifest.bad_lines and complete.intersection(recovered.unborn)
        if known.seq and (doubt or not self._is_of_this_log(known, place, recovered)):
            known, place = NOWHERE, NO_PLACE
            recovered = self._recover_from(found, known, place)
        if not known.seq:
            self.index.reset()
            self.is_other = True
        self.segments.update((segment.id, segment) for segment in recovered.segments)
        self.damaged = list(recovered.damaged)
        self.damaged += [
            Damaged(s.id, s.end, s.end, s.header.first_seq, s.header.first_seq, None)
            for s in recovered.segments
            if s.trailer is None and s.id in self._manifest.state.sealed
        ]
        self.last_opening = recovered.last_opening
        unknown = [s for s in recovered.segments if s.id not in self._manifest.state.segments]
        lines = [added(segment.header) for segment in unknown]
        self._manifest.append([*lines, *sealed, Opened(place=place_now)])
        batch = self.log.open(recovered.start, now_ms=now_ms)
        self._opened_behind = batch.last_seq - 1
        versions = self._fill_index(known, place)
        self._version_found = max((*versions, *(record.version for record in batch.records)))
        self.apply(batch, self.log.cursor(), self.place())
        for replaced in self._manifest.state.unswapped:
            self._swap_or_fill(replaced)
        self.remarks += sweep(
            self._disk,
            self.directory,
            self._manifest,
            self.index,
            unborn=recovered.unborn,
            foreign=(*found.foreign, *recovered.unknown),
        )

    def _recover_from(self, found: Survey, known: Cursor, place: Place) -> Recovered:
        return recover(
            self._disk,
            self.directory,
            found,
            named=self._manifest.state.segments.keys() | self._manifest.state.outputs,
            known=known,
            place=(place.segment, place.end),
        )

    def _sync_trailers(self, segments: Iterable[Segment]) -> list[Sealed]:
        """A footer of which no line tells may be in the page cache and nowhere else."""
        state = self._manifest.state
        late = [
            segment.id
            for segment in segments
            if segment.trailer is not None
            and segment.header.kind == KIND_LOG
            and segment.id not in state.sealed
        ]
        for segment_id in late:
            file = self._disk.open(segment_path(self.directory, segment_id))
            try:
                file.sync()
            finally:
                file.close()
        return [Sealed(segment=segment_id) for segment_id in late]

    def _is_of_this_log(self, known: Cursor, place: Place, recovered: Recovered) -> bool:
        """Whether an index that stands at `known` was made from this state of this log.

        It may come from before a part of the history, or from another one: then its last record
        is not at its place, or the log was opened without it since.
        """
        if known.opening != recovered.last_opening:
            return False
        segment = next((s for s in recovered.segments if s.id == place.segment), None)
        if segment is None:
            return False
        file = self._disk.open(segment_path(self.directory, segment.id))
        try:
            last = header_at(file, offset=place.last, seed=segment.header.seed)
        finally:
            file.close()
        if last is None or last.seq != known.seq:
            return False
        return place.last + rec.padded(last.length) == place.end

    def _fill_index(self, known: Cursor, place: Place) -> list[int]:
        """Tell the index what the log has behind the place where it stands; large versions met."""
        packed = _PLACE.pack(*place)
        versions = [s.trailer.max_version for s in self.segments.values() if s.trailer]
        whole = True
        # Of a record in two places the first is kept: those that will be removed come last.
        retired = self._manifest.state.retired
        for segment in sorted(self.segments.values(), key=lambda one: one.id in retired):
            start = SEGMENT_HEADER_BYTES
            if known.seq:
                if segment.header.kind != KIND_LOG or segment.id < place.segment:
                    continue
                if segment.id == place.segment:
                    start = place.end
            loaded = load_segment(
                self._disk, self.directory, segment, self.index, known, packed, start=start
            )
            versions.append(loaded.version_max)
            if not loaded.whole:
                whole = False
                self.remarks.append(f"segment {segment.id} has records that cannot be read")
        if not whole:
            self.index.apply([(UNSURE_KEY, _NOTHING)], known, packed)
        return versions

    def _swap_or_fill(self, replaced: Replaced) -> None:
        """Finish a replacement; where its outputs do not tell, fill the index. Raises OSError."""
        try:
            self.replacements.swap(replaced)
        except Damage:
            self.rebuild_index()
            self.replacements.swapped(replaced)

    # Writing.

    def place(self) -> bytes:
        """Where the last record is and the next one goes, for the index."""
        return _PLACE.pack(*self.log.place)

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

        Raises WritesStopped, ValueTooLarge where a segment has no room for a record, OSError.
        """
        rest = list(records)
        while rest:
            if not self.log.fits(rest[0]):
                self.roll(now_ms=now_ms)
                if not self.log.fits(rest[0]):
                    raise ValueTooLarge("the record is larger than a segment")
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
        name = self._token(16).hex()
        return BlobWriter(self._disk, self.directory, name, fail=self.log.fail)

    def free_bytes(self) -> int:
        """What can still be written to the disk of this volume. Raises OSError."""
        return self._disk.free_bytes(self.directory)

    def promised_epoch(self) -> int:
        """The largest epoch that this volume ever promised, or has a version of: the record of
        the promise may be damaged."""
        position = self.index.get(note_key(Type.EPOCH))
        promised = position.version if position else 0
        return rec.epoch_of(max(promised, self._version_found))

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
        head = self.log.durable_seq if cursor.opening == self.log.opening else self._opened_behind
        known = (self.log.opening, self.last_opening)
        horizon = self._manifest.state.horizon
        if cursor.opening not in known or not horizon <= cursor.seq <= head:
            raise HistoryTrimmed(f"the log cannot be followed from seq {cursor.seq}")
        logged = self._reader.records_behind(cursor.seq, limit=limit)
        seq = logged[-1].position.seq if logged else cursor.seq
        return logged, Cursor(self.log.opening, seq)

    # Files that the background wrote.

    def retired(self) -> set[int]:
        """The segments that others have replaced, whose grace is not over."""
        return set(self._manifest.state.retired)

    def retired_blobs(self) -> set[str]:
        """The blobs that no record names any more, whose grace is not over."""
        return set(self._manifest.state.retired_blobs)

    def sealed(self, segment: Segment) -> None:
        """A segment got its footer: it is immutable from now on. Raises OSError."""
        if segment.id not in self._manifest.state.sealed:
            self._manifest.append([Sealed(segment=segment.id)])
        self.segments[segment.id] = segment

    def unsealed(self) -> list[Segment]:
        """The segments that wait for their footers, oldest first."""
        return [s for _, s in sorted(self.segments.items()) if s.trailer is None]

    def take_segment_id(self) -> int:
        """A new id for compaction to write to."""
        return self.log.take_segment_id()

    def remove_retired(self, *, now_ms: int) -> int:
        """Remove replaced files whose grace is over; how many segments. Raises OSError."""
        due = self.replacements.due(before_ms=now_ms - self.options.grace_s * 1000)
        segments = [segment for replaced in due for segment in replaced.inputs]
        for segment_id in segments:
            self.records.forget(segment_id)
        if segments:
            self.replacements.remove(due)
        return len(segments)

    def rebuild_index(self) -> None:
        """Empty the index and fill it from the log."""
        self.index.reset()
        self._fill_index(NOWHERE, NO_PLACE)
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


def _unpack_place(place: bytes) -> Place:
    return Place._make(_PLACE.unpack(place)) if len(place) == _PLACE.size else NO_PLACE
