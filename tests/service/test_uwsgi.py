"""`uwsgi --ini config/master.ini` and `config/volume.ini`, where uWSGI is installed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import urllib3

from pulzar.clock import SystemClock
from pulzar.testing.machines import free_port

UWSGI = shutil.which("uwsgi", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(UWSGI is None, reason="uwsgi is not installed: pip install uwsgi"),
]
DEADLINE_S = 30.0


class Site:
    def __init__(self, path: Path) -> None:
        bin_directory = Path(sys.executable).parent
        subprocess.run([bin_directory / "pulzar", "init", path], check=True, capture_output=True)
        self.path = path
        self.port = free_port("127.0.0.1")
        (path / "config" / "server.conf").write_text(
            f"[server]\nport = {self.port}\n[volume]\nport = {free_port('127.0.0.1')}\n"
        )
        self.environment = {**os.environ, "PATH": f"{bin_directory}:{os.environ['PATH']}"}
        self.started: list[subprocess.Popen[bytes]] = []

    def uwsgi(self, name: str) -> subprocess.Popen[bytes]:
        assert UWSGI is not None
        with open(self.path / f"{name}.log", "wb") as log:
            process = subprocess.Popen(
                [UWSGI, "--ini", f"config/{name}.ini"],
                cwd=self.path,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        self.started.append(process)
        return process

    def network(self) -> object:
        try:
            url = f"http://127.0.0.1:{self.port}/admin/network"
            return json.loads(urllib3.request("GET", url, retries=False).data)
        except urllib3.exceptions.HTTPError:
            return None


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "app")
    yield made
    for process in made.started:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait()


def until(holds: Callable[[], object]) -> None:
    clock = SystemClock()
    end_s = clock.monotonic_s() + DEADLINE_S
    while not holds():
        assert clock.monotonic_s() < end_s
        threading.Event().wait(0.05)


def test_uwsgi_starts_keeps_and_stops_the_two_programs(site: Site) -> None:
    master = site.uwsgi("master")
    until(lambda: site.network() == [])
    volume = site.uwsgi("volume")
    until(lambda: "'synch': True" in str(site.network()))
    url = f"http://127.0.0.1:{site.port}"
    assert urllib3.request("PUT", f"{url}/add_key/k", body=b"v").status == 201
    (program,) = psutil.Process(master.pid).children()
    program.kill()  # it is started again
    until(lambda: "'synch': True" in str(site.network()))
    until(lambda: urllib3.request("GET", f"{url}/readyz").status == 200)
    assert urllib3.request("GET", f"{url}/get_key/k").data == b"v"
    for process in (volume, master):
        programs = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=DEADLINE_S) == 0
        assert not [one for one in programs if one.is_running()]
    assert "stopped" in (site.path / "master.log").read_text()
