"""Backups of a real server: what is in them, what breaks them, and what comes back."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pulzar.backup import run as run_module
from pulzar.backup.run import snapshot_ids
from pulzar.backup.stock import listed, prune, verify
from pulzar.backup.target import open_target
from pulzar.client.process import Server
from pulzar.client.sync import Client
from pulzar.errors import BackupUnfit, BackupUnreachable, OutOfSpace, PulzarError
from tests.backup.conftest import World, content, ignore, pulzar

pytestmark = pytest.mark.slow


def test_what_was_acknowledged_before_comes_back_and_nothing_else(world: World) -> None:
    world.fill(1500)  # some segments
    world.put("large", os.urandom(3_000_000))
    world.put("empty", b"")
    world.put("gone", b"x")
    world.delete("gone")
    first = world.back_up()
    known = dict(world.known)
    world.fill(20, prefix="later")
    world.delete("k/3")
    second = world.back_up()
    assert second.copied_bytes < first.copied_bytes / 10
    assert world.restore().returncode == 0
    world.check_restored(world.known)
    done = world.restore("old", "--snapshot", first.snapshot.id)
    assert done.returncode == 0, done.stderr
    world.check_restored(known, "old")
    assert pulzar("check", str(world.path / "restored" / "volume")).returncode == 0


def test_a_restored_store_begins_a_new_epoch(world: World) -> None:
    world.put("k", b"1")
    world.back_up()
    world.put("k", b"2")  # the old store goes on
    with Client(world.server.url) as client:
        newest = client.stat("k").etag
    world.restore()
    with Server(str(world.path / "restored")) as server, Client(server.url) as client:
        etag = client.put("k", b"3").etag
    assert int(etag.strip('"'), 16) >> 40 > (int(newest.strip('"'), 16) >> 40) + 1000


def test_nothing_is_copied_twice_and_nothing_that_is_deleted_stays(world: World) -> None:
    world.fill(1500)
    world.put("large", os.urandom(2_000_000))
    world.back_up()
    before = {path: os.stat(path).st_mtime_ns for path in files(world.target)}
    world.fill(1500, prefix="more")
    world.delete("large")
    for number in range(1400):
        world.delete(f"k/{number}")
    with Client(world.server.url) as client:
        client.compact()
    world.back_up()
    again = world.back_up()
    assert again.copied_bytes == 0
    for path, written_ns in before.items():
        assert os.stat(path).st_mtime_ns == written_ns
    size = sum(os.path.getsize(path) for path in files(world.target))
    with open_target(world.target) as target:
        assert [one.id for one in listed(target)] == snapshot_ids(target)
        pruned = prune(target, 1)
        assert len(pruned.snapshots) == 2
        assert pruned.objects > 2
        assert list(verify(target, on_bytes=ignore)) == []
    assert sum(os.path.getsize(path) for path in files(world.target)) < size * 0.8
    assert world.restore().returncode == 0
    world.check_restored(world.known)


def files(directory: str) -> list[str]:
    return [
        os.path.join(root, name)
        for root, _, names in os.walk(directory)
        for name in names
        if name != "LOCK"
    ]


def test_a_backup_is_whole_while_everything_changes(world: World) -> None:
    """Writers write, compaction compacts, backups are made: each one opens, and has all that was
    acknowledged before it began."""
    world.fill(600)
    stop = threading.Event()
    acknowledged: list[tuple[str, bytes]] = []

    def write() -> None:
        number = 0
        with Client(world.server.url) as client:
            while not stop.is_set():
                key, value = f"w/{number % 50}", b"%d" % number * 700
                client.put(key, value)
                acknowledged.append((key, value))
                if number % 7 == 0:
                    client.put(f"big/{number}", value * 500)
                    acknowledged.append((f"big/{number}", value * 500))
                number += 1

    writer = threading.Thread(target=write)
    writer.start()
    promised: list[tuple[str, dict[str, bytes]]] = []
    try:
        with Client(world.server.url) as client:
            for _ in range(4):
                client.compact()
                before = {**world.known, **dict(list(acknowledged))}
                promised.append((world.back_up().snapshot.id, before))
    finally:
        stop.set()
        writer.join()
    after = dict.fromkeys(key for key, _ in acknowledged)
    for number, (snapshot, before) in enumerate(promised):
        done = world.restore(f"r{number}", "--snapshot", snapshot)
        assert done.returncode == 0, done.stderr
        options = ["--config", world.config]
        with (
            Server(str(world.path / f"r{number}"), options=options) as server,
            Client(server.url) as client,
        ):
            found = content(client)
        values = {key: {v for k, v in acknowledged if k == key} for key in after}
        for key, value in before.items():
            assert found[key] == value or found[key] in values[key]
        assert set(found) <= set(before) | set(after)
        shutil.rmtree(world.path / f"r{number}")


def test_tar_of_a_live_directory_is_a_backup(world: World) -> None:
    world.fill(300)
    stop = threading.Event()

    def write() -> None:
        with Client(world.server.url) as client:
            number = 0
            while not stop.is_set():
                client.put(f"w/{number % 20}", b"x" * 20_000)
                number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            with Client(world.server.url) as client:
                client.compact()
            tar = world.path / f"{number}.tar"
            command = ["tar", "-C", str(world.data), "--warning=no-file-changed", "-cf", str(tar)]
            done = subprocess.run([*command, "volume"], capture_output=True, check=False)
            assert done.returncode in (0, 1), done.stderr
            (world.path / f"t{number}").mkdir()
            subprocess.run(["tar", "-C", str(world.path / f"t{number}"), "-xf", tar], check=True)
    finally:
        stop.set()
        writer.join()
    for number in range(3):  # on the same boot, beside the server that it was copied from
        options = ["--config", world.config]
        with (
            Server(str(world.path / f"t{number}"), options=options) as server,
            Client(server.url) as client,
        ):
            found = content(client)
        for key, value in world.known.items():
            assert found[key] == value


def test_a_flipped_bit_is_named_and_what_it_means_is_told(world: World) -> None:
    world.fill(1200)
    world.back_up()
    parts = [path for path in files(world.target) if "segments" in path and ".keys" not in path]
    victim = max(parts, key=os.path.getsize)
    with open(victim, "r+b") as file:
        file.seek(os.path.getsize(victim) // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 4]))
    name = os.path.relpath(victim, world.target)
    done = pulzar("backup", "verify", world.target)
    assert done.returncode == 1
    assert name in done.stdout
    assert "not those that were written" in done.stdout
    done = world.restore()
    assert done.returncode == 1
    assert name in done.stderr
    options = ["--config", world.config]
    with (
        Server(str(world.path / "restored"), options=options) as server,
        Client(server.url, patience_s=0.1) as client,
    ):
        lost = 0
        for key, value in world.known.items():
            try:
                assert client.get(key) == value
            except PulzarError:
                lost += 1
    assert lost <= 2


def test_an_object_that_is_lost_is_written_anew(world: World) -> None:
    world.fill(300)
    world.put("large", os.urandom(2_000_000))
    world.back_up()
    for path in files(world.target):
        if "blobs" in path or path.endswith("keys"):
            os.unlink(path)
            break
    with open_target(world.target) as target:
        assert [wrong.what for wrong in verify(target, on_bytes=ignore)] == ["it is missing"]
    world.back_up()
    with open_target(world.target) as target:
        last = snapshot_ids(target)[-1:]
        assert [w for w in verify(target, last, on_bytes=ignore) if ".keys" not in w.object] == []
    assert world.restore().returncode == 0
    world.check_restored(world.known)


@pytest.mark.parametrize("nth", range(1, 14))
def test_a_run_that_is_killed_anywhere_spoils_nothing(
    world: World, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at the nth thing that it does to the target."""
    world.fill(700)
    world.put("large", os.urandom(1_500_000))
    first = world.back_up().snapshot.id if nth % 2 else ""
    known = dict(world.known)
    world.fill(30, prefix="later")
    code = KILLED.format(site=world.site(), target=world.target, nth=nth)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=50, check=False
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    if first:
        with open_target(world.target) as target:
            assert list(verify(target, on_bytes=ignore)) == []
        assert world.restore("first", "--snapshot", first).returncode == 0
        world.check_restored(known, "first")
    world._seconds += 100
    world.back_up()
    with open_target(world.target) as target:
        assert list(verify(target, on_bytes=ignore)) == []
        prune(target, 1)
    assert world.restore().returncode == 0
    world.check_restored(world.known)


KILLED = """
import os, signal
from datetime import UTC, datetime
from pulzar.backup import target as t
from pulzar.backup.once import Site, back_up_site
from pulzar.disk import SystemDisk
left = {nth}
def counted(work):
    def call(*given, **named):
        global left
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return work(*given, **named)
    return call
os.rename = counted(os.rename)
t._sync = counted(t._sync)
now = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
with t.open_target({target!r}) as target:
    back_up_site({site!r}, target, disk=SystemDisk(), now=now, on_size=int, on_bytes=int)
"""


def test_a_full_target_is_told_and_later_it_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.fill(200)
    world.back_up()
    world.fill(200, prefix="more")
    rename, left = os.rename, 1

    def full(source: str, to: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device", to)
        rename(source, to)

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OutOfSpace, match="prune"):
        world.back_up()
    monkeypatch.undo()
    with open_target(world.target) as target:
        assert len(snapshot_ids(target)) == 1
        assert list(verify(target, on_bytes=ignore)) == []
    world.back_up()
    assert world.restore().returncode == 0
    world.check_restored(world.known)


def test_a_target_that_goes_away_in_the_middle(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.fill(1500)
    settle = run_module.require_backup

    def away(target: Any) -> str:
        os.rename(world.target, f"{world.target}.away")
        return settle(target)

    world.back_up()
    world.fill(100, prefix="more")
    monkeypatch.setattr(run_module, "require_backup", away)
    with pytest.raises((BackupUnfit, BackupUnreachable)):
        world.back_up()
    monkeypatch.undo()
    shutil.rmtree(world.target, ignore_errors=True)
    os.rename(f"{world.target}.away", world.target)
    with open_target(world.target) as target:
        assert len(snapshot_ids(target)) == 1


def test_targets_that_are_refused(world: World, tmp_path: Path) -> None:
    world.put("k", b"v")
    with pytest.raises(BackupUnfit, match="inside the data directory"):
        world.back_up(str(world.data))
    with pytest.raises(BackupUnfit, match="inside the data directory"):
        world.back_up(str(world.data / "volume" / "x"))
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "file").write_text("mine")
    with pytest.raises(BackupUnfit, match="no backup of Pulzar"):
        world.back_up(str(tmp_path / "strange"))
    world.back_up()
    mark = Path(world.target) / "pulzar-backup.json"
    content = json.loads(mark.read_text())
    mark.write_text(json.dumps({**content, "format": 2}))
    with pytest.raises(BackupUnfit, match="has format 2"):
        world.back_up()
    mark.write_text(json.dumps({**content, "cluster": "0" * 32}))
    with pytest.raises(BackupUnfit, match="use another target"):
        world.back_up()
    mark.write_text("{")
    with pytest.raises(BackupUnfit, match="cannot be read"):
        world.back_up()
