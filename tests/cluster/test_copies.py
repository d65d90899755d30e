"""Copies: written, read from wherever they are, made again where a volume is gone."""

import hashlib
import re
import signal
from pathlib import Path

import pytest
import urllib3

from pulzar.testing.machines import Machines
from tests.cluster.conftest import MakeMachines
from tests.cluster.keys import Keys

pytestmark = pytest.mark.slow


def test_values_of_all_sizes_have_their_copies_and_are_read_back(
    make_machines: MakeMachines, http: urllib3.PoolManager
) -> None:
    machines = make_machines(volumes=3, replicas=2)
    keys = Keys(machines, http)
    keys.fill(30)
    assert set(keys.copies.values()) == {"2/2"}
    keys.check()
    assert keys.put("three", b"x", "?replicas=3") == 201
    assert keys.copies["three"] == "3/3"
    assert keys.put("more", b"x", "?replicas=9") == 201
    assert keys.copies["more"] == "3/9"
    health = machines.get("/admin/health")
    assert (health["redundancy"], health["keys_under_replicated"]) == (2, 1)
    assert health["status"] == "degraded"
    assert machines.get("/admin/status")["entries"] == 26


def test_a_large_value_goes_to_a_volume_directly(
    make_machines: MakeMachines, http: urllib3.PoolManager
) -> None:
    machines = make_machines(volumes=2, replicas=2)
    value = bytes(range(256)) * 20_000
    url = f"{machines.master.url}/add_key/large"
    asked = http.request("PUT", f"{url}?redirect=1", body=value, redirect=False)
    assert asked.status == 307
    there = asked.headers["Location"]
    assert there.startswith(tuple(volume.url for volume in machines.volumes))
    answer = http.request("PUT", there, body=value)
    assert (answer.status, answer.headers["Pulzar-Copies"]) == (201, "2/2")
    told = answer.json()
    assert told["url"] == f"{machines.master.url}/get_key/large"
    read = http.request("GET", told["url"], redirect=False)
    assert read.status == 307
    assert re.search(r"\?version=[0-9a-f]{16}$", read.headers["Location"])
    part = http.request("GET", read.headers["Location"], headers={"Range": "bytes=300-899"})
    assert (part.status, part.data) == (206, value[300:900])
    whole = http.request("GET", f"{told['url']}?redirect=0")
    assert hashlib.sha256(whole.data).digest() == hashlib.sha256(value).digest()
    # A version that is not there sends the client back to where all copies are known.
    back = http.request(
        "GET", f"{machines.volumes[0].url}/get_key/large?version={1:016x}", redirect=False
    )
    assert (back.status, back.headers["Location"]) == (307, f"{told['url']}?redirect=0")
    refused = http.request("PUT", there, body=value, headers={"If-None-Match": "*"})
    assert refused.status == 412
    # What is small, or is to be deleted, is the master's.
    volume = machines.volumes[0].url
    small = http.request("PUT", f"{volume}/add_key/s", body=b"small", redirect=False)
    assert (small.status, small.headers["Location"]) == (307, f"{machines.master.url}/add_key/s")
    gone = http.request("DELETE", f"{volume}/delete_key/large", redirect=False)
    assert gone.status == 307


def test_reads_and_writes_go_on_while_a_volume_is_away_and_it_learns_what_it_missed(
    make_machines: MakeMachines, http: urllib3.PoolManager
) -> None:
    machines = make_machines(volumes=3, replicas=2)
    keys = Keys(machines, http)
    keys.fill(30)
    away = machines.volumes[1]
    away.kill()
    keys.check()
    for number in range(0, 30, 2):
        assert keys.put(f"key-{number}", b"while it was away") in (200, 201)
    for number in range(1, 30, 6):
        if keys.kept[f"key-{number}"] is not None:
            assert keys.delete(f"key-{number}") == 200
    keys.fill(10, prefix="late")
    assert "2/2" in keys.copies.values()
    keys.check()
    away.start()
    machines.wait_ready()
    machines.wait_redundant(2)
    keys.check()
    # What it holds must not come back when nobody else knows better.
    machines.master.kill()
    machines.master.wipe()
    machines.start_master()
    machines.wait_ready()
    keys.check()


def test_keys_of_a_lost_volume_are_copied_again(
    make_machines: MakeMachines, http: urllib3.PoolManager
) -> None:
    machines = make_machines(volumes=3, replicas=2, server="lost_after = 6s\n")
    keys = Keys(machines, http)
    keys.fill(30)
    lost = machines.volumes[0]
    lost.kill()
    lost.wipe()
    machines.wait(lambda: states(machines).get("v0") == "lost")
    machines.wait_redundant(2)
    keys.check()
    machines.volumes[1].kill()
    keys.check()
    machines.volumes[1].start()
    machines.wait_ready()
    # The machine comes back with an empty disk: another volume, which may have the name.
    lost.start()
    machines.wait(lambda: "v0" in machines.online())
    machines.post("/admin/cluster/remove/v0?lost=1&dry_run=1")
    keys.check()


def states(machines: Machines) -> dict[str, str]:
    cluster = machines.get("/admin/cluster")
    return {node["node"]: node["state"] for node in cluster["nodes"]} if cluster else {}


def test_a_damaged_copy_is_not_served_and_is_made_anew(
    make_machines: MakeMachines, http: urllib3.PoolManager
) -> None:
    machines = make_machines(volumes=2, replicas=2)
    keys = Keys(machines, http)
    for number in range(20):
        keys.put(f"key-{number}", b"%d is a value that is not kept in the catalog; " % number * 90)
    victim = machines.volumes[0]
    assert victim.terminate() == 0
    flip_values(victim.directory)
    victim.start()
    machines.wait_ready()
    for _ in range(6):
        keys.check()
    machines.wait(lambda: metric(machines, "pulzar_copies_healed_total") > 0)
    machines.wait_redundant(2)
    machines.volumes[1].kill()
    machines.wait(lambda: machines.online() == {"v0"})
    # What was read has been made anew, and is read from the disk that was damaged.
    healed = [key for key in keys.kept if readable(machines, http, key)]
    assert healed != []
    for key in healed:
        assert keys.get(key) == keys.kept[key]


def flip_values(directory: str) -> None:
    """Flip a bit in the middle of some values of a volume."""
    segments = Path(directory, "volume", "segments").iterdir()
    (segment,) = [path for path in segments if path.stat().st_size > 20_000]
    content = bytearray(segment.read_bytes())
    at, flipped = 0, 0
    while (at := content.find(b"is a value that", at)) >= 0 and flipped < 10:
        content[at + 3000] ^= 1
        at += 20_000
        flipped += 1
    assert flipped > 0
    segment.write_bytes(content)


def metric(machines: Machines, name: str) -> float:
    text = urllib3.request("GET", f"{machines.master.url}/metrics").data.decode()
    found = re.search(rf"^{name} ([0-9.e+]+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def readable(machines: Machines, http: urllib3.PoolManager, key: str) -> bool:
    return http.request("GET", f"{machines.master.url}/get_key/{key}").status == 200


@pytest.mark.parametrize("number", range(3))
def test_a_volume_that_hangs_is_left_out_and_comes_back(
    make_machines: MakeMachines, http: urllib3.PoolManager, number: int
) -> None:
    machines = make_machines(volumes=3, replicas=2)
    keys = Keys(machines, http)
    keys.fill(12)
    hung = machines.volumes[number]
    hung.signal(signal.SIGSTOP)
    try:
        for one in range(12):
            assert keys.put(f"key-{one}", b"meanwhile") in (200, 201)
        assert set(keys.copies.values()) <= {"2/2", "1/2"}
        keys.check()
    finally:
        hung.signal(signal.SIGCONT)
    machines.wait_ready()
    machines.wait_redundant(2)
    keys.check()
