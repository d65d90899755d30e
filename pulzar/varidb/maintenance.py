"""What a serving volume does beside requests: sealing, compaction, purge, old files, scrub.

The slow part runs in the background process (background.py), one task at a time; this file says
when, and takes the results in: lines of the MANIFEST through the commit thread, index entries in
slices short enough that no request notices.

When the background process dies, whoever waits on `failed` ends the program: a program is all of
its processes or none.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeAlias, TypeVar

import msgspec

from pulzar.clock import Clock
from pulzar.disk import Disk
from pulzar.errors import OutOfSpace, PulzarError, Unavailable
from pulzar.limits import (
    BACKGROUND_LINE_BYTES_MAX,
    COMPACT_DEAD_BYTES_MIN,
    COMPACT_LIVE_RATIO_MAX,
    COMPACT_ROOM_SEGMENTS,
    MAINTENANCE_INTERVAL_S,
    SCRUB_DAMAGED_MAX,
    SCRUB_SLICE_BYTES,
    SWAP_ENTRIES,
    SWAP_PAUSE_S,
)
from pulzar.varidb.background import COMMAND
from pulzar.varidb.commit import Committer
from pulzar.varidb.compaction import Rewritten
from pulzar.varidb.crash_point import CrashPoint
from pulzar.varidb.footer import columns
from pulzar.varidb.manifest import Replaced
from pulzar.varidb.record import Record, Type
from pulzar.varidb.scrub import (
    DamagedCopy,
    Progress,
    Slice,
    begun_at,
    behind,
    is_due,
    keep_progress,
    next_segment,
    pace,
    read_progress,
)
from pulzar.varidb.task import (
    Answer,
    Compact,
    CompactDone,
    Failed,
    Scrub,
    ScrubDone,
    Seal,
    SealDone,
    Task,
)
from pulzar.varidb.volume import Volume

T = TypeVar("T")

_log = logging.getLogger(__name__)
_decode_answer = msgspec.json.Decoder(Answer).decode


Purged: TypeAlias = Callable[[list[tuple[bytes, int]]], None]
"""Told of the deletes, by key and version, that the log no longer has."""


class Maintenance:
    """The work beside requests of one volume. One event loop.

    `purged` is None where deletes must not be purged: in a cluster, other volumes need them.
    """

    def __init__(
        self,
        volume: Volume,
        committer: Committer,
        *,
        disk: Disk,
        directory: str,
        views: str,
        clock: Clock,
        token: Callable[[int], bytes],
        take_superseded: Callable[[], int],
        purged: Purged | None = None,
    ) -> None:
        """`directory` is where the volume is, `views` that of its index; `take_superseded` says
        how many bytes of it were superseded since the last call."""
        self._volume = volume
        self._disk = disk
        self._directory = directory
        self._committer = committer
        self.take_superseded = take_superseded
        self._superseded_bytes = 0
        self.purged = purged
        self._views = views
        self._clock = clock
        self._token = token
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.compactions_total = 0
        self.purged_total = 0
        self.scrubbed_bytes_total = 0
        self._damaged: dict[bytes, DamagedCopy] = {}

    async def start(self) -> None:
        """Start the background process and the work that is due."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-c",
            COMMAND,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=BACKGROUND_LINE_BYTES_MAX,
        )
        output = self._process.stdout
        if output is None or not await output.readline():
            raise Unavailable("the background process ended at its start")
        self._committer.rolled = self._wake.set
        self._wake.set()
        self._tasks = [
            asyncio.create_task(self._watch(self._process)),
            asyncio.create_task(self._seal_rolled()),
            asyncio.create_task(self._tidy()),
            asyncio.create_task(self._scrub_when_due()),
        ]

    async def close(self) -> None:
        """Stop. What the background process was doing is done again by the next opening."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def compact(self, *, live_ratio_max: float) -> dict[str, int]:
        """Rewrite sealed segments of which at most that share is live. See `Store.compact`."""
        async with self._turn:
            return await self._compact_all(live_ratio_max)

    def damaged(self) -> list[DamagedCopy]:
        """Damage that a scrub found in what is not superseded yet."""
        for copy in list(self._damaged.values()):
            position = self._volume.index.get(copy.key)
            if position is None or position.order != (copy.version, copy.seq):
                del self._damaged[copy.key]
        return list(self._damaged.values())

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        if not self._closing and not self.failed.done():
            self.failed.set_result(f"the background process ended with status {code}")

    async def _seal_rolled(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                async with self._turn:
                    await self._seal_all()
            except (OSError, PulzarError) as error:
                _log.warning("sealing failed, it is tried again with the next segment: %s", error)

    async def _tidy(self) -> None:
        """Remove replaced files after their grace; compact when enough is dead.

        What was superseded before this start is not known, so it is looked for once.
        """
        looked = False
        while True:
            try:
                await self._remove_retired()
                await asyncio.sleep(MAINTENANCE_INTERVAL_S)
                self._superseded_bytes += self.take_superseded()
                if not looked or self._superseded_bytes > COMPACT_DEAD_BYTES_MIN:
                    looked = True
                    self._superseded_bytes = 0
                    await self.compact(live_ratio_max=COMPACT_LIVE_RATIO_MAX)
            except (OSError, PulzarError) as error:
                _log.warning("tidying up the volume failed: %s", error)

    async def _scrub_when_due(self) -> None:
        while True:
            try:
                progress = read_progress(self._disk, self._directory)
                if progress is None:
                    progress = Progress(began_ms=self._clock.now_ms())
                    await self._keep(progress)
                if progress.until or is_due(progress, self._clock.now_ms()):
                    await self._scrub(progress)
            except (OSError, PulzarError) as error:
                _log.warning("the scrub stopped, and goes on later: %s", error)
            await asyncio.sleep(MAINTENANCE_INTERVAL_S)

    async def _scrub(self, progress: Progress) -> None:
        """Go on with a pass, or begin one, up to its end."""
        if not progress.until:
            async with self._turn:
                await self._committer.roll_if_used()
                await self._seal_all()
            until = self._volume.active_segment().id
            progress = Progress(began_ms=self._clock.now_ms(), until=until)
            _log.info("a scrub has begun")
        while (number := next_segment(progress, self._volume.segments)) is not None:
            progress = begun_at(progress, number)
            async with self._turn:
                read = await self._scrub_slice(progress)
            await self._take_damage(read, number)
            self.scrubbed_bytes_total += read.read_bytes
            progress = behind(progress, read)
            await self._keep(progress)
            await asyncio.sleep(pace(read.read_bytes, self._disk.used_bytes(self._directory)))
        await self._keep(Progress(began_ms=progress.began_ms))
        _log.info("the scrub has ended: %d copies are damaged", len(self.damaged()))

    async def _keep(self, progress: Progress) -> None:
        keep = partial(keep_progress, self._disk, self._directory, progress)
        await asyncio.get_running_loop().run_in_executor(None, keep)

    async def _scrub_slice(self, progress: Progress) -> Slice:
        segment = self._volume.segments.get(progress.segment)
        if segment is None:  # rewritten while its turn was waited for
            return Slice(offset=0, chunk=0, ended=True, read_bytes=0, damaged=())
        task = Scrub(
            directory=self._volume.directory,
            views=self._views,
            segment=segment,
            offset=progress.offset,
            chunk=progress.chunk,
            bytes_max=SCRUB_SLICE_BYTES,
        )
        answer = await self._run(task)
        if isinstance(answer, Failed):
            raise Unavailable(answer.reason)
        assert isinstance(answer, ScrubDone)
        return answer.read

    async def _take_damage(self, read: Slice, segment: int) -> None:
        if not read.footer_holds:
            _log.error("scrub: the footer of segment %d does not match its checksum", segment)
        for copy in read.damaged:
            _log.error("scrub: %s, of key %r, does not match its checksum", copy.place, copy.key)
            if copy.type == Type.DELETE:
                await self._write_again(copy)
            elif len(self._damaged) < SCRUB_DAMAGED_MAX:
                self._damaged[copy.key] = copy

    async def _write_again(self, copy: DamagedCopy) -> None:
        """Write a DELETE a second time; whatever came meanwhile is larger, and wins."""
        now_ms = self._clock.now_ms()
        record = Record(type=Type.DELETE, key=copy.key, version=copy.version, created_ms=now_ms)
        await self._committer.write(record)

    async def _remove_retired(self) -> None:
        now_ms = self._clock.now_ms()
        try:
            await self._committer.in_thread(partial(self._volume.remove_retired, now_ms=now_ms))
        except OSError as error:
            raise Unavailable(f"replaced files could not be removed: {error}") from None

    async def _run(self, task: Task) -> Answer:
        """One task by the background process. Raises Unavailable where it is gone."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise Unavailable("the background process does not run")
        try:
            process.stdin.write(msgspec.json.encode(task) + b"\n")
            await process.stdin.drain()
            line = await process.stdout.readline()
        except OSError as error:
            raise Unavailable(f"the background process is gone: {error}") from None
        if not line:
            raise Unavailable("the background process is gone")
        answer: Answer = _decode_answer(line)
        return answer

    async def _seal_all(self) -> None:
        for segment in self._volume.unsealed():
            answer = await self._run(Seal(self._volume.directory, segment))
            if isinstance(answer, SealDone):
                sealed = answer.sealed
                await self._committer.in_thread(partial(self._volume.sealed, sealed.segment))
                self._volume.damaged.extend(sealed.damaged)
            elif isinstance(answer, Failed):
                _log.warning("segment %d could not be sealed: %s", segment.id, answer.reason)

    def _require_room(self) -> None:
        """Compaction writes at most a segment before it frees one, and the log may need one more.
        Raises OutOfSpace: what is left of the reserve is for deletes, and for the next start."""
        free = self._volume.free_bytes()
        wanted = COMPACT_ROOM_SEGMENTS * self._volume.options.segment_bytes
        if free < wanted:
            raise OutOfSpace(f"compaction needs {wanted} free bytes on the disk; there are {free}")

    async def _compact_all(self, live_ratio_max: float) -> dict[str, int]:
        self._require_room()
        await self._committer.roll_if_used()
        await self._seal_all()
        for replaced in self._volume.replacements.unswapped():
            await self._swap_all(replaced)
        skip: set[int] = set()
        given_up: list[str] = []
        done = {"segments": 0, "records_kept": 0, "records_dropped": 0, "deletes_purged": 0}
        while True:
            await self._remove_retired()
            self._require_room()
            answer = await self._run(self._next_compaction(live_ratio_max, skip))
            if isinstance(answer, Failed) and answer.inputs:
                given_up.append(answer.reason)  # the other segments need not stay for these
                skip.update(answer.inputs)
                continue
            if isinstance(answer, Failed):
                raise Unavailable(f"compaction gave up: {answer.reason}")
            assert isinstance(answer, CompactDone)
            rewritten = answer.rewritten
            if rewritten is None and given_up:
                raise Unavailable(f"compaction left some segments out: {'; '.join(given_up)}")
            if rewritten is None:
                return done
            await self._take_in(rewritten, answer)
            if rewritten.output is not None:
                skip.add(rewritten.output.id)
            done["segments"] += len(rewritten.inputs)
            done["records_kept"] += rewritten.kept
            done["records_dropped"] += rewritten.dropped
            done["deletes_purged"] += len(answer.purged)

    def _next_compaction(self, live_ratio_max: float, skip: set[int]) -> Compact:
        volume = self._volume
        return Compact(
            directory=volume.directory,
            views=self._views,
            segments=tuple(volume.segments.values()),
            retired=frozenset(volume.replacements.retired()),
            skip=frozenset(skip),
            output_id=volume.take_segment_id(),
            salt=self._token(16),
            opening=volume.log.opening,
            now_ms=self._clock.now_ms(),
            segment_bytes=volume.options.segment_bytes,
            live_ratio_max=live_ratio_max,
            purge=self.purged is not None,
        )

    async def _take_in(self, rewritten: Rewritten, done: CompactDone) -> None:
        """PURGE record, MANIFEST line, index, MANIFEST line: in this order."""
        volume = self._volume
        if done.purged:
            upto = max(version for _, version, _ in done.purged)
            now_ms = self._clock.now_ms()
            await self._committer.write(Record(type=Type.PURGE, version=upto, created_ms=now_ms))
            volume.reached(CrashPoint.PURGE_RECORDED)
        replaced = Replaced(
            inputs=rewritten.inputs,
            outputs=(rewritten.output.id,) if rewritten.output is not None else (),
            blobs=rewritten.blobs,
            at_ms=self._clock.now_ms(),
            horizon=rewritten.horizon,
        )
        outputs = [rewritten.output] if rewritten.output is not None else []
        try:
            await self._committer.in_thread(lambda: volume.replacements.replace(replaced, outputs))
            for output in outputs:
                await self._swap(output.id)
            for some in _slices(rewritten.names):
                volume.replacements.swap_entries([key for key, _ in some], [row for _, row in some])
                await asyncio.sleep(SWAP_PAUSE_S)
            volume.replacements.forget_blobs(replaced)
            await self._committer.in_thread(lambda: volume.replacements.swapped(replaced))
        except OSError as error:
            raise Unavailable(f"compaction could not be finished: {error}") from None
        for purged in _slices(done.purged):
            volume.replacements.forget_deletes(purged)
            if self.purged is not None:
                self.purged([(key, version) for key, version, _ in purged])
            await asyncio.sleep(SWAP_PAUSE_S)
        self.compactions_total += 1
        self.purged_total += len(done.purged)

    async def _swap_all(self, replaced: Replaced) -> None:
        """Point the index at the outputs, from the beginning: it was broken off."""
        for output in self._volume.replacements.standing(replaced):
            await self._swap(output)
        self._volume.replacements.swap_names(replaced)
        await self._committer.in_thread(lambda: self._volume.replacements.swapped(replaced))

    async def _swap(self, segment_id: int) -> None:
        loop = asyncio.get_running_loop()
        body, trailer = await loop.run_in_executor(
            None, self._volume.replacements.footer_body, segment_id
        )
        for start in range(0, trailer.entries, SWAP_ENTRIES):
            keys, entries = columns(body, trailer, start=start, stop=start + SWAP_ENTRIES)
            self._volume.replacements.swap_entries(keys, entries)
            await asyncio.sleep(SWAP_PAUSE_S)


def _slices(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Pieces short enough that no request notices."""
    return (rows[start : start + SWAP_ENTRIES] for start in range(0, len(rows), SWAP_ENTRIES))
