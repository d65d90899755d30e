"""Clusters of real processes, one for each test; and an HTTP client that follows no redirect."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import urllib3

from pulzar.testing.machines import Machines

MakeMachines = Callable[..., Machines]


@pytest.fixture
def make_machines(tmp_path: Path) -> Iterator[MakeMachines]:
    """Makes clusters: make_machines(volumes=3, replicas=2, volume="segment = 2MiB\\n"). They run
    until the end of the test."""
    made: list[Machines] = []

    def make(
        *, volumes: int = 3, replicas: int = 1, started: bool = True, **options: str
    ) -> Machines:
        directory = tmp_path / f"cluster-{len(made)}"
        directory.mkdir()
        machines = Machines(str(directory), volumes=volumes, replicas=replicas, options=options)
        made.append(machines)
        if started:
            machines.__enter__()
        return machines

    yield make
    for machines in made:
        machines.kill()
        shutil.rmtree(machines.directory, ignore_errors=True)


@pytest.fixture(scope="session")
def http() -> urllib3.PoolManager:
    return urllib3.PoolManager(retries=False, timeout=20)
