"""A site with scripts, served by real programs."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from pulzar.client.process import Server
from pulzar.clock import SystemClock
from pulzar.testing.machines import Machines

DEADLINE_S = 30.0

# Each attempt writes a line when it begins and one when it ends: the journal is the judge.
JOURNALED = """
import os, time
from pulzar import job
def note(path, what):
    with open(path, "a") as file:
        file.write(f"{job.id} {job.attempt} {what}\\n")
def execute(arguments):
    note(arguments["journal"], "begins")
    time.sleep(arguments.get("seconds", 0))
    note(arguments["journal"], "ends")
    return job.id
"""


class Site:
    """What a client sees of the jobs at a URL."""

    WAITING = ("pending", "dispatched", "running")

    def __init__(self, jobs: Path, journal: Path) -> None:
        self.jobs = jobs
        self.journal = journal
        self.url = ""
        self.http = urllib3.PoolManager(retries=False, timeout=20)
        self._pause = threading.Event()
        self._clock = SystemClock()

    def script(self, text: str, name: str = "s", directory: str = "d") -> None:
        """Write a script."""
        path = self.jobs / directory
        path.mkdir(exist_ok=True, parents=True)
        (path / f"{name}.py").write_text(text)

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, Any]:
        """A request; its status and its JSON."""
        answer = self.http.request(method, self.url + path, body=body, headers=headers)
        return answer.status, json.loads(answer.data)

    def launch(self, script: str = "s", **arguments: Any) -> int:
        """Launch a job; its id."""
        body = json.dumps(arguments).encode()
        status, answer = self.ask("POST", f"/launch_job/d/{script}", body)
        assert status == 201, answer
        number: int = answer["job_id"]
        return number

    def shown(self, number: int) -> dict[str, Any] | None:
        """All that is shown of a job; None where the master cannot say, as after a restart."""
        status, answer = self.ask("GET", f"/admin/jobs/{number}")
        if status == 503:
            return None
        assert status == 200, answer
        shown: dict[str, Any] = answer
        return shown

    def job(self, number: int) -> dict[str, Any]:
        """All that is shown of a job."""
        status, answer = self.ask("GET", f"/admin/jobs/{number}")
        assert status == 200, answer
        shown: dict[str, Any] = answer
        return shown

    def until(self, holds: Callable[[], object], what: str) -> None:
        """Wait until something holds."""
        end_s = self._clock.monotonic_s() + DEADLINE_S
        while not holds():
            assert self._clock.monotonic_s() < end_s, f"not in time: {what}"
            self._pause.wait(0.02)

    def ended(self, number: int) -> dict[str, Any]:
        """A job, when it has ended."""

        def has_ended() -> bool:
            job = self.shown(number)
            return job is not None and job["status"] not in self.WAITING

        self.until(has_ended, f"job {number} ends")
        return self.job(number)

    def until_joined(self, agents: int) -> None:
        """Wait until so many agents have joined the scheduler of dask."""
        line = f"pulzar_jobs_agents_joined {float(agents)}"
        self.until(
            lambda: line in self.http.request("GET", self.url + "/metrics").data.decode(),
            f"{agents} agents have joined",
        )

    def has_lines(self, count: int) -> bool:
        """Whether the journal has so many lines."""
        return len(self.lines()) >= count

    def lines(self) -> list[str]:
        """The lines of the journal."""
        return self.journal.read_text().splitlines() if self.journal.exists() else []


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path / "jobs", tmp_path / "journal")
    made.script(JOURNALED)
    return made


@pytest.fixture(params=["local", "dask"])
def engine(request: pytest.FixtureRequest) -> str:
    """All that is promised of jobs holds with each engine."""
    name: str = request.param
    return name


@pytest.fixture
def server(site: Site, tmp_path: Path, engine: str) -> Iterator[Server]:
    config = tmp_path / "server.conf"
    config.write_text(f"[jobs]\nengine = {engine}\n")
    options = ["--jobs", str(site.jobs), "--config", str(config)]
    with Server(str(tmp_path / "data"), options=options) as running:
        site.url = running.url
        if engine == "dask":
            site.until_joined(1)
        yield running


@pytest.fixture
def machines(site: Site, tmp_path: Path, engine: str) -> Iterator[Machines]:
    """A master and two nodes with two slots each."""
    directory = tmp_path / "machines"
    directory.mkdir()
    options = {"jobs": f"dir = {site.jobs}\nslots = 2\nengine = {engine}\n"}
    with Machines(str(directory), volumes=2, replicas=2, options=options) as made:
        made.wait_ready()
        site.url = made.master.url
        if engine == "dask":
            site.until_joined(2)
        yield made
