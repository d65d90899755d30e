"""A whole store on a disk of which one operation fails: what its callers see.

Each operation is answered, or raises a PulzarError; an error that says "may or may not have
happened" is the only one behind which something did. Reads stay true throughout. A store that
takes no more writes says why, in `not_ready`, and a new process on the same disk has everything.
The views are real files beside the simulated disk; they outlive the death of the process.
"""

import asyncio
import errno
import shutil
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pulzar.errors import Damage, OutcomeUnknown, PulzarError, Unavailable
from pulzar.limits import MIB
from pulzar.testing import Fault, FaultPlan, ManualClock, SimulatedDisk
from pulzar.varidb.entry import Delete, Put
from pulzar.varidb.serving import StoreOptions
from pulzar.varidb.store import LocalStore, open_store

SEED = 22
OPTIONS = StoreOptions(reserve_bytes=0, segment_bytes=MIB)
PARTS = 5
LARGE = bytes(range(256)) * 5000  # a blob


class Client:
    """Talks to one store after another, and remembers what it was told."""

    def __init__(self) -> None:
        self.known: dict[bytes, bytes | None] = {}
        self.possible: dict[bytes, set[bytes | None]] = {}

    async def put(self, store: LocalStore, key: bytes, value: bytes) -> None:
        await self._write(key, value, store.put(Put(key, value)))

    async def delete(self, store: LocalStore, key: bytes) -> None:
        await self._write(key, None, store.delete(Delete(key)))

    async def upload(self, store: LocalStore, key: bytes, value: bytes) -> None:
        async def steps() -> object:
            upload = await store.upload()
            try:
                for at in range(0, len(value), 500_000):
                    await upload.write(value[at : at + 500_000])
                await upload.finish()
            except PulzarError:
                await upload.abort()
                raise
            return await store.put_upload(Put(key, b""), upload)

        await self._write(key, value, steps())

    async def batch(self, store: LocalStore, values: dict[bytes, bytes]) -> None:
        results = await store.batch([Put(key, value) for key, value in values.items()])
        for (key, value), result in zip(values.items(), results, strict=True):
            self._answered(key, value, result)

    async def check(self, store: LocalStore, *, settled: bool) -> None:
        """Every key has a value that it may have; with `settled` that is its value from now on."""
        for key in self.known.keys() | self.possible.keys():
            try:
                seen = await read(store, key)
            except Unavailable:
                assert not settled
                continue
            if seen != self.known.get(key):
                assert seen in self.possible.get(key, ()), (key, seen and seen[:40])
            if settled:
                self.known[key] = seen
                self.possible.pop(key, None)

    async def _write(self, key: bytes, value: bytes | None, work: Awaitable[object]) -> None:
        try:
            result = await work
        except PulzarError as error:
            result = error
        self._answered(key, value, result)

    def _answered(self, key: bytes, value: bytes | None, result: object) -> None:
        if isinstance(result, OutcomeUnknown):
            self.possible.setdefault(key, set()).add(value)
        elif isinstance(result, PulzarError):
            assert not isinstance(result, Damage)
        else:
            assert not isinstance(result, Exception)
            self.known[key] = value


async def read(store: LocalStore, key: bytes) -> bytes | None:
    entry = store.lookup(key)
    if entry is None:
        return None
    if entry.size > MIB:
        return b"".join([c async for c in store.chunks(key, entry, start=0, end=entry.size)])
    return await store.read(key, entry)


async def write_a_while(store: LocalStore, client: Client) -> None:
    await client.put(store, b"small", b"1")
    await client.put(store, b"large", b"2" * 5000)
    await asyncio.gather(*(client.put(store, b"n%d" % n, b"%d" % n) for n in range(5)))
    await client.upload(store, b"blob", LARGE)
    await client.delete(store, b"small")
    await client.batch(store, {b"b%d" % n: b"%d" % n * 900 for n in range(5)})
    for n in range(6):  # several segments
        await client.put(store, b"filler", b"%d" % n * 300_000)
    await client.upload(store, b"blob", LARGE[::-1])


@asynccontextmanager
async def opened(disk: SimulatedDisk, directory: str) -> AsyncIterator[LocalStore]:
    store = await open_store(directory, disk=disk, clock=ManualClock(), options=OPTIONS)
    try:
        yield store
    finally:
        await end(store.close())


async def end(closing: Awaitable[None]) -> None:
    """A disk that fails may fail at the very end too."""
    try:
        await closing
    except (OSError, PulzarError):
        return


async def live_with(plan: FaultPlan, disk: SimulatedDisk, directory: str) -> None:
    """A store's life, with a fault in its first process."""
    client = Client()
    disk.faults = plan
    try:
        async with opened(disk, directory) as store:
            await write_a_while(store, client)
            await client.check(store, settled=False)
            if reason := store.not_ready():
                with pytest.raises(PulzarError) as stopped:
                    await store.put(Put(b"no", b"more"))
                assert stopped.value.status == 503, reason
    except PulzarError:
        assert plan.fired, "it did not open, though nothing had failed"
    disk.faults = None
    disk.kill()
    async with opened(disk, directory) as store:
        assert store.not_ready() is None
        await client.check(store, settled=True)
        await client.put(store, b"after", b"all")
        disk.power_loss()
    for views in ("volume.views", "catalog.views"):  # the machine takes them with it
        shutil.rmtree(f"{directory}/{views}")
    async with opened(disk, directory) as store:
        await client.check(store, settled=True)
        assert await read(store, b"after") == b"all"


FAULTS = {
    "EIO": (errno.EIO, False),
    "half of it, then ENOSPC": (errno.ENOSPC, True),
}


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("fault", FAULTS)
def test_callers_are_told_the_truth_when_an_operation_fails_with(
    fault: str, part: int, tmp_path: Path
) -> None:
    error, short = FAULTS[fault]
    nth = 1 + part
    while True:
        directory = str(tmp_path / f"{nth}")
        # Not the directories above: nobody can know whether a second sync of one, in another
        # process, makes up for the first.
        path = f"{directory}/volume*"
        plan = FaultPlan(Fault(nth=nth, error=error, short=short, path=path))
        asyncio.run(live_with(plan, SimulatedDisk(SEED), directory))
        if not plan.fired:
            break
        nth += PARTS
    assert nth > 80, "the life of the store was too short"
