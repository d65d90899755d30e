"""Restores, auto-backup and the command line, with a real server."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pulzar.backup.run import load
from pulzar.backup.target import open_target
from pulzar.client.process import Server
from pulzar.client.sync import Client
from pulzar.clock import SystemClock
from tests.backup.conftest import World, content, pulzar

pytestmark = pytest.mark.slow

DEADLINE_S = 40.0


def test_restores_that_are_refused(world: World, tmp_path: Path) -> None:
    world.put("k", b"v")
    world.back_up()
    (tmp_path / "restored").mkdir()
    (tmp_path / "restored" / "file").write_text("mine")
    done = world.restore()
    assert (done.returncode, "not empty" in done.stderr) == (2, True)
    assert os.listdir(tmp_path / "restored") == ["file"]
    done = world.restore("other", "--snapshot", "20200101T000000Z")
    assert (done.returncode, "there is no snapshot" in done.stderr) == (2, True)
    done = world.restore("other", "--only", "nobody")
    assert (done.returncode, "has no volume nobody" in done.stderr) == (2, True)
    done = pulzar("restore", "--from", str(tmp_path / "none"), "--data", str(tmp_path / "x"))
    assert (done.returncode, "no backup of Pulzar" in done.stderr) == (2, True)
    done = pulzar("restore")
    assert done.returncode == 2
    done = pulzar("restore", "http://127.0.0.1:1", "--from", "x")
    assert done.returncode == 2


@pytest.mark.parametrize("nth", [1, 2, 4, 7, 10])
def test_a_restore_that_is_killed_goes_on(world: World, nth: int, tmp_path: Path) -> None:
    world.fill(1500)
    world.put("large", os.urandom(2_000_000))
    world.back_up()
    code = KILLED_RESTORE.format(target=world.target, where=str(tmp_path / "restored"), nth=nth)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=50, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    volume = tmp_path / "restored" / "volume"
    if volume.exists() and not (volume / "volume.json").exists():
        where = str(tmp_path / "restored")
        started = pulzar("up", "--data", where, "--port", "0")
        assert started.returncode == 6, started.stderr  # half of it is no store
    done_again = world.restore()
    assert done_again.returncode == 0, done_again.stderr
    world.check_restored(world.known)


KILLED_RESTORE = """
import os, signal
from pulzar import disk
from pulzar.cli import main
left = {nth}
def counted(work):
    def call(*given, **named):
        global left
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return work(*given, **named)
    return call
disk.SystemDisk.create = counted(disk.SystemDisk.create)
disk.SystemDisk.rename = counted(disk.SystemDisk.rename)
main(["restore", "--from", {target!r}, "--data", {where!r}])
"""


def test_auto_backup(tmp_path: Path) -> None:
    config = tmp_path / "server.conf"
    target = tmp_path / "target"
    config.write_text(f"[backup]\nactive = yes\naddress = {target}\ninterval = 1m\nkeep = 2\n")
    with Server(str(tmp_path / "data"), options=["--config", str(config)]) as server:
        until(lambda: list(target.glob("snapshots/*.json")))
        with Client(server.url) as client:
            text = b"".join(client.text("/metrics")).decode()
            assert "pulzar_backup_failures_total 0.0" in text
        server.terminate()
        server.start()  # it is not due: no second one
        until(lambda: b"pulzar_backup_age_seconds -1" not in metrics(server))
        assert len(list(target.glob("snapshots/*.json"))) == 1
    config.write_text("[backup]\nactive = yes\n")
    done = pulzar("up", "--data", str(tmp_path / "data"), "--config", str(config), "--port", "0")
    assert (done.returncode, "no target" in done.stderr) == (2, True)


def test_an_auto_backup_ends_with_its_server(tmp_path: Path) -> None:
    fifo = tmp_path / "target"
    os.mkfifo(fifo)  # nobody answers there
    config = tmp_path / "server.conf"
    config.write_text(f"[backup]\nactive = yes\naddress = {fifo}\n")
    with Server(str(tmp_path / "data"), options=["--config", str(config)]) as server:
        until(lambda: b"pulzar_backup_failures_total 1" in metrics(server))
        assert server.terminate() == 0
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(fifo) in str(p.info["cmdline"])]


def metrics(server: Server) -> bytes:
    with Client(server.url) as client:
        return b"".join(client.text("/metrics"))


def until(holds: Callable[[], object]) -> None:
    clock = SystemClock()
    end_s = clock.monotonic_s() + DEADLINE_S
    while not holds():
        assert clock.monotonic_s() < end_s
        threading.Event().wait(0.02)


def test_the_command_line(world: World) -> None:
    world.fill(50)
    key = str(world.data / "cluster.key")
    options = ["--master", world.server.url, "--key-file", key]
    done = pulzar("backup", "run", world.target, *options, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["missing"] == []
    assert told["copied_bytes"] == told["total_bytes"] > 50 * 3000
    (row,) = pulzar("backup", "list", world.target, "--json").stdout.splitlines()
    assert json.loads(row)["id"] == told["snapshot"]
    assert pulzar("backup", "verify", world.target).returncode == 0
    assert pulzar("backup", "prune", world.target, "--keep", "1", "--json").returncode == 0
    assert pulzar("backup", "run", world.target, "--master", "http://127.0.0.1:1").returncode == 2
    done = pulzar(
        "backup", "run", world.target, "--key-file", key, "--master", "http://127.0.0.1:1"
    )
    assert done.returncode == 3
    with open_target(world.target) as target:
        assert load(target, told["snapshot"]).alone


def test_what_was_deleted_by_mistake_is_copied_back(world: World) -> None:
    """The recipe of docs/operations.md."""
    world.fill(30, prefix="dear")
    world.fill(5, prefix="other")
    known = dict(world.known)
    snapshot = world.back_up().snapshot.id
    for number in range(30):
        world.delete(f"dear/{number}")
    world.put("other/1", b"changed since")
    assert world.restore("elsewhere", "--snapshot", snapshot).returncode == 0
    where = str(world.path / "files")
    with Server(str(world.path / "elsewhere"), options=["--config", world.config]) as old:
        done = pulzar("get", "-r", "dear", where, "--master", old.url)
        assert done.returncode == 0, done.stderr
    done = pulzar("put", where, "dear", "--master", world.server.url)
    assert done.returncode == 0, done.stderr
    with Client(world.server.url) as client:
        assert content(client) == {**known, "other/1": b"changed since"}


def test_one_machine_is_known_by_whatever_name_it_is_called(world: World) -> None:
    world.put("k", b"v")
    key = str(world.data / "cluster.key")
    url = world.server.url.replace("127.0.0.1", "localhost")
    done = pulzar("backup", "run", world.target, "--master", url, "--key-file", key)
    assert done.returncode == 0, done.stderr
    done = world.restore()
    assert "pulzar up --data" in done.stderr
    world.check_restored(world.known)


def test_a_restore_says_what_it_cannot_know(world: World) -> None:
    world.fill(10)
    world.back_up()
    (part,) = (Path(world.target) / "volumes").glob("*/segments/*/*[0-9]")
    os.unlink(part)
    os.unlink(f"{part}.keys")
    done = world.restore()
    assert done.returncode == 1
    assert f"which keys are in {part.relative_to(world.target)} is not known" in done.stderr
