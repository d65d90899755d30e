"""Which volume is meant: by the address where it was last, by a name that two have."""

import asyncio
import shutil
from pathlib import Path

import pytest

from pulzar.cluster.operations import Operations
from pulzar.errors import Conflict
from pulzar.limits import OFFLINE_S
from pulzar.testing import ManualClock
from pulzar.testing.cluster import LocalCluster
from pulzar.varidb.entry import Put


def test_a_master_that_was_restarted_does_not_wait_for_heartbeats(tmp_path: Path) -> None:
    async def life() -> None:
        async with LocalCluster(str(tmp_path), ManualClock(), volumes=2) as cluster:
            await cluster.stop_master()
            cluster.silent |= {"v0", "v1"}
            await cluster.start_master()
            await cluster.until(lambda: cluster.is_online("v0") and cluster.is_online("v1"))

    asyncio.run(life())


def test_a_master_that_was_restarted_does_not_take_another_volume_for_a_member(
    tmp_path: Path,
) -> None:
    async def life() -> None:
        async with LocalCluster(str(tmp_path), ManualClock(), volumes=2) as cluster:
            await cluster.stop_master()
            cluster.silent.add("v1")
            await cluster.stop(1)
            shutil.move(tmp_path / "v1", tmp_path / "old-v1")
            await cluster.start(1)  # at the address of the volume that was there, but new
            await cluster.start_master()
            await cluster.until(lambda: cluster.is_online("v0"))
            greeting = cluster.store.master._greeting
            await cluster.until(lambda: greeting is not None and greeting.done())
            assert len(cluster.store.members) == 2
            assert not cluster.is_online("v1")

    asyncio.run(life())


def test_of_two_volumes_with_one_name_the_id_says_which(tmp_path: Path) -> None:
    clock = ManualClock()

    async def life() -> None:
        async with LocalCluster(str(tmp_path), clock, volumes=2, replicas=2) as cluster:
            await cluster.store.put(Put(b"key", b"value"))
            old = cluster.volumes["v1"].id
            await cluster.stop(1)
            shutil.rmtree(tmp_path / "v1")
            clock.advance(OFFLINE_S)
            await cluster.start(1)
            await cluster.until(lambda: len(cluster.store.members) == 3)
            await cluster.until(lambda: cluster.is_online("v1"))
            await cluster.until(lambda: not cluster.store.repair.doing())
            operations = Operations(cluster.store, clock=clock)
            with pytest.raises(Conflict, match=old):
                await operations.remove("v1", lost=False, dry_run=True)
            with pytest.raises(Conflict, match=old):
                await operations.drain("v1", stop=False, dry_run=True)
            assert operations.node("v1").id == cluster.volumes["v1"].id
            assert "no word" in operations.node(old).remark
            await operations.remove(old, lost=True, dry_run=False)
            assert (await operations.drain("v1", stop=False, dry_run=True)).sentence

    asyncio.run(life())
