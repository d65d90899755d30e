"""Backups of a cluster of real processes, and what comes back of them."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pulzar.backup.once import Site, back_up_site
from pulzar.backup.run import Ran
from pulzar.backup.stock import verify
from pulzar.backup.target import open_target
from pulzar.client.sync import Client
from pulzar.disk import SystemDisk
from pulzar.testing.machines import Machine, Machines
from tests.backup.conftest import ignore, pulzar
from tests.cluster.conftest import MakeMachines

pytestmark = pytest.mark.slow


class Backups:
    """Backups of a cluster into one target, each a second after the one before."""

    def __init__(self, machines: Machines, path: Path) -> None:
        self.machines = machines
        self.target = str(path / "target")
        self._now = datetime(2026, 1, 1, tzinfo=UTC)

    def run(self) -> Ran:
        self._now += timedelta(seconds=1)
        key = Path(self.machines.key_file).read_text().strip()
        site = Site(url=self.machines.master.url, key=key, target=self.target)
        with open_target(self.target) as target:
            return back_up_site(
                site, target, disk=SystemDisk(), now=self._now, on_size=ignore, on_bytes=ignore
            )


def fill(machines: Machines, count: int, prefix: str = "k") -> dict[str, bytes]:
    known = {}
    with Client(machines.master.url) as client:
        for number in range(count):
            key, value = f"{prefix}/{number}", os.urandom(16) * 100
            client.put(key, value)
            known[key] = value
    return known


def content(machines: Machines) -> dict[str, bytes]:
    with Client(machines.master.url, patience_s=20) as client:
        return {item.key: client.get(item.key) for item in client.list_keys()}


def put_back(machines: Machines, restored: Path, names: Sequence[str]) -> None:
    """Let the machines of a cluster that is down have the restored directories."""
    for machine in (machines.master, *machines.volumes):
        machine.wipe()
    shutil.move(restored / "master", machines.master.directory)
    for machine in machines.volumes:
        if machine.name in names:
            shutil.move(restored / machine.name, machine.directory)


def start_restored(machines: Machines, restored: Path) -> None:
    """Let all machines of a cluster that is down go on from the restored directories."""
    put_back(machines, restored, [machine.name for machine in machines.volumes])
    machines.start_master()
    for machine in machines.volumes:
        machine.start()
    machines.wait_ready()


def restore_all(backups: Backups, where: Path) -> None:
    """Kill a cluster, restore the last snapshot, and start everything on it."""
    backups.machines.kill()
    done = pulzar("restore", "--from", backups.target, "--data", str(where))
    assert done.returncode == 0, done.stderr
    start_restored(backups.machines, where)


def volume(machines: Machines, name: str) -> Machine:
    return next(one for one in machines.volumes if one.name == name)


def test_a_whole_cluster_comes_back(make_machines: MakeMachines, tmp_path: Path) -> None:
    machines = make_machines(volumes=3, replicas=2)
    backups = Backups(machines, tmp_path)
    known = fill(machines, 200)
    with Client(machines.master.url) as client:
        client.put("large", b"x" * 3_000_000)
        known["large"] = b"x" * 3_000_000
        client.delete("k/7")
        del known["k/7"]
        newest = client.put("k/8", b"new").etag
        known["k/8"] = b"new"
    backups.run()
    fill(machines, 20, "later")
    machines.kill()
    done = pulzar("restore", "--from", backups.target, "--data", str(tmp_path / "restored"))
    assert done.returncode == 0, done.stderr
    assert "pulzar master --data" in done.stderr
    start_restored(machines, tmp_path / "restored")
    assert content(machines) == known
    machines.wait_redundant(2)
    with Client(machines.master.url) as client:
        etag = client.put("k/8", b"newer").etag
    assert int(etag.strip('"'), 16) > int(newest.strip('"'), 16) + (1000 << 40)


def test_a_restore_without_one_volume_says_which_keys_are_gone(
    make_machines: MakeMachines, tmp_path: Path
) -> None:
    machines = make_machines(volumes=3, replicas=1)
    backups = Backups(machines, tmp_path)
    known = fill(machines, 1500)  # new keys go to one volume for 128 of them
    ran = backups.run()
    missing = next(one for one in ran.snapshot.volumes if one.name == "v1")
    machines.kill()
    expected = sorted(known.keys() & keys_in(volume(machines, "v1")))
    assert len(expected) > 10
    for root, _, names in os.walk(Path(backups.target) / "volumes" / missing.id / "segments"):
        for name in names:
            if not name.endswith(".keys"):
                os.unlink(os.path.join(root, name))
    done = pulzar("restore", "--from", backups.target, "--data", str(tmp_path / "restored"))
    assert done.returncode == 1, done.stderr
    gone = sorted(line.split()[1] for line in done.stdout.splitlines() if line.startswith("gone:"))
    assert gone == expected
    assert "v1" in done.stderr
    put_back(machines, tmp_path / "restored", ["v0", "v2"])
    machines.start_master()
    volume(machines, "v0").start()
    volume(machines, "v2").start()
    machines.wait(lambda: heard(machines) >= {"v0", "v2"})
    removed = pulzar("cluster", "remove", "v1", "--lost", "--yes", "--master", machines.master.url)
    assert removed.returncode == 0, removed.stderr
    machines.wait(lambda: machines.get("/readyz") is not None)
    assert content(machines) == {k: v for k, v in known.items() if k not in expected}


def heard(machines: Machines) -> set[str]:
    """The volumes that the master waits with, for those that are missing."""
    found = machines.get("/admin/cluster") or {"nodes": []}
    return {node["node"] for node in found["nodes"] if node["state"] == "joining"}


def keys_in(machine: Machine) -> set[str]:
    """The keys that a volume has, by the reader that lies in it."""
    reader = f"{machine.directory}/volume/READ_ME.py"
    done = subprocess.run(
        [sys.executable, reader, "list", "--json"], capture_output=True, check=True
    )
    return {json.loads(line)["key"] for line in done.stdout.decode().splitlines()}


def test_a_backup_while_a_volume_is_away_has_it_as_it_was(
    make_machines: MakeMachines, tmp_path: Path
) -> None:
    machines = make_machines(volumes=3, replicas=2)
    backups = Backups(machines, tmp_path)
    known = fill(machines, 100)
    backups.run()
    machines.volumes[2].kill()
    machines.wait(lambda: "v2" not in machines.online())
    known |= fill(machines, 50, "meanwhile")
    with Client(machines.master.url) as client:
        for number in range(20):
            client.delete(f"k/{number}")
            del known[f"k/{number}"]
    ran = backups.run()
    assert [one.name for one in ran.snapshot.missing] == ["v2"]
    assert sorted(one.name for one in ran.snapshot.volumes) == ["v0", "v1", "v2"]
    with open_target(backups.target) as target:
        assert list(verify(target, on_bytes=ignore)) == []
    restore_all(backups, tmp_path / "restored")
    assert content(machines) == known  # what v2 did not hear of does not come back


def test_backups_while_volumes_join_die_and_compact(
    make_machines: MakeMachines, tmp_path: Path
) -> None:
    machines = make_machines(volumes=2, replicas=2, volume="segment = 2MiB\n")
    backups = Backups(machines, tmp_path)
    stop = threading.Event()
    known = fill(machines, 100)

    def write() -> None:
        number = 0
        with Client(machines.master.url, patience_s=20) as client:
            while not stop.is_set():
                client.put(f"w/{number % 30}", b"%d" % number * 2000)
                number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        backups.run()
        machines.add_volume().start()
        machines.wait(lambda: len(machines.online()) == 3)
        backups.run()
        machines.post("/admin/compact")
        backups.run()
        machines.volumes[0].kill()
        machines.wait(lambda: len(machines.online()) == 2)
        assert [one.name for one in backups.run().snapshot.missing] == ["v0"]
        machines.volumes[0].start()
        machines.wait_ready()
    finally:
        stop.set()
        writer.join()
    last = backups.run()
    assert last.snapshot.missing == []
    now = content(machines)
    with open_target(backups.target) as target:
        assert list(verify(target, on_bytes=ignore)) == []
    restore_all(backups, tmp_path / "restored")
    assert content(machines) == now
    assert known.items() <= now.items()


def test_one_volume_comes_back_into_a_cluster_that_went_on(
    make_machines: MakeMachines, tmp_path: Path
) -> None:
    """From a backup, and from a tar: nothing that was deleted or replaced meanwhile comes back."""
    machines = make_machines(volumes=2, replicas=2)
    backups = Backups(machines, tmp_path)
    known = fill(machines, 100)
    backups.run()
    victim = machines.volumes[1]
    tar = tmp_path / "v1.tar"
    command = [
        "tar",
        "-C",
        victim.directory,
        "--warning=no-file-changed",
        "-cf",
        str(tar),
        "volume",
    ]
    assert subprocess.run(command, capture_output=True, check=False).returncode in (0, 1)
    with Client(machines.master.url) as client:
        for number in range(30):
            client.delete(f"k/{number}")
            del known[f"k/{number}"]
        for number in range(30, 60):
            client.put(f"k/{number}", b"new")
            known[f"k/{number}"] = b"new"
    for source in ("backup", "tar"):
        victim.kill()
        victim.wipe()
        if source == "backup":
            options = ["--only", "v1", "--data", victim.directory]
            done = pulzar("restore", "--from", backups.target, *options)
            assert done.returncode == 0, done.stderr
        else:
            os.makedirs(victim.directory)
            subprocess.run(["tar", "-C", victim.directory, "-xf", str(tar)], check=True)
        victim.start()
        machines.wait(lambda: "v1" in machines.online())
        machines.wait_redundant(2)
        assert content(machines) == known
        machines.volumes[0].kill()  # what the old copy has must be right on its own
        machines.wait(lambda: "v0" not in machines.online())
        assert content(machines) == known
        machines.volumes[0].start()
        machines.wait_ready()
