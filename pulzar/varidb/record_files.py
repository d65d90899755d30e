"""The segment files of a volume, open for reading records at their positions.

Every byte is checked: the record must be the one that the position speaks of, at its place. A few
files are kept open for the event loop, which reads only what is in the page cache; a thread that
waits for a disk opens a file of its own.
"""

from collections import OrderedDict
from collections.abc import Mapping

from pulzar.disk import Disk, File
from pulzar.errors import Damage
from pulzar.limits import OPEN_FILES_MAX
from pulzar.varidb import record as rec
from pulzar.varidb.log import Log, segment_path
from pulzar.varidb.position import Position
from pulzar.varidb.record import Record
from pulzar.varidb.survey import Segment


class RecordFiles:
    """Reads of one volume. `segments` are those that are not active, as they are now."""

    def __init__(
        self, disk: Disk, directory: str, log: Log, segments: Mapping[int, Segment]
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._log = log
        self._segments = segments
        self._open: OrderedDict[int, tuple[File, int]] = OrderedDict()  # and the segment's seed

    def read_cached(self, key: bytes, position: Position) -> Record | None:
        """The record, if no disk has to be waited for; else None: use `read` in a thread.

        Raises Damage, FileNotFoundError (compaction moved it: ask the index again), OSError.
        """
        file, seed = self._file(position.segment)
        buffer = file.read_cached(position.length, offset=position.offset)
        if buffer is None:
            return None
        return _checked(key, position, buffer, seed=seed)

    def read(self, key: bytes, position: Position) -> Record:
        """The record at a position. Any thread. Raises Damage, OSError."""
        file = self._disk.open(segment_path(self._directory, position.segment))
        try:
            buffer = file.read(position.length, offset=position.offset)
        finally:
            file.close()
        return _checked(key, position, buffer, seed=self._seed(position.segment))

    def forget(self, segment_id: int) -> None:
        """Close the file of a segment that will be removed."""
        cached = self._open.pop(segment_id, None)
        if cached is not None:
            cached[0].close()

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._open.popitem()[1][0].close()

    def _file(self, segment_id: int) -> tuple[File, int]:
        """An open file of a segment, and its seed."""
        cached = self._open.get(segment_id)
        if cached is not None:
            self._open.move_to_end(segment_id)
            return cached
        seed = self._seed(segment_id)
        file = self._disk.open(segment_path(self._directory, segment_id))
        self._open[segment_id] = (file, seed)
        while len(self._open) > OPEN_FILES_MAX:
            self._open.popitem(last=False)[1][0].close()
        return self._open[segment_id]

    def _seed(self, segment_id: int) -> int:
        active = self._log.header  # one look: it may change while a thread is here
        if active is not None and active.segment_id == segment_id:
            return active.seed
        segment = self._segments.get(segment_id)
        if segment is None:
            raise FileNotFoundError(f"segment {segment_id} is gone")
        return segment.header.seed


def _checked(key: bytes, position: Position, buffer: bytes, *, seed: int) -> Record:
    record = rec.decode(buffer, 0, offset=position.offset, seed=seed)
    if record is None or record.key != key or (record.version, record.seq) != position.order:
        raise Damage(
            f"the record at {position.segment}:{position.offset} does not match its checksum"
        )
    return record
