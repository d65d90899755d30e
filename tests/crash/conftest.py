"""Real servers: one of its own for a test that kills it, one shared by a module otherwise."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
import urllib3

from pulzar.client.process import Server
from pulzar.limits import MIB
from tests.crash.wire import answered, open_requests, wait_until

MakeServer: TypeAlias = Callable[..., Server]

DISK_BYTES = 64 * MIB  # of a small disk


@pytest.fixture(scope="session")
def settings() -> Iterator[Path]:
    """A directory for files of settings."""
    directory = tempfile.mkdtemp(prefix="pulzar-crash-settings-")
    yield Path(directory)
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def make_server(settings: Path) -> MakeServer:
    """Makes servers that follow these settings and no others, and run no jobs:
    make_server(data, segment="2MiB") sets [volume] segment, or the setting of another section."""

    def make(data: str, **wanted: str) -> Server:
        sections = {"jobs": "slots = 0\n"}  # an agent that waits is an open request
        for name, text in wanted.items():
            section = "server" if name == "client_timeout" else "volume"
            sections[section] = sections.get(section, "") + f"{name} = {text}\n"
        content = "".join(f"[{name}]\n{lines}" for name, lines in sections.items())
        with tempfile.NamedTemporaryFile("w", dir=settings, delete=False) as file:
            file.write(content)
        return Server(data, options=["--config", file.name])

    return make


@pytest.fixture(scope="module")
def module_data() -> Iterator[str]:
    directory = tempfile.mkdtemp(prefix="pulzar-crash-")
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def shared(
    make_server: MakeServer, module_data: str, request: pytest.FixtureRequest
) -> Iterator[Server]:
    """A server for all tests of a module, with its SETTINGS. At the end nothing is at work, and
    there was no bug."""
    with make_server(module_data, **getattr(request.module, "SETTINGS", {})) as running:
        yield running
        wait_until(lambda: open_requests(running.url) == 0, "every request has ended")
        assert answered(running.url, 500) == 0


@pytest.fixture
def data() -> Iterator[str]:
    """An empty directory; removed afterwards, values of many MiB are not kept for later."""
    directory = tempfile.mkdtemp(prefix="pulzar-crash-")
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of DISK_BYTES, in memory."""
    options = f"size={DISK_BYTES}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(tmp_path)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a file system of its own needs root: {mounted.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.fixture
def server(make_server: MakeServer, data: str) -> Iterator[Server]:
    with make_server(data) as running:
        yield running


@pytest.fixture
def http() -> Iterator[urllib3.PoolManager]:
    """Connections that answer what the server said, and never try again by themselves."""
    with urllib3.PoolManager(retries=False, timeout=20.0) as pool:
        yield pool
