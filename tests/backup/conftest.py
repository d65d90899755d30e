"""A server, what it has acknowledged, and backups of it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pulzar.backup.once import Site, back_up_site
from pulzar.backup.run import Ran
from pulzar.backup.target import open_target
from pulzar.client.process import Server
from pulzar.client.sync import Client
from pulzar.disk import SystemDisk

CONFIG = "[volume]\nsegment = 2MiB\nreserve = 0\n"


class World:
    """A server, a client of it, and what it has acknowledged."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path
        self.data = tmp_path / "data"
        self.target = str(tmp_path / "target")
        config = tmp_path / "server.conf"
        config.write_text(CONFIG)
        self.config = str(config)
        self.server = Server(str(self.data), options=["--config", self.config])
        self.known: dict[str, bytes] = {}
        self._seconds = 0

    def put(self, key: str, value: bytes) -> None:
        with Client(self.server.url) as client:
            client.put(key, value)
        self.known[key] = value

    def fill(self, count: int, size: int = 3000, prefix: str = "k") -> None:
        with Client(self.server.url) as client:
            for number in range(count):
                key, value = f"{prefix}/{number}", os.urandom(8) * (size // 8)
                client.put(key, value)
                self.known[key] = value

    def delete(self, key: str) -> None:
        with Client(self.server.url) as client:
            client.delete(key)
        del self.known[key]

    def site(self) -> Site:
        key = (self.data / "cluster.key").read_text().strip()
        return Site(url=self.server.url, key=key, target=self.target)

    def back_up(self, target: str = "") -> Ran:
        """A backup, a second later than the one before by its own clock."""
        self._seconds += 1
        now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self._seconds)
        with open_target(target or self.target) as opened:
            return back_up_site(
                self.site(), opened, disk=SystemDisk(), now=now, on_size=ignore, on_bytes=ignore
            )

    def restore(self, where: str = "restored", *options: str) -> subprocess.CompletedProcess[str]:
        return pulzar("restore", "--from", self.target, "--data", str(self.path / where), *options)

    def check_restored(self, known: dict[str, bytes], where: str = "restored") -> None:
        """A server on the restored directory has exactly that."""
        options = ["--config", self.config]
        with (
            Server(str(self.path / where), options=options) as server,
            Client(server.url) as client,
        ):
            assert content(client) == known
            client.put("after", b"the restore")


def content(client: Client) -> dict[str, bytes]:
    return {item.key: client.get(item.key) for item in client.list_keys()}


def ignore(_: int) -> None:
    return


def pulzar(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = "from pulzar.cli import main; main()"
    command = [sys.executable, "-P", "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    with made.server:
        yield made
