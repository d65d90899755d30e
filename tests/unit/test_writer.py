"""The writer: a batch of which the end is refused says nothing of its beginning too early."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from pulzar.disk import SystemDisk
from pulzar.errors import PulzarError, WritesStopped
from pulzar.testing import ManualClock
from pulzar.varidb.catalog import Catalog
from pulzar.varidb.commit import Write
from pulzar.varidb.disk_room import DiskRoom
from pulzar.varidb.entry import Put, Written
from pulzar.varidb.writer import Writer


class StoppingCommitter:
    """Takes one wave, which the test finishes, and refuses the others."""

    def __init__(self) -> None:
        self.taken: list[Write] = []

    def submit_many(self, writes: Sequence[Write]) -> None:
        if self.taken:
            raise WritesStopped("the volume takes no more writes")
        self.taken.extend(writes)


def test_a_batch_waits_for_what_was_taken_when_its_end_is_refused(tmp_path: Path) -> None:
    async def life() -> None:
        clock, committer = ManualClock(), StoppingCommitter()
        catalog = Catalog.open(str(tmp_path), identity=b"v", map_bytes=16 << 20)
        room = DiskRoom(SystemDisk(), str(tmp_path), clock=clock, reserve_bytes=0)
        writer = Writer(catalog, committer, clock=clock, epoch=1, room=room)
        await writer.turns.take(b"hot")  # somebody else writes it
        batch = asyncio.create_task(writer.many([Put(b"a", b"1"), Put(b"hot", b"2")]))
        await asyncio.sleep(0)
        writer.turns.give(b"hot")
        for _ in range(5):
            await asyncio.sleep(0)
        assert not batch.done(), "answered before the first write is durable"
        committer.taken[0].finish(None)
        first, second = await batch
        assert isinstance(first, Written)
        assert isinstance(second, PulzarError)
        catalog.close(clean=False)

    asyncio.run(life())
