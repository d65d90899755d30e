"""Whatever of a cluster is killed while jobs are launched and run: the journal that each attempt
writes says that no job was forgotten, and no attempt started twice."""

import random
import sys
import threading
from collections import Counter
from typing import Any

import pytest
import urllib3

from pulzar.clock import SystemClock
from pulzar.testing.machines import Machines
from tests.jobs.conftest import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SECONDS = 20.0
ENDED_S_MAX = 90.0


def kill_something(machines: Machines, rng: random.Random) -> None:
    """The master, a volume with its agent, an agent alone, one child of an agent, or the
    scheduler."""
    what = rng.choice(["master", "volume", "agent", "child", "scheduler"])
    if what == "master":
        machines.master.kill()
        machines.start_master()
        return
    if what == "scheduler":
        for one in machines.master.processes():
            if "jobs.dask_scheduler" in " ".join(one.cmdline()):
                one.kill()
        return
    volume = rng.choice(machines.volumes)
    if what == "volume":
        volume.kill()
        volume.start()
        return
    agents = [one for one in volume.processes() if "jobs.agent" in " ".join(one.cmdline())]
    victims = agents if what == "agent" else [one for a in agents for one in a.children()]
    if victims:
        rng.choice(victims).kill()


def test_no_job_is_forgotten_and_no_attempt_starts_twice(site: Site, machines: Machines) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    sys.stdout.write(f"seed {seed}\n")
    rng, clock, pause = random.Random(seed), SystemClock(), threading.Event()
    accepted: list[int] = []
    is_over = threading.Event()

    def launch() -> None:
        arguments: dict[str, Any] = {
            "journal": str(site.journal),
            "pulzar_on_lost": "retry",
            "pulzar_retries": 9,
        }
        while not is_over.is_set():
            try:
                accepted.append(site.launch(**arguments, seconds=rng.choice([0, 0.05, 0.5])))
            except (AssertionError, urllib3.exceptions.HTTPError):
                pause.wait(0.1)  # not accepted, or nobody knows: it may run all the same
            pause.wait(0.02)

    launching = threading.Thread(target=launch)
    launching.start()
    try:
        end_s = clock.monotonic_s() + SECONDS
        while clock.monotonic_s() < end_s:
            pause.wait(rng.uniform(0.3, 1.5))
            kill_something(machines, rng)
    finally:
        is_over.set()
        launching.join()
    machines.wait_ready()
    deadline_s = clock.monotonic_s() + ENDED_S_MAX
    for number in accepted:
        while (job := site.shown(number)) is None or job["status"] in site.WAITING:
            assert clock.monotonic_s() < deadline_s, job
            pause.wait(0.1)
        assert job["status"] == "ready", job
    begun = Counter(line for line in site.lines() if line.endswith("begins"))
    assert {line: count for line, count in begun.items() if count > 1} == {}
    ended = {int(line.split()[0]) for line in site.lines() if line.endswith("ends")}
    assert set(accepted) <= ended
    assert len(set(accepted)) == len(accepted) > 50
