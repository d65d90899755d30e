"""The servers that are measured: each on a free port, with a data directory of its own.

Every server is used as a context manager and is stopped at the end of its block. All of them
listen on 127.0.0.1 only.

    Pulzar  `pulzar up`, defaults, except for the port and the data directory
    Nginx   2 workers, static files with sendfile, WebDAV for PUT and DELETE, no access log
    Etcd    one member, defaults (fsync on), spoken to through its JSON gateway
"""

import os
import select
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self
from urllib.parse import urlsplit

import psutil

START_TIMEOUT_S = 600.0  # a rebuild of millions of keys may lie in between
STOP_TIMEOUT_S = 60.0
READY = "pulzar: ready at "


class BenchError(Exception):
    """Something without which no figure can be given; the message says what."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def fetch(url: str, *, method: str = "GET", timeout_s: float = 60.0) -> tuple[int, bytes]:
    """One request; any status is an answer."""
    request = urllib.request.Request(url, method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


class Server:
    """One server process and its children. `paths` are kvbench patterns, %s is the key."""

    name: ClassVar[str]
    mode: ClassVar[str] = "raw"
    paths: ClassVar[dict[str, str]] = {"put": "/%s", "get": "/%s", "del": "/%s"}
    batch_path: ClassVar[str] = ""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.url = ""
        self.start_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:  # whatever it was, leave no server behind
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def command(self, port: int) -> Sequence[str]:
        """The command line that serves on `port`."""
        raise NotImplementedError

    def start(self) -> None:
        """Start, and return when it answers; `start_s` says how long that took."""
        port = free_port()
        begun = time.monotonic()
        self.url = f"http://127.0.0.1:{port}"
        self._spawn(self.command(port))
        while not self._answers():
            self._must_be_alive(begun)
            time.sleep(0.005)
        self.start_s = time.monotonic() - begun

    def stop(self) -> None:
        """SIGTERM and wait; SIGKILL if it does not end."""
        if self._process is None:
            return
        family = self._family()
        self._process.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(family, timeout=STOP_TIMEOUT_S)
        for process in left:
            process.kill()
        self._reap()
        if left:
            raise BenchError(f"{self.name} did not end {STOP_TIMEOUT_S:.0f} s after SIGTERM")

    def kill(self) -> None:
        """SIGKILL every process of it at once."""
        family = self._family()
        for process in family:
            process.kill()
        psutil.wait_procs(family, timeout=STOP_TIMEOUT_S)
        self._reap()

    def pids(self) -> list[int]:
        """Its processes now."""
        return [process.pid for process in self._family()]

    def _spawn(self, command: Sequence[str], *, stdout: int | None = None) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory.parent / f"{self.directory.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log if stdout is None else stdout,
                stderr=log,
                cwd=self.directory.parent,
                start_new_session=True,
            )

    def _family(self) -> list[psutil.Process]:
        if self._process is None or self._process.poll() is not None:
            return []
        parent = psutil.Process(self._process.pid)
        return [parent, *parent.children(recursive=True)]

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None

    def _answers(self) -> bool:
        parts = urlsplit(self.url)
        with socket.socket() as probe:
            return probe.connect_ex((parts.hostname, parts.port)) == 0

    def _must_be_alive(self, begun: float) -> None:
        if self._process is None or self._process.poll() is not None:
            log = self.directory.parent / f"{self.directory.name}.log"
            raise BenchError(f"{self.name} ended while starting; its log is {log}")
        if time.monotonic() - begun > START_TIMEOUT_S:
            raise BenchError(f"{self.name} did not answer within {START_TIMEOUT_S:.0f} s")


class Pulzar(Server):
    """`pulzar up`; ready when it says so on stdout."""

    name = "Pulzar"
    paths: ClassVar[dict[str, str]] = {
        "put": "/add_key/%s",
        "get": "/get_key/%s",
        "del": "/delete_key/%s",
    }
    batch_path = "/batch"

    def __init__(self, directory: Path, program: Sequence[str]) -> None:
        super().__init__(directory)
        self._program = tuple(program)

    def command(self, port: int) -> Sequence[str]:
        return (*self._program, "up", "--port", str(port), "--data", str(self.directory))

    def start(self) -> None:
        begun = time.monotonic()
        self._spawn(self.command(0), stdout=subprocess.PIPE)
        assert self._process is not None
        assert self._process.stdout is not None
        line = b""
        while not line:
            if select.select([self._process.stdout], [], [], 1.0)[0]:
                line = self._process.stdout.readline()
            if not line:
                self._must_be_alive(begun)
        if not line.decode().startswith(READY):
            raise BenchError(f"expected the ready line, got {line!r}")
        self.url = line.decode().removeprefix(READY).strip()
        self.start_s = time.monotonic() - begun


class PulzarCluster(Pulzar):
    """`pulzar master` and volumes, each a process with a port of its own; ready when the master
    serves with all of them."""

    name = "Pulzar cluster"

    def __init__(
        self, directory: Path, program: Sequence[str], *, volumes: int, replicas: int
    ) -> None:
        super().__init__(directory, program)
        self.replicas = replicas
        master = Pulzar(directory / "master", program)
        master.command = self._master  # type: ignore[method-assign]
        self.master = master
        self.volumes = [Pulzar(directory / f"v{number}", program) for number in range(volumes)]
        for number, volume in enumerate(self.volumes):
            volume.command = partial(self._volume, number)  # type: ignore[method-assign]
        self._port = free_port()

    def _master(self, _port: int) -> Sequence[str]:
        data = str(self.directory / "master")
        settings = ("env", f"PULZAR_SERVER_REPLICAS={self.replicas}")
        return (*settings, *self._program, "master", "--port", str(self._port), "--data", data)

    def _volume(self, number: int, _port: int) -> Sequence[str]:
        key = str(self.directory / "master" / "cluster.key")
        return (
            *(*self._program, "volume", "--port", "0", "--name", f"v{number}"),
            *("--master", self.url, "--key-file", key),
            *("--data", str(self.directory / f"v{number}")),
        )

    def start(self) -> None:
        self.start_master()
        for volume in self.volumes:
            volume.start()
        self.wait(len(self.volumes))

    def start_master(self) -> float:
        """Start the master; when it began."""
        begun = time.monotonic()
        self.master.start()
        self.url = self.master.url
        return begun

    def wait(self, online: int) -> None:
        """Wait until the master serves, with so many volumes."""
        begun = time.monotonic()
        while True:
            try:
                ready = fetch(self.url + "/readyz", timeout_s=5.0)[0] == 200
                network = fetch(self.url + "/admin/network", timeout_s=5.0)[1]
            except OSError:
                ready, network = False, b""
            if ready and network.count(b'"synch":true') >= online:
                return
            if time.monotonic() - begun > START_TIMEOUT_S:
                raise BenchError(f"the cluster is not ready: {network!r}")
            time.sleep(0.005)

    def stop(self) -> None:
        for server in (self.master, *self.volumes):
            server.stop()

    def kill(self) -> None:
        for server in (self.master, *self.volumes):
            server.kill()

    def pids(self) -> list[int]:
        return [pid for server in (self.master, *self.volumes) for pid in server.pids()]


class Nginx(Server):
    """Static files and WebDAV. It never syncs what it stores."""

    name = "nginx"

    def command(self, port: int) -> Sequence[str]:
        root = self.directory.resolve()
        (root / "data").mkdir(exist_ok=True)
        (root / "body").mkdir(exist_ok=True)
        user = "user root;" if os.geteuid() == 0 else ""
        (root / "nginx.conf").write_text(
            f"{user} worker_processes 2; daemon off; pid {root}/pid; error_log {root}/error;\n"
            "events { worker_connections 1024; }\n"
            f"http {{ access_log off; client_body_temp_path {root}/body;\n"
            "  keepalive_requests 1000000000; client_max_body_size 0;\n"
            "  sendfile on; tcp_nopush on;\n"
            f"  server {{ listen 127.0.0.1:{port}; root {root}/data;\n"
            "    location / { dav_methods PUT DELETE; create_full_put_path on; } } }\n"
        )
        return (program("nginx"), "-p", str(root), "-c", str(root / "nginx.conf"))


class Etcd(Server):
    """One member with its defaults: every write is fsynced."""

    name = "etcd"
    mode = "etcd"
    paths: ClassVar[dict[str, str]] = {"put": "/", "get": "/", "del": "/"}

    def command(self, port: int) -> Sequence[str]:
        client = f"http://127.0.0.1:{port}"
        peer = f"http://127.0.0.1:{free_port()}"
        return (
            program("etcd"),
            *("--name", "bench", "--data-dir", str(self.directory)),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"bench={peer}"),
        )

    def _answers(self) -> bool:
        try:
            return fetch(self.url + "/health", timeout_s=1.0)[0] == 200
        except OSError:
            return False


def program(name: str) -> str:
    """The full path of an installed program, also where a user's PATH has no sbin."""
    found = installed(name)
    if found is None:
        raise BenchError(f"{name} is not installed")
    return found


def installed(name: str) -> str | None:
    """The full path of a program, or None."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")
