"""A child process that stays warm, as its parent sees it: given frames, it answers frames.

It leads a process group of its own, writes its log (stdout and stderr) into a pipe, and is ended as
a group: first SIGTERM, then SIGKILL, then whatever had left the group. Its orphans come to the
parent (PR_SET_CHILD_SUBREAPER), which knows them by a word in their environment.
"""

import asyncio
import contextlib
import json
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator

import psutil

from pulzar.limits import CHILD_KILL_S
from pulzar.pipes import LENGTH, PIPES, Frame, pack

_LOG_READ_BYTES = 1 << 16
_ANSWER_BYTES = 1 << 26
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_LOOK_AGAIN_S = 0.002  # whether a process that was killed has gone


class WarmChild:
    """One child process. `command` is the Python text that it runs, `mark` the variable of its
    environment, and its value, by which its orphans are known; `wrote` is given what it writes."""

    def __init__(
        self,
        command: str,
        *,
        mark: tuple[str, str],
        wrote: Callable[[bytes], None],
        memory_bytes: int = 0,
    ) -> None:
        """`memory_bytes` is how much it may have, 0 for any."""
        self._command = command
        self._mark = mark
        self._memory_bytes = memory_bytes
        self.wrote = wrote
        self._process: asyncio.subprocess.Process | None = None
        self._requests = -1
        self._log = -1
        self._answers = asyncio.StreamReader(limit=_ANSWER_BYTES)
        self._transport: asyncio.BaseTransport | None = None
        self._writing: asyncio.Future[None] | None = None  # in a thread; it uses the pipe

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
                self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log_write,
                stderr=log_write,
                pass_fds=passed,
                start_new_session=True,
                env={
                    **os.environ,
                    PIPES: f"{request_read},{answer_write},{self._memory_bytes}",
                    self._mark[0]: self._mark[1],
                },
            )
        finally:
            for number in (*passed, log_write):
                os.close(number)
        os.set_blocking(self._log, False)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._log, self.read_log)
        self._transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._answers), os.fdopen(answer_read, "rb")
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

    async def send(self, frame: Frame) -> None:
        """Give it something to do. Where it has ended, `answer` says so."""
        content = pack(frame)
        with contextlib.suppress(BrokenPipeError):
            if len(content) <= select.PIPE_BUF:
                os.write(self._requests, content)
            else:  # what a pipe does not hold waits until the child reads
                writing = asyncio.to_thread(_write_all, self._requests, content)
                self._writing = asyncio.ensure_future(writing)
                await asyncio.shield(self._writing)

    async def answer(self) -> Frame | None:
        """Its next frame; None where it has ended."""
        try:
            head = await self._answers.readexactly(LENGTH.size)
            frame: Frame = json.loads(await self._answers.readexactly(LENGTH.unpack(head)[0]))
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
            self.wrote(content)

    def tree(self) -> list[psutil.Process]:
        """Every process that it has started, and that is still there."""
        found: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            found = psutil.Process(self.pid).children(recursive=True)
        return [*found, *self._orphans()]

    def _orphans(self) -> Iterator[psutil.Process]:
        name, value = self._mark
        for process in psutil.Process().children():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid != self.pid and process.environ().get(name) == value:
                    yield process
                    yield from process.children(recursive=True)

    async def end(self, *, at_once: bool) -> str:
        """End it and all that it has started; how it ended."""
        assert self._process is not None
        if self._process.returncode is None and not at_once:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHILD_KILL_S):
                    await self._process.wait()
        others = await asyncio.to_thread(self.tree)
        self._signal(signal.SIGKILL)
        while others:
            for process in others:
                _kill(process)
            await asyncio.sleep(_LOOK_AGAIN_S)
            others = await asyncio.to_thread(self.tree)
        status = await self._process.wait()
        self.read_log()
        asyncio.get_running_loop().remove_reader(self._log)
        os.close(self._log)
        if self._writing is not None:  # nobody reads any more: it ends at once
            await asyncio.wait([self._writing])
            self._writing.exception()
        os.close(self._requests)
        if self._transport is not None:
            self._transport.close()
        return ending_text(status)

    def kill(self) -> None:
        """SIGKILL to its group; `end` does the rest."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def ending_text(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


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
