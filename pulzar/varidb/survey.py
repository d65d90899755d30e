"""Which segments are there: the first question of an opening (recovery.py has the others).

Every valid file in `segments/` is read, whatever the MANIFEST says; a damaged segment header is
rebuilt from the trailer or from the MANIFEST. One that the MANIFEST names and that is neither there
nor replaced by one that is: SegmentMissing. One of another volume: NotAVolume, since nobody knows
which of the two files is at the wrong place. What is no segment at all is told from a file that a
crash left without a header.
"""

from collections.abc import Iterable, Mapping

import msgspec

from pulzar.disk import Disk, File
from pulzar.errors import Damage, NotAVolume, SegmentMissing
from pulzar.limits import SEGMENT_BYTES_MAX
from pulzar.varidb.footer import Trailer, read_footer, read_trailer
from pulzar.varidb.log import SEGMENTS, segment_path
from pulzar.varidb.manifest import Added, Lost, Manifest, ManifestFile, Replaced, Reverted
from pulzar.varidb.segment import (
    KIND_LOG,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    decode_segment_header,
    segment_id_of,
    segment_name,
)


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """One file of `segments/` that holds records. `end` is where its records end."""

    header: SegmentHeader
    trailer: Trailer | None
    size: int
    end: int
    mended: bool = False

    @property
    def id(self) -> int:
        """The id in the header."""
        return self.header.segment_id


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """The files of `segments/`.

    `blank` are ids of files without a header: a crash while they were created. `foreign` are those
    whose header is damaged, or that of another file. `last_id` is the largest that a file has, or
    that the MANIFEST speaks of: no later one was ever given. `is_whole`: the MANIFEST is all there,
    so what it does not name never counted. `lines` are for the MANIFEST: what a copy lacks.
    """

    segments: list[Segment]
    blank: list[int]
    foreign: list[int]
    last_id: int
    is_whole: bool = False
    lines: tuple[Reverted | Lost, ...] = ()


def survey(
    disk: Disk,
    directory: str,
    manifest: ManifestFile,
    *,
    volume_id: bytes,
    is_copy: bool,
) -> Survey:
    """Every segment in the directory, by id. Raises OSError, SegmentMissing, NotAVolume.

    In a copy that was made while the volume was written to, segments may be missing
    that came after its listing: the last ones of the log, and outputs of compaction whose inputs
    are there.
    """
    found: dict[int, Segment] = {}
    blank: list[int] = []
    foreign: list[int] = []
    for name in disk.list(f"{directory}/{SEGMENTS}"):
        segment_id = segment_id_of(name)
        if segment_id is None:
            continue
        file = disk.open(f"{directory}/{SEGMENTS}/{name}")
        try:
            line = manifest.state.segments.get(segment_id)
            segment = _examine(file, line, volume_id=volume_id)
            is_blank = not any(file.read(SEGMENT_HEADER_BYTES, offset=0))
        finally:
            file.close()
        if segment is not None and segment.id == segment_id:
            found[segment_id] = segment
        else:
            (blank if is_blank else foreign).append(segment_id)
    state = manifest.state
    named = state.segments.keys() | state.outputs
    missing = named - found.keys() - state.retired.keys()
    if missing:
        missing -= replaced_by(disk, directory, found.values())
    lines = _later_ones(state, found) if is_copy else ()
    missing -= {gone for line in lines if isinstance(line, Lost) for gone in line.segments}
    if missing:
        names = ", ".join(segment_name(segment) for segment in sorted(missing))
        raise SegmentMissing(
            f"{directory} lacks {names}: put it back, or restore the volume from a copy"
        )
    segments = [found[segment] for segment in sorted(found)]
    last_id = max((*found, *blank, *foreign, *named, *state.retired), default=0)
    return Survey(
        segments=segments,
        blank=blank,
        foreign=foreign,
        last_id=last_id,
        is_whole=bool(state.segments) and not manifest.bad_lines and not is_copy,
        lines=lines,
    )


def _later_ones(state: Manifest, found: Mapping[int, Segment]) -> tuple[Reverted | Lost, ...]:
    """The lines that take the segments that a copy may lack out of the MANIFEST.

    Those are the ones of the log behind the last that is there, and outputs of compaction whose
    inputs are all there or may be lacking themselves. Replacements by nothing are taken back.
    """
    logs = [one.id for one in found.values() if one.header.kind == KIND_LOG]
    absent = state.segments.keys() - found.keys()
    later = {s for s in absent if state.segments[s].kind == KIND_LOG and s > max(logs, default=0)}
    reverted: list[Replaced] = []
    for one in state.replaced:  # in the order in which they happened
        lacking = set(one.outputs) - found.keys()
        if lacking and (found.keys() | later).issuperset(one.inputs):
            later |= lacking
            reverted.append(one)
        elif not one.outputs:
            # What superseded its inputs may have come after the listing: they stand again.
            later |= set(one.inputs) & absent
            reverted.append(one)
    lines = [Reverted(inputs=one.inputs) for one in reverted]
    return (*lines, Lost(segments=tuple(sorted(later)))) if later else tuple(lines)


def replaced_by(disk: Disk, directory: str, segments: Iterable[Segment]) -> set[int]:
    """The ids that the footers of compacted segments name as their inputs; a damaged one tells
    none."""
    replaced: set[int] = set()
    for segment in segments:
        if segment.trailer is None or not segment.trailer.inputs:
            continue
        file = disk.open(segment_path(directory, segment.id))
        try:
            for first, last in read_footer(file, segment.trailer).inputs:
                replaced.update(range(first, last + 1))
        except Damage:
            continue
        finally:
            file.close()
    return replaced


def _examine(file: File, added: Added | None, *, volume_id: bytes) -> Segment | None:
    size = file.size()
    header = decode_segment_header(file.read(SEGMENT_HEADER_BYTES, offset=0))
    trailer = read_trailer(file)
    mended = header is None
    if header is None and added is not None:
        header = _header_of(added, volume_id=volume_id)
    if header is None and trailer is not None:
        header = SegmentHeader(
            volume_id=trailer.volume_id,
            salt=trailer.salt,
            segment_id=trailer.segment_id,
            kind=trailer.kind,
            first_seq=trailer.first_seq,
        )
    if header is None:
        return None
    if header.volume_id != volume_id:
        name = segment_name(header.segment_id)
        raise NotAVolume(
            f"{name} belongs to another volume: move it away, or put back its own volume.json"
        )
    if trailer is not None and trailer.salt != header.salt:
        trailer = None
    end = trailer.records_end if trailer is not None else min(size, SEGMENT_BYTES_MAX)
    return Segment(header=header, trailer=trailer, size=size, end=end, mended=mended)


def _header_of(added: Added, *, volume_id: bytes) -> SegmentHeader:
    return SegmentHeader(
        volume_id=volume_id,
        salt=bytes.fromhex(added.salt),
        segment_id=added.segment,
        kind=added.kind,
        previous_id=added.previous,
        previous_end=added.previous_end,
        first_seq=added.first_seq,
        created_ms=added.created_ms,
        opening=bytes.fromhex(added.opening),
    )
