"""A master that starts again, with its memory and without."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import urllib3

from pulzar.testing.machines import Machines, free_port
from tests.cluster.conftest import MakeMachines
from tests.cluster.keys import Keys

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent


def stopped(machines: Machines) -> None:
    machines.kill()
    machines.master.wipe()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_a_master_with_an_empty_disk_serves_when_the_last_volume_is_there(
    make_machines: MakeMachines, http: urllib3.PoolManager, order: tuple[int, ...]
) -> None:
    machines = make_machines(volumes=3, replicas=2)
    keys = Keys(machines, http)
    keys.fill(20)
    newest = max(keys.versions.values())
    stopped(machines)
    machines.start_master()
    for number in order:
        answer = http.request("GET", f"{machines.master.url}/get_key/key-0")
        assert (answer.status, answer.json()["code"]) == (503, "not_ready")
        assert machines.get("/readyz") is None
        machines.volumes[number].start()
        machines.wait(lambda: machines.get("/admin/network") is not None)
    machines.wait_ready()
    keys.check()
    assert keys.put("later", b"x") == 201
    assert keys.versions["later"] > newest
    machines.wait_redundant(2)


def test_an_empty_volume_does_not_make_a_master_forget(
    make_machines: MakeMachines, http: urllib3.PoolManager
) -> None:
    machines = make_machines(volumes=2, replicas=2)
    keys = Keys(machines, http)
    keys.fill(10)
    stopped(machines)
    machines.start_master()
    fresh = machines.add_volume()
    fresh.start()
    machines.wait(lambda: "waits for a volume" in fresh.log())
    answer = http.request("GET", f"{machines.master.url}/get_key/key-0")
    assert answer.status == 503
    for volume in machines.volumes[:2]:
        volume.start()
    machines.wait_ready()
    keys.check()


def test_a_restarted_master_goes_on_from_where_it_was_also_without_a_volume(
    make_machines: MakeMachines, http: urllib3.PoolManager
) -> None:
    machines = make_machines(volumes=3, replicas=2)
    keys = Keys(machines, http)
    keys.fill(20)
    machines.volumes[2].kill()
    machines.wait(lambda: machines.online() == {"v0", "v1"})
    keys.put("key-0", b"without the third")
    machines.master.kill()
    machines.start_master()
    machines.wait(lambda: machines.online() == {"v0", "v1"})
    machines.wait(lambda: machines.get("/readyz"))
    keys.check()
    machines.volumes[2].start()
    machines.wait_ready()
    machines.wait_redundant(2)
    keys.check()


def test_everything_ends_at_once_and_starts_again(
    make_machines: MakeMachines, http: urllib3.PoolManager
) -> None:
    machines = make_machines(volumes=3, replicas=2)
    keys = Keys(machines, http)
    keys.fill(30)
    machines.kill()
    machines.start_master()
    for volume in reversed(machines.volumes):
        volume.start()
    machines.wait_ready()
    keys.check()
    assert machines.master.terminate() == 0
    assert [volume.terminate() for volume in machines.volumes] == [0, 0, 0]


@pytest.mark.parametrize("how", ["manage.py", "pulzar restore"])
def test_the_commands_that_restore_a_master(
    make_machines: MakeMachines, http: urllib3.PoolManager, how: str
) -> None:
    machines = make_machines(volumes=2)
    keys = Keys(machines, http)
    keys.fill(20)
    machines.master.kill()
    machines.master.wipe()
    machines.start_master()
    volume = machines.volumes[0].url
    if how == "manage.py":
        command = [sys.executable, str(ROOT / "app" / "manage.py")]
        command += ["--restore", volume.removeprefix("http://"), "--master", machines.master.url]
    else:
        program = "from pulzar.cli import main; main()"
        command = [sys.executable, "-c", program, "restore", volume]
        command += ["--master", machines.master.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    keys.check()
    nothing = [*command]
    nothing[-3] = "127.0.0.1:1"
    refused = subprocess.run(nothing, capture_output=True, text=True, timeout=50, check=False)
    assert refused.returncode != 0
    assert "did not answer" in refused.stderr


def test_a_restore_from_what_is_no_volume_says_so(
    make_machines: MakeMachines, http: urllib3.PoolManager
) -> None:
    machines = make_machines(volumes=1)
    url = f"{machines.master.url}/admin/restore"
    gone = f"http://127.0.0.1:{free_port('127.0.0.1')}"
    for volume, told in (
        (machines.master.url, "is no volume"),
        (gone, "Connection refused"),
        ("http://no-such-host.invalid:9001", "no such host"),
    ):
        answer = http.request("POST", url, body=json.dumps({"volume": volume}))
        assert (answer.status, answer.json()["code"]) == (503, "link_broken")
        assert told in answer.json()["detail"]
