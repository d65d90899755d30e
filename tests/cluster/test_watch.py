"""Watching a cluster of real processes while its volumes and its master are killed."""

import threading
from typing import Any

import pytest

from pulzar.client.sync import Client
from pulzar.client.watching import watch
from pulzar.errors import PulzarError
from tests.cluster.conftest import MakeMachines

pytestmark = pytest.mark.slow


def test_no_event_is_lost_doubled_or_out_of_order(make_machines: MakeMachines) -> None:
    machines = make_machines(volumes=3, replicas=2)
    told: list[dict[str, Any]] = []
    stop = threading.Event()

    def follow() -> None:
        with Client(machines.master.url) as client:
            for event in watch(client, "w/"):
                told.append(event)
                if stop.is_set():
                    return

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    machines.wait(lambda: told)
    written: dict[str, list[str]] = {}
    faults = {
        20: machines.volumes[0].kill,
        40: machines.start_master,
        60: machines.volumes[0].start,
        80: machines.volumes[1].kill,
        100: machines.volumes[1].start,
        110: machines.start_master,
    }

    def write(name: str) -> None:
        with Client(machines.master.url, patience_s=20) as client:
            for number in range(140):
                key = f"w/{name}{number % 5}"
                try:
                    if number % 9 == 4 and written.get(key):
                        etag = client.delete(key).etag
                    else:
                        etag = client.put(key, b"x" * (number % 3) * 1000).etag
                    written.setdefault(key, []).append(etag.strip('"'))
                except PulzarError:
                    continue
                if name == "a" and number in faults:
                    faults[number]()

    writers = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    machines.wait_ready()
    with Client(machines.master.url, patience_s=20) as client:
        last = client.put("w/end", b"").etag.strip('"')
        now = {item.key: item.etag.strip('"') for item in client.list_keys("w/")}
    machines.wait(lambda: told[-1].get("version") == last)
    stop.set()
    changes = [event for event in told if event["event"] in ("put", "delete")]
    assert not [event for event in told if event["event"] == "reset"]
    assert len({(event["key"], event["version"]) for event in changes}) == len(changes)
    newest: dict[str, dict[str, Any]] = {}
    for event in changes:
        before = newest.get(event["key"])
        assert before is None or before["version"] < event["version"]
        newest[event["key"]] = event
    for key, versions in written.items():
        assert newest[key]["version"] >= max(versions)
    assert {k: e["version"] for k, e in newest.items() if e["event"] == "put"} == now
    assert len(changes) > 50
