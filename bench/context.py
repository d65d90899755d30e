"""What every row is given: where to keep data, how long to measure, with which programs."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Result
from bench.generator import Generator, Load, Report
from bench.servers import Etcd, Nginx, Pulzar, PulzarCluster, Server, installed

MILLION = 1_000_000
BATCH_KEYS = 500  # per POST /batch: about half a MiB at 1 KiB
BATCH_CONNECTIONS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much of everything: `FULL` gives figures, `QUICK` shows that it works."""

    rounds: int
    seconds: float  # of one timed run
    base_keys: int  # present while small values are read
    delete_keys: int  # deleted in one round
    many_keys: int
    most_keys: int  # with --large
    restarts: int
    probe_syncs: int
    large_bytes: int
    half_dead_keys: int
    serial_requests: int
    jobs: int  # launched in one round
    job_rounds: int
    pending_jobs: int
    backup_bytes: int


FULL = Scale(
    rounds=5,
    seconds=4.0,
    base_keys=10_000,
    delete_keys=40_000,
    many_keys=MILLION,
    most_keys=5 * MILLION,
    restarts=5,
    probe_syncs=2000,
    large_bytes=1 << 30,
    half_dead_keys=MILLION,
    serial_requests=10_000,
    jobs=5000,
    job_rounds=3,
    pending_jobs=100_000,
    backup_bytes=8 << 30,
)
QUICK = Scale(
    rounds=2,
    seconds=1.0,
    base_keys=10_000,
    delete_keys=5_000,
    many_keys=100_000,
    most_keys=200_000,
    restarts=2,
    probe_syncs=300,
    large_bytes=1 << 27,
    half_dead_keys=300_000,
    serial_requests=500,
    jobs=400,
    job_rounds=1,
    pending_jobs=2000,
    backup_bytes=256 << 20,
)


class Context:
    """One run of the benchmark."""

    def __init__(
        self, *, directory: Path, scale: Scale, generator: Generator, pulzar: Sequence[str]
    ) -> None:
        self.directory = directory
        self.scale = scale
        self.generator = generator
        self.pulzar_program = tuple(pulzar)

    def pulzar(self, name: str = "pulzar") -> Pulzar:
        """A Pulzar with an empty data directory; not started."""
        return Pulzar(self.empty(name), self.pulzar_program)

    def cluster(self, *, volumes: int, replicas: int) -> PulzarCluster:
        """A master and volumes with empty directories; not started."""
        directory = self.empty(f"cluster-{volumes}-{replicas}")
        return PulzarCluster(directory, self.pulzar_program, volumes=volumes, replicas=replicas)

    def peers(self, *kinds: type[Server]) -> list[Server]:
        """Those of `kinds` that are installed here, with empty directories; not started."""
        return [kind(self.empty(kind.name)) for kind in kinds if installed(kind.name)]

    def nginx(self) -> list[Server]:
        return self.peers(Nginx)

    def nginx_and_etcd(self) -> list[Server]:
        return self.peers(Nginx, Etcd)

    def measure(self, server: Server, load: Load) -> Report:
        """One timed run on a disk that has nothing left to write for somebody else."""
        settle()
        return self.generator.run(server, load)

    def fill(self, server: Server, *, keys: int, start: int = 0, size: int = 1024) -> Report:
        """Store `keys` keys, not timed for a figure: by batches where the server has them."""
        batch = BATCH_KEYS if server.batch_path else 0
        connections = BATCH_CONNECTIONS if batch else 64
        return self.generator.run(
            server,
            Load(op="put", keys=keys, start=start, size=size, batch=batch, connections=connections),
        )

    def forget(self) -> None:
        """Delete what the last row stored."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)

    def empty(self, name: str) -> Path:
        """A directory with nothing in it."""
        path = self.directory / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row, or a few that share their preparation, by the name that --only takes."""

    name: str
    measure: Callable[[Context], Iterator[Result]]
    large: bool = False


def settle() -> None:
    """Write out every dirty page, so that nobody pays for what another one left behind."""
    os.sync()


def say(text: str) -> None:
    """Progress, for the person who waits."""
    print(text, file=sys.stderr, flush=True)
