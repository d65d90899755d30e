"""A cluster of real processes: one master and some volumes, each of which can be killed, stopped,
wiped, and started again at its address.

    with Machines(directory, volumes=3, replicas=2) as machines:
        machines.wait_ready()
        machines.volumes[0].kill()
        machines.volumes[0].start()

Each program keeps its port over restarts. Ports lie below the range that the system gives to
clients, so that nobody else is given one meanwhile.
"""

import random
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import psutil
import urllib3

from pulzar.client.process import Server
from pulzar.clock import SystemClock
from pulzar.disk import SystemDisk, write_file
from pulzar.testing.islands import Islands

READY_S_MAX = 30.0
PORTS = range(20_000, 30_000)
_PROGRAM = "from pulzar.cli import main; main()"
PAUSE_S = 0.02


def free_port(host: str) -> int:
    """A port at which nobody listens, of those that no client is given."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port


class Machine:
    """One program, with its directory and its address."""

    def __init__(
        self, name: str, directory: str, arguments: Sequence[str], host: str, *, port: int = 0
    ) -> None:
        """Without a port it takes a free one, and keeps it."""
        self.name = name
        self.directory = directory
        port = port or free_port(host)
        self.url = f"http://{host}:{port}"
        self.wrapped: list[str] = []  # what its command is started by, if anything
        self._arguments = [*arguments, "--host", host, "--port", str(port)]
        self._server: Server | None = None

    @property
    def running(self) -> bool:
        """Whether it was started, and neither killed nor stopped since."""
        return self._server is not None

    def start(self) -> None:
        """Start it, ending the one before; returns at its ready line. Raises NotReady."""
        self.kill()
        command = [*self.wrapped, sys.executable, "-P", "-c", _PROGRAM, *self._arguments]
        self._server = Server(self.directory, command=command)
        self._server.start()

    def kill(self) -> None:
        """SIGKILL to all of its processes."""
        if self._server is not None:
            self._server.kill()
            self._server = None

    def terminate(self) -> int:
        """SIGTERM; its exit code."""
        assert self._server is not None
        code = self._server.terminate()
        self._server = None
        return code

    def processes(self) -> list[psutil.Process]:
        """Those of its processes that are alive."""
        return self._server.processes() if self._server is not None else []

    def signal(self, number: signal.Signals) -> None:
        """A signal to each of its processes."""
        for process in self.processes():
            process.send_signal(number)

    def wipe(self) -> None:
        """Remove its directory. It does not run."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def log(self) -> str:
        """The end of its log."""
        return self._server.log_tail() if self._server is not None else "does not run"


class Machines:
    """See the module. `options` are lines of server.conf by section, for all programs."""

    def __init__(
        self,
        directory: str,
        *,
        volumes: int = 3,
        replicas: int = 1,
        options: dict[str, str] | None = None,
        islands: Islands | None = None,
    ) -> None:
        """With `islands` each program runs on one, named master, v0, v1, ..."""
        self._islands = islands
        self.directory = directory
        sections = {"server": f"replicas = {replicas}\n", "volume": ""}
        for section, lines in (options or {}).items():
            sections[section] = sections.get(section, "") + lines
        for name, text in (("reserve", "0"), ("segment", "8MiB")):  # small: there are many of them
            if name not in sections["volume"]:
                sections["volume"] += f"{name} = {text}\n"
        config = f"{directory}/server.conf"
        text = "".join(f"[{section}]\n{lines}" for section, lines in sections.items())
        write_file(SystemDisk(), config, text.encode())
        self._config = config
        self.key_file = f"{directory}/cluster.key"
        data = f"{directory}/master"
        arguments = ["master", "--config", config, "--data", data]
        self.master = self._machine("master", data, arguments, "127.0.0.1")
        self.volumes = [self._volume(number) for number in range(volumes)]
        self._http = urllib3.PoolManager(retries=False, timeout=20)

    def _volume(self, number: int) -> Machine:
        name = f"v{number}"
        data = f"{self.directory}/{name}"
        arguments = ["volume", "--config", self._config, "--master", self.master.url]
        arguments += ["--name", name, "--data", data, "--key-file", self.key_file]
        return self._machine(name, data, arguments, f"127.0.0.{number + 11}")

    def _machine(self, name: str, data: str, arguments: Sequence[str], host: str) -> Machine:
        if self._islands is None:
            return Machine(name, data, arguments, host)
        machine = Machine(name, data, arguments, self._islands.hosts[name], port=9000)
        machine.wrapped = self._islands.command(name)
        return machine

    def add_volume(self) -> Machine:
        """One more, not started yet."""
        self.volumes.append(self._volume(len(self.volumes)))
        return self.volumes[-1]

    def __enter__(self) -> Self:
        try:
            self.start_master()
            for volume in self.volumes:
                volume.start()
            self.wait_ready()
        except BaseException:  # nothing may be left running
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def start_master(self) -> None:
        """Start it; keep a copy of its key, and give it back to one whose directory is empty."""
        disk = SystemDisk()
        if disk.exists(self.key_file):
            disk.make_directory(self.master.directory)
            if not disk.exists(f"{self.master.directory}/cluster.key"):
                shutil.copy(self.key_file, f"{self.master.directory}/cluster.key")
        self.master.start()
        if not disk.exists(self.key_file):
            shutil.copy(f"{self.master.directory}/cluster.key", self.key_file)

    def kill(self) -> None:
        """Everything."""
        for machine in (self.master, *self.volumes):
            machine.kill()

    def get(self, path: str) -> Any:
        """The JSON at a path of the master; None where it does not answer 200."""
        try:
            answer = self._http.request("GET", self.master.url + path)
        except urllib3.exceptions.HTTPError:
            return None
        return answer.json() if answer.status == 200 else None

    def post(self, path: str) -> Any:
        """The JSON that the master answers to a POST."""
        return self._http.request("POST", self.master.url + path).json()

    def wait(self, holds: Callable[[], object], timeout_s: float = READY_S_MAX) -> None:
        """Wait until something holds. Raises TimeoutError with what the master says."""
        clock, pause = SystemClock(), threading.Event()
        deadline = clock.monotonic_s() + timeout_s
        while not holds():
            if clock.monotonic_s() >= deadline:
                logs = "\n".join(f"--- {m.name}\n{m.log()}" for m in (self.master, *self.volumes))
                raise TimeoutError(f"{self.get('/admin/cluster')}\n{logs}")
            pause.wait(PAUSE_S)

    def wait_ready(self) -> None:
        """Wait until the master serves, with every volume that runs."""
        running = {volume.name for volume in self.volumes if volume.running}
        self.wait(lambda: self.get("/readyz") is not None and running <= self.online())

    def online(self) -> set[str]:
        """The names of the volumes that are online."""
        found = self.get("/admin/network") or []
        return {node["node"] for node in found if node["synch"]}

    def wait_redundant(self, copies: int, timeout_s: float = READY_S_MAX) -> None:
        """Wait until every key has so many copies online, and nothing is being repaired."""

        def is_redundant() -> bool:
            health = self.get("/admin/health")
            return (
                health is not None
                and health["redundancy"] >= copies
                and not health["keys_under_replicated"]
                and not health["doing"]
            )

        self.wait(is_redundant, timeout_s)
