"""A slot of an agent: one job at a time, in a warm child process (child.py).

    start a child, if none is warm for this directory of scripts -> send the job -> read its answer
          -> read what is left of its log -> keep the child, or end it and everything it started

A child is kept while its jobs succeed, leave no process and not too much memory behind, and come
from one directory. How it ends is in warm_child.py.
"""

import asyncio
import logging
import os
import shutil

from pulzar.clock import Clock
from pulzar.jobs.messages import News, Order, Result
from pulzar.jobs.states import Event
from pulzar.limits import CHILD_BYTES_MAX, JOB_LOG_BYTES_MAX, JOBS_PER_CHILD
from pulzar.pipes import Frame
from pulzar.warm_child import WarmChild

_log = logging.getLogger(__name__)

_COMMAND = "from pulzar.jobs.child import main; main()"
_MARK = "PULZAR_SLOT"


class Running:
    """An attempt that runs: what it wrote so far, how far it says it is, why it is ended."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.log = bytearray()
        self.dropped = 0
        self.progress = -1.0
        self.note = ""
        self.reported = 0  # bytes of the log that the master was told
        self.is_new = True  # since the master was told
        self.ended_by: Event | None = None

    def wrote(self, content: bytes) -> None:
        """More of its log."""
        room = JOB_LOG_BYTES_MAX - len(self.log)
        self.log += content[:room]
        self.dropped += max(0, len(content) - room)
        self.is_new = True

    def news(self) -> News:
        """What the master does not know yet."""
        offset, self.reported = self.reported, len(self.log)
        self.is_new = False
        return News(
            job=self.order.job,
            attempt=self.order.attempt,
            offset=offset,
            log=bytes(self.log[offset:]),
            progress=self.progress,
            note=self.note,
        )


class _Child(WarmChild):
    """A warm child for the scripts of one directory; what it writes is its attempt's."""

    def __init__(self, mark: str, digest: str, memory_bytes: int) -> None:
        super().__init__(
            _COMMAND, mark=(_MARK, mark), wrote=self._log_line, memory_bytes=memory_bytes
        )
        self.digest = digest
        self.jobs = 0
        self.running: Running | None = None

    def _log_line(self, content: bytes) -> None:
        if self.running is not None:
            self.running.wrote(content)


class Slot:
    """One slot. `directory` is where attempts have their working directories."""

    def __init__(
        self,
        number: int,
        *,
        directory: str,
        master: str,
        mark: str,
        clock: Clock,
        memory_bytes: int = 0,
        is_fresh: bool = False,
    ) -> None:
        """`memory_bytes` is how much a job may have, 0 for any; with `is_fresh` each job has a
        process of its own."""
        self._is_fresh = is_fresh
        self._memory_bytes = memory_bytes
        self.number = number
        self.running: Running | None = None
        self._directory = directory
        self._master = master
        self._mark = mark
        self._clock = clock
        self._child: _Child | None = None
        self._ending: asyncio.Event = asyncio.Event()

    async def run(self, order: Order, path: str) -> Result:
        """Run an attempt, with its scripts at `path`, to its end."""
        running = self.running = Running(order)
        self._ending.clear()
        started_ms = self._clock.now_ms()
        work = os.path.join(self._directory, str(self.number))
        os.makedirs(work, exist_ok=True)
        try:
            child = await self._warm(order.digest)
            child.running = running
            await child.send(
                {
                    "path": path,
                    "script": order.script,
                    "arguments": order.arguments,
                    "job": order.job,
                    "attempt": order.attempt,
                    "work": work,
                    "master": self._master,
                }
            )
            answer = await self._answer(child, running)
            ending = await self._let_go(child, answer)
        finally:
            self.running = None
            if os.listdir(work):
                shutil.rmtree(work, ignore_errors=True)
        event, error = _meaning(answer, running.ended_by, ending, order.timeout_s)
        return Result(
            job=order.job,
            attempt=order.attempt,
            event=str(event),
            started_ms=started_ms,
            finished_ms=self._clock.now_ms(),
            output=str(answer["output"]) if answer and event == Event.SUCCEED else "",
            error=error,
            traceback=str(answer.get("traceback", "")) if answer else "",
            log=bytes(running.log),
            log_dropped=running.dropped,
        )

    def cancel(self) -> None:
        """End what runs."""
        if self.running is not None:
            self._end(Event.CANCEL)

    async def close(self) -> None:
        """End the child, whatever it does."""
        child, self._child = self._child, None
        if child is not None:
            await child.end(at_once=True)

    def _end(self, event: Event) -> None:
        if self.running is not None and self.running.ended_by is None:
            self.running.ended_by = event
            self._ending.set()

    async def _warm(self, digest: str) -> _Child:
        """The child that may run a job of that directory."""
        child = self._child
        if child is not None and (child.digest != digest or child.jobs >= JOBS_PER_CHILD):
            await self.close()
        if self._child is None:
            self._child = _Child(self._mark, digest, self._memory_bytes)
            await self._child.start()
        self._child.jobs += 1
        return self._child

    async def _answer(self, child: _Child, running: Running) -> Frame | None:
        """What the child answers at the end; None where it ended without, or has to be ended."""
        timeout_s = running.order.timeout_s or None
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    frame = asyncio.ensure_future(child.answer())
                    await asyncio.wait((frame, ending), return_when=asyncio.FIRST_COMPLETED)
                    if not frame.done():
                        frame.cancel()
                        return None
                    answer = frame.result()
                    if answer is None or "event" in answer:
                        return answer
                    running.progress = float(str(answer["progress"]))
                    running.note = str(answer["note"])
                    running.is_new = True
        except TimeoutError:
            self._end(Event.TIME_OUT)
            return None
        finally:
            ending.cancel()

    async def _let_go(self, child: _Child, answer: Frame | None) -> str:
        """Keep a child that is as good as new; end any other. How it ended, where it did."""
        child.read_log()
        is_good = (
            answer is not None
            and answer["event"] == "succeed"
            and not self._is_fresh
            and child.is_alone
            and child.resident_bytes <= CHILD_BYTES_MAX
        )
        ending = ""
        if not is_good:
            self._child = None
            ending = await child.end(at_once=answer is not None)
        child.running = None
        return ending


def _meaning(
    answer: Frame | None, ended_by: Event | None, ending: str, timeout_s: float
) -> tuple[Event, str]:
    """What became of an attempt, and a line about it."""
    if answer is not None:
        if answer["event"] == "succeed":
            return Event.SUCCEED, ""
        return Event.FAIL, str(answer["error"])
    if ended_by == Event.TIME_OUT:
        return Event.TIME_OUT, f"it took longer than {timeout_s:g} s"
    if ended_by == Event.CANCEL:
        return Event.CANCEL, "cancelled"
    return Event.FAIL, f"its process ended: {ending}"
