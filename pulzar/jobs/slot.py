"""A slot of an agent: one job at a time, in a warm child process (child.py).

    start a child, if none is warm for this directory of scripts -> send the job -> read its answer
          -> read what is left of its log -> keep the child, or end it and everything it started

A child is kept while its jobs succeed, leave no process and not too much memory behind, and come
from one directory. It is
ended as a group: first SIGTERM, then SIGKILL, then whatever had left the group. Its orphans come to
the agent (PR_SET_CHILD_SUBREAPER), which knows them by a word in their environment.
"""

import asyncio
import contextlib
import json
import logging
import os
import select
import shutil
import signal
import sys
from collections.abc import Iterator

import psutil

from pulzar.clock import Clock
from pulzar.jobs.child import LENGTH, PIPES
from pulzar.jobs.messages import News, Order, Result
from pulzar.jobs.states import Event
from pulzar.limits import CHILD_BYTES_MAX, JOB_KILL_S, JOB_LOG_BYTES_MAX, JOBS_PER_CHILD

_log = logging.getLogger(__name__)

_COMMAND = "from pulzar.jobs.child import main; main()"
_MARK = "PULZAR_SLOT"
_LOG_READ_BYTES = 1 << 16
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_LOOK_AGAIN_S = 0.002  # whether a process that was killed has gone


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


class _Child:
    """One child process, its pipes, and who reads its log."""

    def __init__(self, mark: str, digest: str, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self.mark = mark
        self.digest = digest
        self.jobs = 0
        self.running: Running | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._requests = -1
        self._log = -1
        self.answers = asyncio.StreamReader(limit=1 << 26)
        self._transport: asyncio.BaseTransport | None = None

    async def start(self) -> None:
        """Start it. Raises OSError."""
        request_read, self._requests = os.pipe()
        answer_read, answer_write = os.pipe()
        self._log, log_write = os.pipe()
        passed = (request_read, answer_write)
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-c",
                _COMMAND,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log_write,
                stderr=log_write,
                pass_fds=passed,
                start_new_session=True,
                env={
                    **os.environ,
                    PIPES: f"{request_read},{answer_write},{self._memory_bytes}",
                    _MARK: self.mark,
                },
            )
        finally:
            for number in (*passed, log_write):
                os.close(number)
        os.set_blocking(self._log, False)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._log, self.read_log)
        self._transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self.answers), os.fdopen(answer_read, "rb")
        )

    @property
    def pid(self) -> int:
        """Its process, which leads a group of its own."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_alone(self) -> bool:
        """Whether it has started no process that is still there."""
        try:
            with open(f"/proc/{self.pid}/task/{self.pid}/children", "rb") as file:
                return not file.read().strip()
        except OSError:
            return not self.tree()

    @property
    def resident_bytes(self) -> int:
        """How much memory it has."""
        try:
            with open(f"/proc/{self.pid}/statm", "rb") as file:
                return int(file.read().split()[1]) * _PAGE_BYTES
        except OSError:
            return 0

    async def send(self, frame: dict[str, object]) -> None:
        """Give it a job. Where it has ended, `answer` says so."""
        content = json.dumps(frame).encode()
        whole = LENGTH.pack(len(content)) + content
        with contextlib.suppress(BrokenPipeError):
            if len(whole) <= select.PIPE_BUF:
                os.write(self._requests, whole)
            else:  # what a pipe does not hold waits until the child reads
                await asyncio.to_thread(_write_all, self._requests, whole)

    async def answer(self) -> dict[str, object] | None:
        """Its next frame; None where it has ended."""
        try:
            head = await self.answers.readexactly(LENGTH.size)
            frame: dict[str, object] = json.loads(
                await self.answers.readexactly(LENGTH.unpack(head)[0])
            )
        except (asyncio.IncompleteReadError, ValueError):
            return None
        return frame

    def read_log(self) -> None:
        """Take what it has written."""
        while True:
            try:
                content = os.read(self._log, _LOG_READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                content = b""
            if not content:
                asyncio.get_running_loop().remove_reader(self._log)
                return
            if self.running is not None:
                self.running.wrote(content)

    def tree(self) -> list[psutil.Process]:
        """Every process that it has started, and that is still there."""
        found: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            found = psutil.Process(self.pid).children(recursive=True)
        return [*found, *self._orphans()]

    def _orphans(self) -> Iterator[psutil.Process]:
        for process in psutil.Process().children():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid != self.pid and process.environ().get(_MARK) == self.mark:
                    yield process
                    yield from process.children(recursive=True)

    async def end(self, *, at_once: bool) -> str:
        """End it and all that it has started; how it ended."""
        assert self._process is not None
        if self._process.returncode is None and not at_once:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(JOB_KILL_S):
                    await self._process.wait()
        others = self.tree()
        self._signal(signal.SIGKILL)
        while others:
            for process in others:
                _kill(process)
            await asyncio.sleep(_LOOK_AGAIN_S)
            others = self.tree()
        status = await self._process.wait()
        self.read_log()
        asyncio.get_running_loop().remove_reader(self._log)
        os.close(self._log)
        os.close(self._requests)
        if self._transport is not None:
            self._transport.close()
        return _ending(status)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


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

    async def _answer(self, child: _Child, running: Running) -> dict[str, object] | None:
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

    async def _let_go(self, child: _Child, answer: dict[str, object] | None) -> str:
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


def _kill(process: psutil.Process) -> None:
    """Kill a process, and see to it if it has become a child of this one."""
    with contextlib.suppress(psutil.Error):
        process.kill()
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)


def _write_all(number: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(number, view) :]


def _meaning(
    answer: dict[str, object] | None, ended_by: Event | None, ending: str, timeout_s: float
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


def _ending(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
