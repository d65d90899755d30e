"""Jobs where master and nodes are programs of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pulzar.testing.machines import Machines
from tests.jobs.conftest import Site

pytestmark = pytest.mark.slow


@pytest.fixture
def machines(site: Site, tmp_path: Path) -> Iterator[Machines]:
    directory = tmp_path / "machines"
    directory.mkdir()
    options = {"jobs": f"dir = {site.jobs}\nslots = 2\n"}
    with Machines(str(directory), volumes=2, replicas=2, options=options) as made:
        made.wait_ready()
        site.url = made.master.url
        yield made


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
