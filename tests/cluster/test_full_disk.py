"""One volume's disk is full: others take its values, deletes go on, and nothing is lost."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from pulzar.limits import KIB, MIB
from tests.cluster.conftest import MakeMachines
from tests.cluster.keys import Keys

pytestmark = pytest.mark.slow

DISK_BYTES = 48 * MIB
OPTIONS = "segment = 2MiB\nreserve = 12MiB\n"


@pytest.fixture
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of DISK_BYTES, in memory."""
    place = tmp_path_factory.mktemp("small")
    options = f"size={DISK_BYTES}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a file system of its own needs root: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_volume_is_passed_over_and_deletes_go_on(
    make_machines: MakeMachines, http: urllib3.PoolManager, small_disk: Path
) -> None:
    machines = make_machines(volumes=2, replicas=2, started=False, volume=OPTIONS)
    small = machines.volumes[0]
    small._arguments[small._arguments.index("--data") + 1] = str(small_disk / "v0")
    small.directory = str(small_disk / "v0")
    machines.__enter__()
    keys = Keys(machines, http)
    value = b"x" * (60 * KIB)
    copies = set()
    number = 0
    while "1/2" not in copies:
        assert keys.put(f"key-{number}", value) == 201
        copies.add(keys.copies[f"key-{number}"])
        number += 1
        assert number < 2000
    assert copies == {"2/2", "1/2"}
    assert machines.get("/admin/health")["status"] == "degraded"
    assert machines.online() == {"v0", "v1"}
    for gone in range(0, 40, 2):
        assert keys.delete(f"key-{gone}") == 200
        assert keys.copies[f"key-{gone}"] == "2/2"
    keys.check()
    for machine in (small, machines.volumes[1]):
        machine.kill()
        machine.start()
        machines.wait_ready()
    keys.check()
