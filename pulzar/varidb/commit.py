"""Natural group commit: while one batch is in fdatasync, the next one gathers.

    submit ------> gathering -----> prepared -----> written, synced ----> index, catalog, answers
    (event loop)   (event loop)     (event loop)    (the commit thread)   (event loop)

The next batch is handed to the thread before the views are told of the last one, so that disk and
processor work at the same time. Everything but the thread's part runs on one event loop.

The thread does everything that writes to the volume's files on behalf of the server: batches,
rolls, lines of the MANIFEST. One thread, so these never meet.
"""

import asyncio
import errno
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, TypeVar

from pulzar.clock import Clock
from pulzar.errors import OutcomeUnknown, OutOfSpace, PulzarError, WritesStopped
from pulzar.limits import (
    BATCH_RECORDS_MAX,
    CHECKPOINT_BYTES,
    CHECKPOINT_IDLE_MS,
    PENDING_RECORDS_MAX,
)
from pulzar.varidb.catalog_row import Newest
from pulzar.varidb.entry import Uploaded
from pulzar.varidb.log import Active, Batch
from pulzar.varidb.position import Cursor
from pulzar.varidb.record import Record, Type
from pulzar.varidb.turns import Turns
from pulzar.varidb.volume import Volume

_log = logging.getLogger(__name__)

T = TypeVar("T")

SEGMENT_OWN_RECORDS = 2
"""A segment with no more records than OPEN and a CHECKPOINT is not worth a roll."""


class Write:
    """A record on its way to the disk. `error` is None once it is durable and visible.

    `turns`: where the key's turn is to be given on at the end. `uploaded`: where its value is, if
    not in the record. On `copies` of the `wanted` volumes it is durable at the end.
    """

    __slots__ = (
        "change",
        "copies",
        "done",
        "error",
        "finished",
        "record",
        "turns",
        "uploaded",
        "wanted",
    )

    def __init__(
        self,
        record: Record,
        change: Newest | None,
        done: "asyncio.Future[None] | None",
        turns: Turns | None,
        uploaded: Uploaded | None = None,
    ) -> None:
        self.record = record
        self.uploaded = uploaded
        self.copies = 1
        self.wanted = 1
        self.change = change
        self.done = done
        self.turns = turns
        self.error: PulzarError | None = None
        self.finished = False

    def finish(self, error: PulzarError | None) -> None:
        """It is durable and visible, or will not be: tell whoever waits."""
        self.error = error
        self.finished = True
        if self.turns is not None:
            self.turns.give(self.record.key)
        if self.done is not None and not self.done.done():
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(error)


Follow: TypeAlias = Callable[[list[Newest], Cursor], None]
"""Told of each batch: the changes that came with its writes, and the cursor behind it."""


class Worker(Protocol):
    """Does work elsewhere than on the event loop, one piece after the other."""

    def put(self, work: Callable[[], None]) -> None:
        """Do it behind everything that was put before."""

    async def close(self) -> None:
        """Do what was put, then end."""


class CommitThread:
    """Implements `Worker` by a thread."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="commit", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()

    def put(self, work: Callable[[], None]) -> None:
        """See `Worker`."""
        self._work.put(work)

    async def close(self) -> None:
        """See `Worker`."""
        self._work.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)


class Committer:
    """Makes submitted records durable, batch by batch, and tells the views of them.

    `follow` is the catalog of a store on one machine; a volume whose master is elsewhere has none.
    """

    def __init__(
        self,
        volume: Volume,
        *,
        clock: Clock,
        follow: Follow | None = None,
        worker: Worker | None = None,
    ) -> None:
        self._volume = volume
        self._clock = clock
        self.follow = follow
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Write] = deque()
        self._busy = False
        self._roll_wanted = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._checkpoint_end = volume.log.end
        self._timer: asyncio.TimerHandle | None = None
        self._work = worker or CommitThread()
        self._lacking: str | None = None  # why the views lack a batch of the log
        self.batches_total = 0
        self.rolled: Callable[[], None] = _nothing

    async def write(self, record: Record) -> None:
        """Write one record of the log's own. Raises as `submit_many`, and what ended it."""
        done = self._loop.create_future()
        self.submit_many([Write(record, None, done, None)])
        await done

    def submit_many(self, writes: Sequence[Write]) -> None:
        """Write records in this order; each one's `finish` is called, in this order too.

        Raises WritesStopped: then none of them was taken.
        """
        self.require_writable()
        if len(self._waiting) + len(writes) > PENDING_RECORDS_MAX:
            raise WritesStopped(
                f"more than {PENDING_RECORDS_MAX} writes wait for the disk: try again"
            )
        self._waiting.extend(writes)
        if not self._busy:
            self._next()

    def require_writable(self) -> None:
        """Raise WritesStopped where the volume takes no more writes."""
        failed = self._volume.log.failed
        if failed is not None:
            raise WritesStopped(f"the volume takes no more writes: {failed}")

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Do blocking work on the volume's files in the commit thread, in turn."""
        done: asyncio.Future[T] = self._loop.create_future()

        def run() -> None:
            try:
                result = work()
            except BaseException as error:  # handed over to the waiting coroutine
                self._loop.call_soon_threadsafe(_fail, done, error)
            else:
                self._loop.call_soon_threadsafe(_succeed, done, result)

        self._work.put(run)
        return await done

    async def roll_if_used(self) -> None:
        """Begin a new segment, so that what is in the active one can be compacted.

        Raises OutOfSpace, WritesStopped.
        """
        if self._volume.log.records_in_segment <= SEGMENT_OWN_RECORDS:
            return
        done = self._loop.create_future()
        self._waiting.append(Write(Record(type=Type.CHECKPOINT), None, done, None))
        self._roll_wanted = True
        if not self._busy:
            self._next()
        await done

    async def close(self) -> None:
        """Finish what was submitted, then end the thread."""
        if self._timer is not None:
            self._timer.cancel()
        await self._idle.wait()
        await self._work.close()

    def _next(self) -> None:
        """Hand the next batch, or a roll, to the thread; nothing is on its way now."""
        if not self._waiting:
            self._busy = False
            self._idle.set()
            self._start_timer()
            return
        self._busy = True
        self._idle.clear()
        if self._volume.log.failed is not None:
            self._fail_waiting(WritesStopped(f"the volume: {self._volume.log.failed}"))
            self._next()
            return
        if self._roll_wanted or not self._volume.log.fits(self._waiting[0].record):
            self._roll_wanted = False
            now_ms = self._clock.now_ms()
            self._work.put(lambda: self._roll(now_ms))
            return
        if self._volume.log.end - self._checkpoint_end > CHECKPOINT_BYTES:
            self._waiting.appendleft(_checkpoint(self._clock.now_ms()))
        taken = [
            self._waiting[number] for number in range(min(len(self._waiting), BATCH_RECORDS_MAX))
        ]
        try:
            batch = self._volume.log.prepare([write.record for write in taken])
        except WritesStopped as error:  # an upload in a thread met what is fatal, just now
            self._fail_waiting(error)
            self._next()
            return
        writes = [self._waiting.popleft() for _ in batch.records]
        self._work.put(lambda: self._write(batch, writes))

    # In the thread.

    def _write(self, batch: Batch, writes: Sequence[Write]) -> None:
        try:
            self._volume.log.write(batch)
        except OSError as error:
            self._loop.call_soon_threadsafe(self._failed, writes, error)
        else:
            self._loop.call_soon_threadsafe(self._written, batch, writes)

    def _roll(self, now_ms: int) -> None:
        try:
            active = self._volume.log.begin_roll(now_ms=now_ms)
        except (OSError, PulzarError) as error:
            self._loop.call_soon_threadsafe(self._roll_failed, error)
        else:
            self._loop.call_soon_threadsafe(self._rolled, active)

    # On the loop again.

    def _written(self, batch: Batch, writes: Sequence[Write]) -> None:
        volume = self._volume
        volume.log.settle(batch)
        cursor, place = volume.log.cursor(), volume.place()
        if batch.records[-1].type == Type.CHECKPOINT or batch.records[0].type == Type.CHECKPOINT:
            self._checkpoint_end = batch.end
        self.batches_total += 1
        self._next()
        try:
            if self._lacking is None:
                volume.apply(batch, cursor, place)
                if self.follow is not None:
                    changes = [write.change for write in writes if write.change is not None]
                    self.follow(changes, cursor)
        except Exception as error:  # whatever it was, this batch is not in the views
            self._lacking = f"a view could not be written: {error}"
            volume.log.fail(self._lacking)
            if not isinstance(error, (PulzarError, OSError)):
                _log.exception("a bug met a batch")
        if self._lacking is not None:
            # The records are durable; only a restart can show them. A later batch must not carry
            # the views' cursors past this one.
            for write in writes:
                write.finish(OutcomeUnknown(self._lacking, version=write.record.version))
            return
        for write in writes:
            write.finish(None)

    def _failed(self, writes: Sequence[Write], error: OSError) -> None:
        for write in writes:
            write.finish(
                OutcomeUnknown(
                    f"the disk failed, the write may or may not have happened: {error}",
                    version=write.record.version,
                )
            )
        self._fail_waiting(WritesStopped(f"the volume takes no more writes: {error}"))
        self._next()

    def _rolled(self, active: Active) -> None:
        self._volume.end_roll(active)
        self._checkpoint_end = self._volume.log.end
        self.rolled()
        self._next()

    def _roll_failed(self, error: OSError | PulzarError) -> None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            self._fail_waiting(OutOfSpace("the disk has no room for another segment"))
        else:
            self._volume.log.fail(f"a new segment could not be made: {error}")
            self._fail_waiting(WritesStopped(f"a new segment could not be made: {error}"))
        self._next()

    def _fail_waiting(self, error: PulzarError) -> None:
        waiting, self._waiting = self._waiting, deque()
        for write in waiting:
            write.finish(error)

    def _start_timer(self) -> None:
        if self._timer is None and self._volume.log.checkpoint_seq != self._volume.log.durable_seq:
            self._timer = self._loop.call_later(CHECKPOINT_IDLE_MS / 1000, self._idled)

    def _idled(self) -> None:
        self._timer = None
        log = self._volume.log
        if self._busy:
            return
        if log.checkpoint_seq == log.durable_seq or log.failed is not None:
            return
        checkpoint = _checkpoint(self._clock.now_ms())
        if log.fits(checkpoint.record):
            self._waiting.append(checkpoint)
            self._next()


def _checkpoint(now_ms: int) -> Write:
    return Write(Record(type=Type.CHECKPOINT, created_ms=now_ms), None, None, None)


def _nothing() -> None:
    return


def _succeed(done: "asyncio.Future[T]", result: T) -> None:
    if not done.done():
        done.set_result(result)


def _fail(done: "asyncio.Future[T]", error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)
