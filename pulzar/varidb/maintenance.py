"""What a serving volume does beside requests: sealing, compaction, purge, old files.

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
from pulzar.errors import OutOfSpace, PulzarError, Unavailable
from pulzar.limits import (
    BACKGROUND_LINE_BYTES_MAX,
    COMPACT_DEAD_BYTES_MIN,
    COMPACT_LIVE_RATIO_MAX,
    COMPACT_ROOM_SEGMENTS,
    MAINTENANCE_INTERVAL_S,
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
from pulzar.varidb.task import Answer, Compact, CompactDone, Failed, Seal, SealDone, Task
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
        views: str,
        clock: Clock,
        token: Callable[[int], bytes],
        take_superseded: Callable[[], int],
        purged: Purged | None = None,
    ) -> None:
        """`views` is the directory of the volume's index; `take_superseded` says how many bytes
        of it were superseded since the last call."""
        self._volume = volume
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
