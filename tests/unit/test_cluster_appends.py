"""Appends that a volume takes in part: what was refused must never come true."""

import asyncio
import errno
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pulzar.disk import File, SystemDisk
from pulzar.errors import OutcomeUnknown
from pulzar.testing import ManualClock
from pulzar.testing.cluster import LocalCluster
from pulzar.varidb.entry import Put, Written
from pulzar.varidb.serving import StoreOptions

SEGMENT_BYTES = 1 << 20
KEYS = tuple(b"key-%03d" % number for number in range(400))
MORE = tuple(b"more-%03d" % number for number in range(400))


class FullDisk(SystemDisk):
    """No new file finds room on it while `full`; what is allocated already may be written."""

    full = False

    def create(self, path: str, *, private: bool = False) -> File:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device", path)
        return super().create(path, private=private)


def test_what_a_full_disk_refused_never_comes_true(tmp_path: Path) -> None:
    """The append in which a segment ends is durable up to there, and then there is no room for
    another segment."""
    disk = FullDisk()

    async def life() -> None:
        cluster = LocalCluster(
            str(tmp_path),
            ManualClock(),
            volumes=1,
            disk=disk,
            options=StoreOptions(reserve_bytes=0, segment_bytes=SEGMENT_BYTES),
        )
        async with cluster:
            disk.full = True
            first = await put(cluster, KEYS)
            await cluster.until(lambda: cluster.is_online("v0"))
            second = await put(cluster, MORE)
            disk.full = False
            await cluster.stop_master()
            await cluster.start_master()
            await cluster.store.served()
            told = Counter(type(result).__name__ for result in {**first, **second}.values())
            assert told["OutcomeUnknown"], told
            assert told["OutOfSpace"], told
            for key, result in {**first, **second}.items():
                there = cluster.store.lookup(key) is not None
                if isinstance(result, Written):
                    assert there, key
                elif not isinstance(result, OutcomeUnknown):
                    assert not there, (key, result)

    asyncio.run(life())


async def put(cluster: LocalCluster, keys: Sequence[bytes]) -> dict[bytes, Written | BaseException]:
    """Write keys at once; what was answered to each."""
    writes = (cluster.store.put(Put(key, key * 500)) for key in keys)
    return dict(zip(keys, await asyncio.gather(*writes, return_exceptions=True), strict=True))
