"""The load generator: kvbench.c, built when it is needed, run as a process, its report read.

The generator counts only answers that are right: a final 2xx and, for GET, the bytes that the
key must have. A run in which anything failed raises `BenchError`: a rate with errors in it is
not a rate.
"""

import shutil
import signal
import subprocess
from pathlib import Path

import msgspec

from bench.servers import BenchError, Server

SOURCE = Path(__file__).with_name("kvbench.c")


class Report(msgspec.Struct, frozen=True):
    """What kvbench prints."""

    connections: int
    seconds: float
    ok: int
    failed: int
    keys: int
    operations_per_s: float
    keys_per_s: float
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    net_errors: int
    bad_length: int
    bad_bytes: int
    generator_cpu_s: float
    statuses: dict[str, int]


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `keys` bounds a put or delete; for a get it is the space that is picked from."""

    op: str
    connections: int = 64
    seconds: float = 3600.0
    keys: int = 0
    start: int = 0
    step: int = 1
    size: int = 1024
    rate: float = 0.0
    batch: int = 0


def arguments(load: Load, server: Server) -> list[str]:
    """The command line of kvbench for `load` against `server`."""
    mode = "batch" if load.batch else server.mode
    path = server.batch_path if load.batch else server.paths[load.op]
    options: dict[str, object] = {
        "-u": server.url,
        "-o": load.op,
        "-m": mode,
        "-f": path,
        "-c": load.connections,
        "-d": load.seconds,
        "-n": load.keys,
        "-s": load.start,
        "-t": load.step,
        "-z": load.size,
        "-r": load.rate,
        "-k": load.batch or 1,
    }
    return [text for name, value in options.items() for text in (name, str(value))]


class Run:
    """A generator at work; `wait` for its end or `stop` it early."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def wait(self) -> Report:
        out, err = self._process.communicate()
        if self._process.returncode != 0:
            raise BenchError(f"kvbench failed: {err.decode().strip()}")
        return msgspec.json.decode(out, type=Report)

    def stop(self) -> Report:
        self._process.send_signal(signal.SIGTERM)
        return self.wait()


class Generator:
    """kvbench, built."""

    def __init__(self, program: Path) -> None:
        self._program = program

    def begin(self, server: Server, load: Load) -> Run:
        """Start a run and return at once."""
        command = [str(self._program), *arguments(load, server)]
        pipe = subprocess.PIPE
        return Run(subprocess.Popen(command, stdout=pipe, stderr=pipe))

    def run(self, server: Server, load: Load) -> Report:
        """One whole run; BenchError if any operation failed."""
        return checked(self.begin(server, load).wait(), server)


def checked(report: Report, server: Server) -> Report:
    """The same report, or BenchError when not every answer was right."""
    if report.failed or not report.ok:
        raise BenchError(
            f"{server.name}: {report.failed} of {report.ok + report.failed} operations failed "
            f"(statuses {report.statuses}, network errors {report.net_errors}, "
            f"wrong bytes {report.bad_bytes}, wrong length {report.bad_length})"
        )
    return report


def build(directory: Path) -> Generator:
    """Compile kvbench into `directory` unless it is newer than its source."""
    program = directory / "kvbench"
    if not program.exists() or program.stat().st_mtime < SOURCE.stat().st_mtime:
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            raise BenchError("a C compiler (gcc or cc) is needed to build the load generator")
        command = [compiler, "-O2", "-o", str(program), str(SOURCE)]
        subprocess.run(command, check=True)
    return Generator(program)
