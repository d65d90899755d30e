"""A server of one's own: starts `pulzar up` on a free port, waits for it, ends it.

    with Server("/tmp/data") as server:
        Client(server.url)...
        server.kill()        # all of its processes, SIGKILL
        server.start()       # again, on another free port

The server runs in a process group of its own, so that everything it started ends with it. Each
start takes a new port: a port of the free range that is listened on only now and then could
meanwhile be given to a client of this machine, even to one that tries to connect to it.
"""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Self

import psutil

from pulzar.clock import Clock, SystemClock
from pulzar.errors import NotReady

START_S_MAX = 60.0
STOP_S_MAX = 30.0
ENDED_S_MAX = 5.0  # one process killed: the others have so long to end
PAUSE_S = 0.01
LOG_TAIL_BYTES = 2048

_READY = re.compile(r"pulzar: ready at (http://\S+)\n")


def up_command(data: str, options: Sequence[str] = ()) -> list[str]:
    """The command that starts a server on `data`. -P keeps the working directory off the path."""
    program = "from pulzar.cli import main; main()"
    up = ["up", "--host", "127.0.0.1", "--port", "0", "--data", data, *options]
    return [sys.executable, "-P", "-c", program, *up]


class Server:
    """One server on one data directory. Not for use from several threads at once."""

    def __init__(
        self,
        data: str,
        *,
        options: Sequence[str] = (),
        command: Sequence[str] | None = None,
        start_s_max: float = START_S_MAX,
        clock: Clock | None = None,
    ) -> None:
        """`options` are added to `pulzar up`; `command` replaces it whole."""
        self._command = list(command) if command is not None else up_command(data, options)
        self._start_s_max = start_s_max
        self._clock = clock or SystemClock()
        self._pause = threading.Event()  # never set
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None  # open while it runs
        self._last_words = ""
        self.url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """The process that was started. Raises NotReady where none was."""
        if self._process is None:
            raise NotReady("the server was not started")
        return self._process.pid

    def start(self) -> None:
        """Start it and wait for its ready line. Raises NotReady, with the end of its log."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start it and do not wait, ending the one that ran."""
        self.kill()
        with contextlib.ExitStack() as on_error:
            log = on_error.enter_context(tempfile.TemporaryFile())
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
            on_error.pop_all()
        self._log = log

    def wait_ready(self) -> None:
        """Wait for the ready line of a launched server. Raises NotReady and ends it where none
        comes."""
        if self._process is None:
            raise NotReady("the server was not started")
        try:
            self.url = self._ready_url(self._process)
        except BaseException:  # Ctrl-C too must not leave it running
            self.kill()
            raise

    def processes(self) -> list[psutil.Process]:
        """Its processes that are alive, by id: the one that was started is the first."""
        if self._process is None:
            return []
        return _group(self._process.pid)

    def kill(self) -> None:
        """SIGKILL to all of its processes at once; returns when they are gone."""
        self._end(signal.SIGKILL)

    def kill_one(self, process: psutil.Process) -> list[int]:
        """SIGKILL to one of its processes; the others should end by themselves. Returns the ids
        of those still alive after ENDED_S_MAX, which are killed then."""
        if self._process is None:
            return []
        leader = self._process
        process.kill()
        deadline = self._clock.monotonic_s() + ENDED_S_MAX
        while (left := _group(leader.pid)) and self._clock.monotonic_s() < deadline:
            leader.poll()  # collects it, so that it does not stay as a zombie
            self._pause.wait(PAUSE_S)
        self.kill()
        return [other.pid for other in left]

    def terminate(self) -> int:
        """SIGTERM, for an orderly stop; its exit code. Raises NotReady where it does not stop."""
        return self._end(signal.SIGTERM)

    def log_tail(self) -> str:
        """The end of what it wrote on stderr since its last start, also after its end."""
        if self._log is None:
            return self._last_words
        end = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, end - LOG_TAIL_BYTES))
        return self._log.read().decode(errors="replace").strip()

    def _ready_url(self, process: subprocess.Popen[bytes]) -> str:
        if process.stdout is None:
            raise AssertionError("stdout is a pipe")
        deadline = self._clock.monotonic_s() + self._start_s_max
        pipe = process.stdout.fileno()
        said = b""
        while (left_s := deadline - self._clock.monotonic_s()) > 0:
            if not select.select([pipe], [], [], left_s)[0]:
                break
            piece = os.read(pipe, 4096)
            said += piece
            if ready := _READY.search(said.decode(errors="replace")):
                return ready[1]
            if not piece:
                code = process.wait()
                raise NotReady(f"the server ended with {code} at its start: {self.log_tail()}")
        raise NotReady(f"no ready line within {self._start_s_max:g} s: {self.log_tail()}")

    def _end(self, number: signal.Signals) -> int:
        """Signal the first process (all of them for SIGKILL) and wait until all are gone."""
        process, self._process = self._process, None
        if process is None:
            return 0
        try:
            if number != signal.SIGKILL:
                process.send_signal(number)
                return process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired as error:
            raise NotReady(f"the server did not stop within {STOP_S_MAX:g} s") from error
        finally:
            _kill_group(process.pid)
            process.wait()
            while _group(process.pid):
                self._pause.wait(PAUSE_S)
            if process.stdout is not None:
                process.stdout.close()
            self._close_log()
        return process.returncode

    def _close_log(self) -> None:
        self._last_words = self.log_tail()
        if self._log is not None:
            self._log.close()
            self._log = None


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # all of it has ended
        os.killpg(leader, signal.SIGKILL)


def _group(leader: int) -> list[psutil.Process]:
    """The living processes of a process group, by id."""
    return [process for process in psutil.process_iter() if _is_of(process, leader)]


def _is_of(process: psutil.Process, leader: int) -> bool:
    try:
        return os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False
