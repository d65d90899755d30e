"""Replacements: what compaction wrote stands for what it read.

    replace         one write to the MANIFEST: the outputs stand for the inputs
    swap            the index is pointed at the outputs, entry by entry or all at once
    swapped         a line says so: nobody looks into the inputs any more
    due, remove     after the grace the inputs go, for good, and then a line says that

A crash, or an error, between any two of these is finished by the next opening, or in front of the
next compaction: that one asks the index what is live, so it must know of the last one.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress

from pulzar.disk import Disk
from pulzar.errors import Damage
from pulzar.varidb.blob import blob_path
from pulzar.varidb.crash_point import CrashPoint
from pulzar.varidb.following import IndexView, Item, blob_items, blob_key, footer_of, note_key
from pulzar.varidb.footer import Footer, Trailer, read_body
from pulzar.varidb.log import SEGMENTS, added, segment_path
from pulzar.varidb.manifest import ManifestFile, Removed, Replaced, Sealed, Swapped
from pulzar.varidb.position import unpack_position
from pulzar.varidb.survey import Segment


class Replacements:
    """The replacements of one volume. `segments` are its segments, as they are now."""

    def __init__(
        self,
        disk: Disk,
        directory: str,
        *,
        manifest: ManifestFile,
        index: IndexView,
        segments: dict[int, Segment],
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._manifest = manifest
        self._index = index
        self._segments = segments

    def retired(self) -> dict[int, int]:
        """Segments that compaction replaced -> when (ms). They stay for the grace."""
        return self._manifest.state.retired

    def replace(self, replaced: Replaced, outputs: Sequence[Segment]) -> None:
        """Take in what compaction wrote: one line, and the outputs stand for the inputs.

        Then swap the index (`swap`, or `swap_entries` piece by piece and `swapped`).
        """
        lines = [added(segment.header) for segment in outputs]
        seals = [Sealed(segment=segment.id) for segment in outputs]
        try:
            self._manifest.append([*lines, *seals, replaced])
        except OSError:
            self._withdraw(outputs)
            raise
        self._segments.update((segment.id, segment) for segment in outputs)
        self._disk.reached(CrashPoint.COMPACTION_COMMITTED)

    def _withdraw(self, outputs: Sequence[Segment]) -> None:
        """Remove outputs that do not count, once the MANIFEST certainly does not name them. Where
        the disk does not let us, the next opening does it."""
        with suppress(OSError):
            self._manifest.append([])
            for output in outputs:
                unlink(self._disk, segment_path(self._directory, output.id))
            self._disk.sync_directory(f"{self._directory}/{SEGMENTS}")

    def swap_entries(self, keys: Sequence[bytes], entries: Sequence[bytes]) -> int:
        """Point the index at entries of an output, where it still has the same record."""
        columns = zip(keys, entries, strict=True)
        return self._swap([(key, unpack_position(key, entry)) for key, entry in columns])

    def _swap(self, items: Sequence[Item]) -> int:
        changes = []
        for key, new in items:
            old = self._index.get(key)
            if old is not None and old.order == new.order:
                changes.append((key, old, new))
        return self._index.swap(changes)

    def swap(self, replaced: Replaced) -> None:
        """Finish a replacement at once. Raises OSError, Damage."""
        for output in self.standing(replaced):
            footer = self.footer(output)
            self.swap_entries(footer.keys, footer.entries)
        self.swap_names(replaced)
        self.swapped(replaced)

    def standing(self, replaced: Replaced) -> list[int]:
        """The outputs of a replacement that were not replaced themselves."""
        standing = self._segments.keys() - self._manifest.state.retired.keys()
        return [output for output in replaced.outputs if output in standing]

    def unswapped(self) -> list[Replaced]:
        """Replacements that the index was not told of to the end: something went wrong then.

        They must be finished before the next compaction, which asks the index what is live.
        """
        return self._manifest.state.unswapped

    def footer(self, segment_id: int) -> Footer:
        """The footer of a sealed segment. Any thread. Raises Damage, OSError."""
        footer = footer_of(self._disk, self._directory, self._segments[segment_id])
        if footer is None:
            raise Damage(f"the footer of segment {segment_id} does not match its checksum")
        return footer

    def footer_body(self, segment_id: int) -> tuple[bytes, Trailer]:
        """The bytes of a footer, for `footer.columns`. Any thread. Raises Damage, OSError."""
        trailer = self._segments[segment_id].trailer
        assert trailer is not None
        file = self._disk.open(segment_path(self._directory, segment_id))
        try:
            return read_body(file, trailer), trailer
        finally:
            file.close()

    def swap_names(self, replaced: Replaced) -> None:
        """As `swap_entries`, for the few notes and names of blobs in the outputs."""
        for output in self.standing(replaced):
            footer = self.footer(output)
            items = [(note_key(note.type), note) for note in footer.notes]
            segment = self._segments[output]
            blobs, _ = blob_items(self._disk, self._directory, segment, footer.keys, footer.entries)
            self._swap(items + blobs)
        self.forget_blobs(replaced)

    def forget_blobs(self, replaced: Replaced) -> None:
        """Drop the names of the blobs that lost their last record."""
        gone = [(blob_key(name), self._index.get(blob_key(name))) for name in replaced.blobs]
        self._index.drop([(name, old.order) for name, old in gone if old is not None])

    def swapped(self, replaced: Replaced) -> None:
        """The index no longer points into the inputs."""
        self._disk.reached(CrashPoint.COMPACTION_SWAPPED)
        self._manifest.append([Swapped(inputs=replaced.inputs)])

    def forget_deletes(self, purged: Iterable[tuple[bytes, int, int]]) -> int:
        """Drop the entries of purged DELETE records; how many."""
        return self._index.drop([(key, (version, seq)) for key, version, seq in purged])

    def due(self, *, before_ms: int) -> list[Replaced]:
        """Replacements from before a moment whose inputs nobody needs any more."""
        state = self._manifest.state
        return [r for r in state.replaced if r.at_ms <= before_ms and r.inputs in state.swapped]

    def remove(self, due: Sequence[Replaced]) -> None:
        """Remove the inputs of replacements, and the blobs that these name. Raises OSError: then
        what is still there is still known."""
        segments = tuple(segment for replaced in due for segment in replaced.inputs)
        for segment_id in segments:
            unlink(self._disk, segment_path(self._directory, segment_id))
        for replaced in due:
            for name in replaced.blobs:
                unlink(self._disk, blob_path(self._directory, name))
        # While one of them may come back, the deletes that hide its records must stay.
        self._disk.sync_directory(f"{self._directory}/{SEGMENTS}")
        self._disk.reached(CrashPoint.RETIRED_REMOVED)
        self._manifest.append([Removed(segments=segments)])
        for segment_id in segments:
            self._segments.pop(segment_id, None)


def unlink(disk: Disk, path: str) -> None:
    """Remove a name, if it is there. Raises OSError."""
    try:
        disk.unlink(path)
    except FileNotFoundError:
        return
