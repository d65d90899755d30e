"""What becomes of data while the list of members changes: in one process, told step by step."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from pulzar.cluster.identity import STATE_NAME
from pulzar.cluster.membership import encode_members, renamed
from pulzar.cluster.messages import Append, Appended, SnapshotPage
from pulzar.cluster.operations import Operations
from pulzar.errors import (
    Conflict,
    LinkBroken,
    MemberRefused,
    OutcomeUnknown,
    PulzarError,
    Unavailable,
)
from pulzar.testing import ManualClock
from pulzar.testing.cluster import Gate, LocalCluster
from pulzar.varidb.entry import Delete, Put
from pulzar.varidb.record import Record, Type, epoch_of, make_version

KEYS = tuple(b"key-%d" % number for number in range(40))


@pytest.fixture(autouse=True)
def each_key_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are few keys here: they are to lie on all volumes."""
    monkeypatch.setattr("pulzar.cluster.placement.RUN_RECORDS", 1)


def number_of(cluster: LocalCluster, name: str) -> int:
    """The number of a member."""
    return next(n for n, one in cluster.store.members.items() if one.entry.name == name)


def names(cluster: LocalCluster) -> set[str]:
    """Who is a member."""
    return {entry.name for entry in cluster.store.master.list.members.members}


async def put(cluster: LocalCluster, keys: Iterable[bytes]) -> set[bytes]:
    """Write keys, each its own name; those that were acknowledged."""
    acknowledged = set()
    for key in keys:
        with contextlib.suppress(PulzarError):
            await cluster.store.put(Put(key, key * 500))
            acknowledged.add(key)
    return acknowledged


async def missing(cluster: LocalCluster, keys: Iterable[bytes]) -> set[bytes]:
    """Which of them cannot be read as they were written."""
    lost = set()
    for key in keys:
        entry = cluster.store.lookup(key)
        if entry is None or await cluster.store.read(key, entry) != key * 500:
            lost.add(key)
    return lost


async def wipe_master(cluster: LocalCluster) -> None:
    """All that it has is gone, but the key."""
    await cluster.stop_master()
    directory = Path(cluster.directory, "master")
    shutil.rmtree(directory / "catalog.views")
    (directory / STATE_NAME).unlink()


def forget_members(cluster: LocalCluster) -> None:
    """cluster.json is gone, or put back as it was; the catalog is as it was left."""
    state = Path(cluster.directory, "master", STATE_NAME)
    copy = Path(cluster.directory, "copy", STATE_NAME)
    state.unlink()
    if copy.exists():
        shutil.copy(copy, state)


async def stop(cluster: LocalCluster, *numbers: int) -> None:
    for number in numbers:
        await cluster.stop(number)


async def start(cluster: LocalCluster, *numbers: int) -> None:
    for number in numbers:
        await cluster.start(number)


def test_a_removal_of_which_no_other_volume_hears_holds(tmp_path: Path) -> None:
    """Or it is refused, and never holds: what is acknowledged then is kept either way."""

    async def life() -> None:
        async with LocalCluster(str(tmp_path), ManualClock(), volumes=2) as cluster:
            await cluster.stop(0)
            await cluster.until(lambda: not cluster.is_online("v0"))
            with contextlib.suppress(Unavailable):
                await cluster.store.master.remove(number_of(cluster, "v1"))
            acknowledged = await put(cluster, KEYS)
            await stop(cluster, 1)
            await start(cluster, 1, 0)
            await cluster.until(lambda: cluster.is_online("v0"))
            assert await missing(cluster, acknowledged) == set()
            assert names(cluster) == {"v0"}
            await cluster.until(lambda: "v1" in cluster.refused)
            members = cluster.volumes["v0"].members()
            assert members == cluster.store.master.list.members

    asyncio.run(life())


def test_the_last_volume_that_knows_the_list_is_not_removed(tmp_path: Path) -> None:
    async def life() -> None:
        async with LocalCluster(str(tmp_path), ManualClock(), volumes=1) as cluster:
            with pytest.raises(Unavailable, match="no other volume"):
                await cluster.store.master.remove(number_of(cluster, "v0"))
            acknowledged = await put(cluster, KEYS)
            assert acknowledged == set(KEYS)
            # v1 may be told of by the master alone, then it is no witness of a list without v0.
            cluster.cut_off.add("v0")
            await cluster.start(1)
            await cluster.until(lambda: names(cluster) == {"v0", "v1"})
            await cluster.until(lambda: not cluster.is_online("v0"))
            with pytest.raises(Unavailable, match="no other volume"):
                await cluster.store.master.remove(number_of(cluster, "v0"))
            assert not cluster.is_online("v1")
            cluster.cut_off.clear()
            await cluster.until(lambda: cluster.is_online("v1"))
            assert await missing(cluster, acknowledged) == set()

    asyncio.run(life())


def test_a_new_volume_is_used_when_another_one_knows_it(tmp_path: Path) -> None:
    """Else a master without memory would not wait for it."""

    async def life() -> None:
        async with LocalCluster(str(tmp_path), ManualClock(), volumes=1) as cluster:
            await cluster.stop(0)
            await cluster.until(lambda: not cluster.is_online("v0"))
            await cluster.start(1)
            await cluster.until(lambda: names(cluster) == {"v0", "v1"})
            number = number_of(cluster, "v1")
            await cluster.until(lambda: number in cluster.store.master.remarks)
            assert await put(cluster, KEYS) == set()
            await cluster.stop_master()
            await cluster.start_master()  # it remembers
            await cluster.until(lambda: number in cluster.store.master.remarks)
            assert await put(cluster, KEYS) == set()
            await cluster.start(0)
            await cluster.until(lambda: cluster.is_online("v1"))
            known = cluster.volumes["v0"].members()
            assert known is not None
            assert known.by_id(cluster.volumes["v1"].id) is not None

    asyncio.run(life())


def test_nobody_joins_a_master_that_has_not_heard_all_members(tmp_path: Path) -> None:
    async def life() -> None:
        async with LocalCluster(str(tmp_path), ManualClock(), volumes=2) as cluster:
            await cluster.stop(0)
            await cluster.until(lambda: not cluster.is_online("v0"))
            await cluster.start(2)
            await cluster.until(lambda: cluster.is_online("v2"))
            acknowledged = await put(cluster, KEYS)
            await stop(cluster, 1, 2)
            await wipe_master(cluster)
            await start(cluster, 0, 3)
            await cluster.start_master()
            await cluster.until(lambda: "v3" in cluster.refused or "v3" in names(cluster))
            await start(cluster, 1)
            await cluster.until(lambda: cluster.is_online("v1") or "v2" in names(cluster))
            await start(cluster, 2)
            await cluster.until(lambda: cluster.store.not_ready() is None)
            assert await missing(cluster, acknowledged) == set()
            await cluster.until(lambda: names(cluster) == {"v0", "v1", "v2", "v3"})
            numbers = [entry.number for entry in cluster.store.master.list.members.members]
            assert len(set(numbers)) == len(numbers)

    asyncio.run(life())


def test_the_log_of_a_removed_volume_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write of unknown outcome is on a volume that was removed since. A master without memory
    meets that volume before it meets one that knows of the removal."""
    wrote: list[str] = []

    async def append(gate: Gate, append: Append) -> Appended:
        if b"key" in [record.key for record in append.records]:
            if not wrote:
                wrote.append(gate._name)
                await gate._volume().append(append)
            raise LinkBroken("the answer does not come")
        return await gate._volume().append(append)

    async def life() -> None:
        async with LocalCluster(str(tmp_path), ManualClock(), volumes=3) as cluster:
            await stop(cluster, 1, 2)
            await cluster.until(lambda: not cluster.is_online("v1") and not cluster.is_online("v2"))
            assert await put(cluster, [b"key"]) == {b"key"}
            await start(cluster, 1, 2)
            await cluster.until(lambda: cluster.is_online("v1") and cluster.is_online("v2"))
            await cluster.stop(0)
            await cluster.until(lambda: not cluster.is_online("v0"))
            with monkeypatch.context() as patch:
                patch.setattr(Gate, "append", append)
                with pytest.raises(OutcomeUnknown):
                    await cluster.store.put(Put(b"key", b"never told" * 500))
                (removed,) = wrote
                await cluster.store.master.remove(number_of(cluster, removed))
            witness = {"v1": 2, "v2": 1}[removed]
            await cluster.until(lambda: cluster.is_online(f"v{witness}"))
            known = cluster.volumes[f"v{witness}"].members
            await cluster.until(lambda: known() == cluster.store.master.list.members)
            await cluster.stop(witness)
            await wipe_master(cluster)
            await cluster.start_master()
            await cluster.start(0)
            master = cluster.store.master
            await cluster.until(
                lambda: (
                    len(master.remarks) == 2
                    or (cluster.is_online("v0") and cluster.is_online(removed))
                )
            )
            await cluster.until(lambda: not cluster.store.repair.doing())
            await cluster.start(witness)
            await cluster.until(lambda: cluster.store.not_ready() is None)
            assert names(cluster) == {"v0", f"v{witness}"}
            assert await missing(cluster, [b"key"]) == set()

    asyncio.run(life())


def test_a_copy_on_a_volume_that_is_removed_meanwhile_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = asyncio.Event()
    go_on = asyncio.Event()

    async def append(gate: Gate, append: Append) -> Appended:
        if gate._name == "v1" and b"key" in [record.key for record in append.records]:
            held.set()
            await go_on.wait()
            raise LinkBroken("it is gone")
        return await gate._volume().append(append)

    async def life() -> None:
        cluster = LocalCluster(str(tmp_path), ManualClock(), volumes=2, replicas=2)
        async with cluster:
            monkeypatch.setattr(Gate, "append", append)
            writing = asyncio.create_task(cluster.store.put(Put(b"key", os.urandom(3000))))
            await held.wait()
            there = cluster.volumes["v0"].serving.volume.index
            await cluster.until(lambda: there.get(b"key") is not None)
            removing = asyncio.create_task(cluster.store.master.remove(number_of(cluster, "v0")))
            await cluster.until(lambda: names(cluster) == {"v1"})
            go_on.set()
            await removing
            with pytest.raises(OutcomeUnknown):
                await writing
            assert cluster.store.lookup(b"key") is None

    asyncio.run(life())


@pytest.mark.parametrize("put_back", [False, True], ids=["gone", "an older one"])
def test_a_catalog_is_not_believed_without_its_list_of_members(
    tmp_path: Path, put_back: bool
) -> None:
    """Its cursors would be taken for memory: then nobody waits for those who are not heard."""

    async def life() -> None:
        async with LocalCluster(str(tmp_path), ManualClock(), volumes=2) as cluster:
            if put_back:
                (tmp_path / "copy").mkdir()
                shutil.copy(tmp_path / "master" / STATE_NAME, tmp_path / "copy")
            await cluster.stop(1)
            await cluster.until(lambda: not cluster.is_online("v1"))
            await cluster.start(2)
            await cluster.until(lambda: cluster.is_online("v2"))
            acknowledged = await put(cluster, KEYS)
            await stop(cluster, 0, 2)
            await cluster.stop_master()
            forget_members(cluster)
            await cluster.start_master()
            await start(cluster, 1)  # it never heard of v2
            await cluster.until(lambda: names(cluster) == {"v0", "v1"})
            await start(cluster, 3)
            await cluster.until(lambda: "v3" in cluster.refused or "v3" in names(cluster))
            await start(cluster, 0, 2)
            await cluster.until(lambda: names(cluster) == {"v0", "v1", "v2", "v3"})
            await cluster.until(lambda: cluster.store.not_ready() is None)
            assert await missing(cluster, acknowledged) == set()
            assert len({one.number for one in cluster.store.master.list.members.members}) == 4

    asyncio.run(life())


def test_two_lists_of_one_generation_are_told_of(tmp_path: Path) -> None:
    async def life() -> None:
        async with LocalCluster(str(tmp_path), ManualClock(), volumes=2) as cluster:
            master = cluster.store.master
            other = renamed(master.list.members, cluster.volumes["v1"].id, "another")
            other = msgspec.structs.replace(other, generation=master.list.members.generation)
            presence = cluster.volumes["v1"].presence()
            presence = msgspec.structs.replace(presence, members=encode_members(other))
            with pytest.raises(MemberRefused, match="two lists of members"):
                await master.heartbeat(presence, "v1")

    asyncio.run(life())


def test_a_comparison_ends_with_the_membership(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a volume has that was never told, it may not tell when it is a member no more."""
    held = asyncio.Event()
    go_on = asyncio.Event()

    async def snapshot(gate: Gate, after: bytes, *, limit: int) -> SnapshotPage:
        held.set()
        await go_on.wait()
        return await gate._volume().snapshot(after, limit=limit)

    async def life() -> None:
        async with LocalCluster(str(tmp_path), ManualClock(), volumes=2) as cluster:
            number = number_of(cluster, "v1")
            repair = cluster.store.repair
            await cluster.until(lambda: not repair.doing())
            version = make_version(cluster.store.master.epoch, 1 << 30)
            never_told = Record(type=Type.PUT, key=b"ghost", value=b"x", version=version)
            await cluster.volumes["v1"].serving.committer.write(never_told)
            monkeypatch.setattr(Gate, "snapshot", snapshot)
            repair.returned(cluster.store.members[number])
            await held.wait()
            await cluster.store.master.remove(number)
            go_on.set()
            await cluster.until(lambda: not repair._comparing)
            assert cluster.store.lookup(b"ghost") is None

    asyncio.run(life())


def test_a_copy_that_is_being_hidden_is_not_counted_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys move to a new volume, which is removed before they are hidden where they were."""
    monkeypatch.setattr("pulzar.cluster.placement.BALANCE_FILL_MIN", 0.0)
    held = asyncio.Event()
    go_on = asyncio.Event()

    async def append(gate: Gate, append: Append) -> Appended:
        if any(record.type == Type.MOVED for record in append.records):
            held.set()
            await go_on.wait()
        return await gate._volume().append(append)

    async def life() -> None:
        async with LocalCluster(str(tmp_path), ManualClock(), volumes=1) as cluster:
            acknowledged = await put(cluster, KEYS)
            monkeypatch.setattr(Gate, "append", append)
            await cluster.start(1)
            await held.wait()
            operations = Operations(cluster.store, clock=cluster.clock)
            removing = asyncio.create_task(operations.remove("v1", lost=False, dry_run=False))
            await asyncio.wait([removing], timeout=0.2)
            go_on.set()
            with pytest.raises(Conflict, match="the only copy"):
                await removing
            assert await missing(cluster, acknowledged) == set()

    asyncio.run(life())


def test_a_volume_stays_while_only_it_knows_what_was_deleted(tmp_path: Path) -> None:
    """Who missed the delete has the key yet, and a master without memory would show it again."""

    async def life() -> None:
        async with LocalCluster(str(tmp_path), ManualClock(), volumes=3) as cluster:
            await stop(cluster, 1, 2)
            await cluster.until(lambda: not cluster.is_online("v1") and not cluster.is_online("v2"))
            await put(cluster, KEYS)
            await cluster.stop(0)
            await start(cluster, 1)
            await cluster.until(lambda: cluster.is_online("v1") and not cluster.is_online("v0"))
            for key in KEYS:
                await cluster.store.delete(Delete(key))
            await start(cluster, 2)
            await cluster.until(lambda: cluster.is_online("v2"))
            operations = Operations(cluster.store, clock=cluster.clock)
            await cluster.until(lambda: not cluster.store.repair.doing())
            with pytest.raises(Conflict, match="deleted while v0 was away"):
                await operations.remove("v1", lost=False, dry_run=False)
            await start(cluster, 0)
            await cluster.until(lambda: cluster.store.repair.is_settled(number_of(cluster, "v0")))
            await operations.remove("v1", lost=False, dry_run=False)
            await stop(cluster, 1)
            await wipe_master(cluster)
            await cluster.start_master()
            await cluster.until(lambda: cluster.store.not_ready() is None)
            assert [key for key in KEYS if cluster.store.lookup(key) is not None] == []

    asyncio.run(life())


def test_an_epoch_that_is_used_up_is_followed_by_one_that_is_kept(tmp_path: Path) -> None:
    """Else the versions of that one would be given again by the next master."""

    async def life() -> None:
        async with LocalCluster(str(tmp_path), ManualClock(), volumes=1) as cluster:
            epoch = cluster.store.master.epoch
            cluster.store.writer._version = make_version(epoch + 1, 0) - 2
            versions = [(await cluster.store.put(Put(key, key * 500))).version for key in KEYS]
            assert [epoch_of(version) for version in versions] == [epoch] + [epoch + 1] * 39
            assert sorted(set(versions)) == versions
            await cluster.stop_master()
            await cluster.start_master()
            assert cluster.store.master.epoch > epoch + 1
            await cluster.until(lambda: cluster.is_online("v0"))
            assert (await cluster.store.put(Put(b"key", b"x"))).version > versions[-1]
            assert await missing(cluster, KEYS) == set()

    asyncio.run(life())


def test_a_drain_is_remembered_by_the_volumes_and_can_be_stopped(tmp_path: Path) -> None:
    async def life() -> None:
        async with LocalCluster(str(tmp_path), ManualClock(), volumes=2) as cluster:
            acknowledged = await put(cluster, KEYS)
            operations = Operations(cluster.store, clock=cluster.clock)
            await operations.drain("v1", stop=False, dry_run=False)
            with pytest.raises(Conflict, match="no other volume"):
                await operations.drain("v0", stop=False, dry_run=False)
            await cluster.until(lambda: operations.node("v1").keys == 0)
            await wipe_master(cluster)
            await cluster.start_master()
            await cluster.until(lambda: cluster.is_online("v0") and cluster.is_online("v1"))
            operations = Operations(cluster.store, clock=cluster.clock)
            assert operations.node("v1").draining
            await operations.drain("v1", stop=True, dry_run=False)
            assert not operations.node("v1").draining
            for key in KEYS:
                await cluster.store.delete(Delete(key))
            await put(cluster, KEYS)
            assert operations.node("v1").keys
            assert await missing(cluster, acknowledged) == set()

    asyncio.run(life())


def test_it_is_said_when_a_drain_lowers_the_copies(tmp_path: Path) -> None:
    async def life() -> None:
        async with LocalCluster(str(tmp_path), ManualClock(), volumes=2, replicas=2) as cluster:
            await put(cluster, KEYS)
            operations = Operations(cluster.store, clock=cluster.clock)
            would = await operations.drain("v1", stop=False, dry_run=True)
            assert would.keys_under_replicated == len(KEYS)
            assert "too few volumes are left then for 40 keys" in would.sentence
            would = await operations.remove("v1", lost=False, dry_run=True)
            assert (would.keys_only_here, would.keys_under_replicated) == (0, 40)

    asyncio.run(life())


def test_what_is_not_known_of_a_volume_is_said(tmp_path: Path) -> None:
    """A master without memory never followed it: what it holds is not nothing."""

    async def life() -> None:
        async with LocalCluster(str(tmp_path), ManualClock(), volumes=2) as cluster:
            await put(cluster, KEYS)
            await cluster.stop(1)
            await wipe_master(cluster)
            await cluster.start_master()
            await cluster.until(lambda: names(cluster) == {"v0", "v1"})
            operations = Operations(cluster.store, clock=cluster.clock)
            would = await operations.remove("v1", lost=True, dry_run=True)
            assert "what it holds, which is not known here" in would.loses
            with pytest.raises(Conflict, match="not known here"):
                await operations.remove("v1", lost=False, dry_run=False)
            assert operations.health().redundancy == 0
            assert operations.health().status == "critical"

    asyncio.run(life())
