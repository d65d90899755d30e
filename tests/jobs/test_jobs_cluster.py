"""Jobs where master and nodes are programs of their own."""

import random
from collections import Counter

import pytest

from pulzar.clock import SystemClock
from pulzar.testing.machines import Machines
from tests.jobs.conftest import DEADLINE_S, Site

pytestmark = pytest.mark.slow


def test_jobs_run_on_the_nodes_and_where_their_data_is(site: Site, machines: Machines) -> None:
    for key in ("a", "b", "c"):
        url = f"{machines.master.url}/add_key/{key}?replicas=1"
        site.http.request("PUT", url, body=b"x" * 100)
    site.script("def execute(arguments):\n    return 1\n")
    nodes = {site.ended(site.launch())["node"] for _ in range(3)}
    assert nodes <= {"v0", "v1"}
    for key in ("a", "b", "c"):
        number = site.launch(pulzar_data=key, pulzar_data_policy="require")
        assert site.ended(number)["status"] == "ready"
    number = site.launch(pulzar_data="nowhere", pulzar_data_policy="require")
    site.until(lambda: site.job(number)["reason"] == "waiting-data", "it waits for its data")


def test_running_jobs_survive_a_restart_of_the_master(site: Site, machines: Machines) -> None:
    number = site.launch(journal=str(site.journal), seconds=3)
    site.until(lambda: len(site.lines()) == 1, "it has begun")
    machines.master.kill()
    machines.start_master()
    machines.wait_ready()
    job = site.ended(number)
    assert (job["status"], job["attempts"], job["output"]) == ("ready", 1, number)
    assert site.lines() == [f"{number} 1 begins", f"{number} 1 ends"]


def test_what_a_node_ran_that_dies_is_run_by_another(site: Site, machines: Machines) -> None:
    number = site.launch(journal=str(site.journal), seconds=1.5, pulzar_on_lost="retry")
    site.until(lambda: len(site.lines()) == 1, "it has begun")
    first = site.job(number)["node"]
    victim = next(one for one in machines.volumes if one.name == first)
    victim.kill()
    job = site.ended(number)
    assert (job["status"], job["attempts"]) == ("ready", 2)
    assert job["node"] != first


def test_a_scheduler_that_dies_takes_nothing_with_it(site: Site, machines: Machines) -> None:
    long = [site.launch(journal=str(site.journal), seconds=2) for _ in range(2)]
    site.until(lambda: len(site.lines()) == 2, "both have begun")
    waiting = [site.launch(journal=str(site.journal), seconds=0.1) for _ in range(30)]
    for one in machines.master.processes():
        if "jobs.dask_scheduler" in " ".join(one.cmdline()):
            one.kill()
    later = [site.launch(journal=str(site.journal)) for _ in range(5)]
    for number in long + waiting + later:
        job = site.ended(number)
        assert (job["status"], job["output"]) == ("ready", number), job
    # Each began once. A busy node gives orders back, which counts as an attempt that never began.
    assert len(site.lines()) == 2 * 37


def test_jobs_of_unequal_length_share_the_nodes(site: Site, machines: Machines) -> None:
    rng = random.Random(4)
    lengths = [rng.choice([0.02, 0.1, 0.3]) for _ in range(120)]
    clock = SystemClock()
    begun_s = clock.monotonic_s()
    numbers = [site.launch(journal=str(site.journal), seconds=seconds) for seconds in lengths]
    nodes = {site.ended(number)["node"] for number in numbers}
    assert nodes == {"v0", "v1"}
    # Wide: the machine may have other work. bench/ says how close to the ideal it is.
    assert clock.monotonic_s() - begun_s < 4 * sum(lengths) / 4 + DEADLINE_S


def test_what_a_node_has_that_is_stopped_moves_on(site: Site, machines: Machines) -> None:
    numbers = [
        site.launch(journal=str(site.journal), seconds=0.2, pulzar_on_lost="retry")
        for _ in range(30)
    ]
    site.until(lambda: site.has_lines(4), "they have begun")
    stopped = [
        one for one in machines.volumes[0].processes() if "jobs.agent" in " ".join(one.cmdline())
    ]
    for one in stopped:
        one.suspend()
    try:
        for number in numbers:
            assert site.ended(number)["status"] == "ready"
    finally:
        for one in stopped:
            one.resume()
    begun = Counter(line for line in site.lines() if line.endswith("begins"))
    assert max(begun.values()) == 1
