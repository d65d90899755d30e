"""Opening: from what is in a volume's directory to where its log goes on.

Three questions, in this order:

1. Which segments are there? `survey` (survey.py) tells.
2. Where does each end? A sealed one says so in its trailer; an unsealed one that has a *born*
   successor is told by it; the last one is judged (`judge_tail`).
3. What is to be done with what stands behind the end that is certainly durable? It may have been
   acknowledged, it may sit in the page cache of a disk that failed: it is *carried* into the new
   segment, and the old one ends in front of it.

A segment is born once a record in it has `synced` >= its first seq - 1: then everything that it
stands on (the carried records, its OPEN record, the end of the one before) was durable before. An
unborn one never held an acknowledged record that is not also in the one before; what it holds in
sequence is carried too, and the file is removed later.

Torn or damaged? A record that is no record is *damage* if something says that it was durable
once: a later valid record's `synced`, or the cursor of a view. Damage is named and never cut off.
Otherwise it is a torn tail: the log ends in front of it, later records of that batch included. (A
valid record behind it proves nothing: one batch is written in any order.)
"""

from collections.abc import Collection, Iterable, Mapping

import msgspec

from pulzar.disk import Disk, File
from pulzar.varidb.log import Start, segment_path
from pulzar.varidb.position import Cursor
from pulzar.varidb.record import Record
from pulzar.varidb.segment import KIND_LOG, SEGMENT_HEADER_BYTES, Found, Gap, scan
from pulzar.varidb.survey import Segment, Survey, replaced_by


class Damaged(msgspec.Struct, frozen=True):
    """Bytes that were durable once and are no longer what was written."""

    segment: int
    offset: int
    end: int
    first_seq: int
    last_seq: int
    key: bytes | None


class Tail(msgspec.Struct, frozen=True, kw_only=True):
    """The judgement on the end of an unsealed segment.

    `end` is the offset in front of the first carried record; `next_seq` is behind the last one.
    """

    end: int
    next_seq: int
    durable_seq: int
    carried: tuple[Record, ...]
    damaged: tuple[Damaged, ...]


class Recovered(msgspec.Struct, frozen=True, kw_only=True):
    """What a directory holds. `segments` by id; `unborn` have no record of their own, of `unknown`
    nobody knows."""

    segments: tuple[Segment, ...]
    unborn: tuple[int, ...]
    unknown: tuple[int, ...] = ()
    start: Start
    damaged: tuple[Damaged, ...]
    last_opening: bytes


def _uncommitted(
    disk: Disk, directory: str, found: Survey, named: Collection[int]
) -> tuple[list[Segment], list[Segment]]:
    """The outputs of compactions that ended before their line in the MANIFEST, and those of which
    nobody knows whether they did.

    Such an output may be whole in the page cache and nowhere else. So it counts only where it is
    needed, because the MANIFEST was lost, and is synced then.
    """
    unborn: list[Segment] = []
    unknown: list[Segment] = []
    for segment in found.segments:
        if segment.header.kind == KIND_LOG or segment.id in named:
            continue
        others = [one for one in found.segments if one is not segment and one not in unborn]
        there = {one.id for one in others} | replaced_by(disk, directory, others)
        stands_for = replaced_by(disk, directory, [segment])  # nothing: its footer is damaged
        if found.is_whole:
            unborn.append(segment)
        elif not stands_for:
            unknown.append(segment)
        elif stands_for <= there:
            unborn.append(segment)
        else:
            file = disk.open(segment_path(directory, segment.id))
            try:
                file.sync()
            finally:
                file.close()
    return unborn, unknown


def is_born(file: File, segment: Segment) -> bool:
    """Whether everything that the segment stands on was durable before it (see above)."""
    if segment.header.previous_id == 0 or segment.trailer is not None:
        return True
    proof = segment.header.first_seq - 1
    items = scan(file, start=SEGMENT_HEADER_BYTES, end=segment.end, seed=segment.header.seed)
    return any(isinstance(item, Found) and item.header.synced >= proof for item in items)


def judge_tail(
    file: File, segment: Segment, *, at: int, durable_seq: int, expected: int | None
) -> Tail:
    """Where the log ends in its last segment, looking from offset `at` on.

    `durable_seq` is what is known to have been durable; `expected` is the seq of the record at
    `at`, None where only the segment itself knows.
    """
    judge = _Judge(segment, end=at, durable_seq=durable_seq, expected=expected)
    resume: int | None = at
    while resume is not None:
        items = scan(file, start=resume, end=segment.end, seed=segment.header.seed)
        resume = judge.look(items)
    return judge.verdict()


class _Judge:
    """Walks once over the items of a scan; again from a problem that turns out to be damage."""

    def __init__(
        self, segment: Segment, *, end: int, durable_seq: int, expected: int | None
    ) -> None:
        self._segment = segment
        self._end = end
        self._durable_seq = durable_seq
        self._expected = expected
        self._behind: list[Found] = []  # valid, in sequence, not known to be durable
        self._damaged: list[Damaged] = []

    def look(self, items: Iterable[Found | Gap]) -> int | None:
        """None at the end; else the offset from which to look again, knowing more."""
        problem: Damaged | None = None
        for item in items:
            if problem is None:
                problem = self._take(item)
            elif isinstance(item, Found) and item.header.synced >= problem.first_seq:
                self._learn(item.header.synced)
                return problem.offset
        return None

    def _learn(self, durable_seq: int) -> None:
        if durable_seq > self._durable_seq:
            self._durable_seq = durable_seq
            self._behind = [one for one in self._behind if one.header.seq > durable_seq]

    def _take(self, item: Found | Gap) -> Damaged | None:
        """Add an item to the log, or return it as the problem that may be its end."""
        if isinstance(item, Found):
            self._learn(item.header.synced)
        trouble = _trouble(self._segment.id, item, expected=self._expected)
        if trouble is not None:
            if trouble.first_seq > self._durable_seq:
                return trouble
            self._damaged.append(trouble)
        self._end = item.end
        if isinstance(item, Found):
            seq = item.header.seq
            if self._damaged and self._damaged[-1].end == item.offset:
                last = max(self._damaged[-1].last_seq, seq - 1)
                self._damaged[-1] = msgspec.structs.replace(self._damaged[-1], last_seq=last)
            self._expected = seq + 1
            if seq > self._durable_seq:
                self._behind.append(item)
        return None

    def verdict(self) -> Tail:
        """What the walk found."""
        next_seq = max(self._expected or 1, self._durable_seq + 1)
        if self._damaged and self._damaged[-1].end == self._end:
            last = max(self._damaged[-1].last_seq, next_seq - 1)
            self._damaged[-1] = msgspec.structs.replace(self._damaged[-1], last_seq=last)
        return Tail(
            end=self._behind[0].offset if self._behind else self._end,
            next_seq=next_seq,
            durable_seq=self._durable_seq,
            carried=tuple(one.record for one in self._behind if one.record is not None),
            damaged=tuple(self._damaged),
        )


def _trouble(segment: int, item: Found | Gap, *, expected: int | None) -> Damaged | None:
    """What is wrong with an item of a scan, if anything."""
    if isinstance(item, Gap):
        first = expected if expected is not None else 1
        return Damaged(segment, item.offset, item.end, first, first, None)
    seq = item.header.seq
    if item.record is None or (expected is not None and seq < expected):
        return Damaged(segment, item.offset, item.end, seq, seq, item.header.key)
    return None


def recover(
    disk: Disk,
    directory: str,
    found: Survey,
    *,
    named: Collection[int],
    known: Cursor,
    place: tuple[int, int],
) -> Recovered:
    """Where the log goes on.

    `named` are the ids in the MANIFEST. `known` and `place` are the cursor of a trusted index and
    where in the log it stands (segment, offset); NOWHERE and (0, 0) without one. Raises OSError.
    """
    unborn, unknown = _uncommitted(disk, directory, found, named)
    segments = [segment for segment in found.segments if segment not in unknown]
    logs = [segment for segment in segments if segment.header.kind == KIND_LOG]
    while logs and not _born_on_disk(disk, directory, logs[-1]):
        unborn.append(logs.pop())
    continued = {log.header.previous_id for log in logs}
    alone = [s for s in logs[:-1] if s.trailer is None and s.id not in continued]
    # One that was left behind unborn by an earlier opening, and whose removal did not last.
    unborn += [segment for segment in alone if not _born_on_disk(disk, directory, segment)]
    logs = [segment for segment in logs if segment not in unborn]
    next_segment = found.last_id + 1
    if not logs:
        last_seq = max((s.trailer.last_seq for s in segments if s.trailer is not None), default=0)
        start = Start(next_segment=next_segment, next_seq=last_seq + 1, durable_seq=last_seq)
        return Recovered(
            segments=tuple(s for s in segments if s not in unborn),
            unborn=(*(s.id for s in unborn), *found.blank),
            unknown=tuple(s.id for s in unknown),
            start=start,
            damaged=(),
            last_opening=b"",
        )
    last = logs[-1]
    tail = _judge_on_disk(disk, directory, last, known=known, place=place)
    carried, next_seq = list(tail.carried), tail.next_seq
    for segment in sorted(unborn, key=lambda one: one.id):
        for record in _valid_records(disk, directory, segment):
            if record.seq == next_seq:
                carried.append(record)
                next_seq += 1
    ends = {log.header.previous_id: log.header.previous_end for log in logs}
    ends[last.id] = tail.end
    damaged = list(tail.damaged)
    for segment in alone:
        if segment not in unborn:
            ends[segment.id], wrong = _whole_part(disk, directory, segment)
            damaged += wrong
    return Recovered(
        segments=tuple(_ended(segment, ends) for segment in segments if segment not in unborn),
        unborn=(*(segment.id for segment in unborn), *found.blank),
        unknown=tuple(segment.id for segment in unknown),
        start=Start(
            next_segment=next_segment,
            previous_id=last.id,
            previous_end=tail.end,
            next_seq=next_seq,
            durable_seq=tail.durable_seq,
            carried=tuple(carried),
        ),
        damaged=tuple(damaged),
        last_opening=last.header.opening,
    )


def _whole_part(disk: Disk, directory: str, segment: Segment) -> tuple[int, list[Damaged]]:
    """Where the records of an unsealed segment end whose successor is gone, and what is wrong.

    Nobody is left to tell that end, so it is behind the last valid record whose seq goes on, and
    all that is no such record, up to the end of the file, counts as damage.
    """
    end, seq = SEGMENT_HEADER_BYTES, 0
    damaged: list[Damaged] = []
    file = disk.open(segment_path(directory, segment.id))
    try:
        items = scan(file, start=end, end=segment.end, seed=segment.header.seed)
        for item in items:
            if isinstance(item, Found) and item.record is not None and item.header.seq > seq:
                if item.offset > end:
                    damaged.append(Damaged(segment.id, end, item.offset, seq + 1, seq + 1, None))
                end, seq = item.end, item.header.seq
    finally:
        file.close()
    damaged.append(Damaged(segment.id, end, segment.end, seq + 1, seq + 1, None))
    return end, damaged


def _ended(segment: Segment, ends: Mapping[int, int]) -> Segment:
    """An unsealed segment with the end that its successor, or the judgement, gives it."""
    if segment.trailer is not None or segment.id not in ends:
        return segment
    return msgspec.structs.replace(segment, end=ends[segment.id])


def _born_on_disk(disk: Disk, directory: str, segment: Segment) -> bool:
    file = disk.open(segment_path(directory, segment.id))
    try:
        return is_born(file, segment)
    finally:
        file.close()


def _judge_on_disk(
    disk: Disk, directory: str, segment: Segment, *, known: Cursor, place: tuple[int, int]
) -> Tail:
    if segment.trailer is not None:
        last_seq = segment.trailer.last_seq
        return Tail(
            end=segment.end, next_seq=last_seq + 1, durable_seq=last_seq, carried=(), damaged=()
        )
    header = segment.header
    durable_seq = max(known.seq, header.first_seq - 1 if header.previous_id else 0)
    file = disk.open(segment_path(directory, segment.id))
    try:
        # What a killed process wrote must be durable before anybody is told of it.
        file.sync()
        if place[0] == segment.id:
            return judge_tail(
                file, segment, at=place[1], durable_seq=durable_seq, expected=known.seq + 1
            )
        return judge_tail(
            file, segment, at=SEGMENT_HEADER_BYTES, durable_seq=durable_seq, expected=None
        )
    finally:
        file.close()


def _valid_records(disk: Disk, directory: str, segment: Segment) -> list[Record]:
    file = disk.open(segment_path(directory, segment.id))
    try:
        items = scan(file, start=SEGMENT_HEADER_BYTES, end=segment.end, seed=segment.header.seed)
        return [
            item.record for item in items if isinstance(item, Found) and item.record is not None
        ]
    finally:
        file.close()
