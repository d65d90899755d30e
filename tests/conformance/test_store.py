"""What every `pulzar.varidb.entry.Store` promises, as scenarios; run on each implementation.

`STORES` names the factories. A factory is given an empty directory and a clock, and is an open
store for as long as it is entered.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from pulzar.disk import SystemDisk
from pulzar.errors import ConditionFailed, KeyNotFound, PulzarError, ValueTooLarge
from pulzar.limits import INLINE_BYTES_MAX, KEY_BYTES_MAX, MIB, SEGMENT_VALUE_BYTES_MAX
from pulzar.testing import ManualClock
from pulzar.testing.cluster import LocalCluster
from pulzar.testing.memory_store import MemoryStore
from pulzar.varidb.condition import Condition
from pulzar.varidb.entry import Delete, Entry, Get, Got, Put, Store, Written
from pulzar.varidb.serving import StoreOptions
from pulzar.varidb.store import open_store

Factory = Callable[[str, ManualClock], AbstractAsyncContextManager[Store]]


@asynccontextmanager
async def memory_store(_: str, clock: ManualClock) -> AsyncIterator[Store]:
    store = MemoryStore(clock)
    yield store
    await store.close()


@asynccontextmanager
async def local_store(directory: str, clock: ManualClock) -> AsyncIterator[Store]:
    options = StoreOptions(reserve_bytes=0)
    store = await open_store(directory, disk=SystemDisk(), clock=clock, options=options)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def cluster_store(directory: str, clock: ManualClock) -> AsyncIterator[Store]:
    async with LocalCluster(directory, clock, volumes=3, replicas=2) as cluster:
        yield cluster.store


STORES: list[Factory] = [memory_store, local_store, cluster_store]


@asynccontextmanager
async def opened(factory: Factory, directory: Path) -> AsyncIterator[tuple[Store, ManualClock]]:
    clock = ManualClock()
    async with factory(str(directory / "data"), clock) as store:
        yield store, clock


@pytest.fixture(params=STORES, ids=lambda factory: factory.__name__)
def factory(request: pytest.FixtureRequest) -> Factory:
    chosen: Factory = request.param
    return chosen


async def live(store: Store, key: bytes) -> Entry | None:
    entry = store.lookup(key)
    return None if entry is None else await store.confirm(key, entry)


async def value_of(store: Store, key: bytes) -> bytes:
    entry = await live(store, key)
    assert entry is not None
    if entry.size > SEGMENT_VALUE_BYTES_MAX:
        return b"".join([c async for c in store.chunks(key, entry, start=0, end=entry.size)])
    return await store.read(key, entry)


async def put_large(store: Store, key: bytes, value: bytes) -> Written:
    upload = await store.upload()
    for at in range(0, len(value), 300_000):
        await upload.write(value[at : at + 300_000])
    await upload.finish()
    assert upload.size == len(value)
    return await store.put_upload(Put(key, b"", "text/x"), upload)


class TestStore:
    def run(
        self,
        scenario: Callable[[Store, ManualClock], Awaitable[None]],
        factory: Factory,
        directory: Path,
    ) -> None:
        async def main() -> None:
            async with opened(factory, directory) as (store, clock):
                await scenario(store, clock)

        asyncio.run(main())

    @pytest.mark.parametrize(
        "size", [0, 1, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, SEGMENT_VALUE_BYTES_MAX]
    )
    def test_a_value_of_any_size_is_read_back(
        self, factory: Factory, tmp_path: Path, size: int
    ) -> None:
        async def scenario(store: Store, clock: ManualClock) -> None:
            value = bytes(range(256)) * (size // 256 + 1)
            value = value[:size]
            written = await store.put(Put(b"k", value, "text/plain"))
            assert written.created
            assert (written.size, written.expires_s) == (size, 0)
            assert written.copies == written.wanted >= 1
            entry = await live(store, b"k")
            assert entry is not None
            assert entry.version == written.version
            assert (entry.size, entry.content_type) == (size, "text/plain")
            assert entry.created_ms == clock.now_ms()
            assert await value_of(store, b"k") == value

        self.run(scenario, factory, tmp_path)

    def test_a_put_replaces_and_versions_grow(self, factory: Factory, tmp_path: Path) -> None:
        async def scenario(store: Store, clock: ManualClock) -> None:
            first = await store.put(Put(b"k", b"one", "text/plain", expires_s=9_999_999_999))
            clock.step_wall(-1000)  # order is by version, not by a clock
            second = await store.put(Put(b"k", b"two"))
            assert not second.created
            assert second.version > first.version
            entry = await live(store, b"k")
            assert entry is not None
            assert (entry.version, entry.expires_s, entry.content_type) == (second.version, 0, "")
            assert await value_of(store, b"k") == b"two"
            gone = await store.delete(Delete(b"k"))
            third = await store.put(Put(b"k", b"three"))
            assert third.created
            assert second.version < gone.version < third.version

        self.run(scenario, factory, tmp_path)

    def test_a_deleted_key_is_gone(self, factory: Factory, tmp_path: Path) -> None:
        async def scenario(store: Store, clock: ManualClock) -> None:
            with pytest.raises(KeyNotFound):
                await store.delete(Delete(b"k"))
            await store.put(Put(b"k", b"v"))
            await store.delete(Delete(b"k"))
            assert await live(store, b"k") is None
            with pytest.raises(KeyNotFound):
                await store.delete(Delete(b"k"))
            assert store.status().entries == 0

        self.run(scenario, factory, tmp_path)

    def test_conditions_are_exact(self, factory: Factory, tmp_path: Path) -> None:
        async def scenario(store: Store, clock: ManualClock) -> None:
            create_only = Condition(none_match_any=True)
            with pytest.raises(ConditionFailed):
                await store.put(Put(b"k", b"v", condition=Condition(match_any=True)))
            with pytest.raises(ConditionFailed):
                await store.delete(Delete(b"k", Condition(match_any=True)))
            first = await store.put(Put(b"k", b"v1", condition=create_only))
            with pytest.raises(ConditionFailed):
                await store.put(Put(b"k", b"v2", condition=create_only))
            held = Condition(match=(1, first.version))
            second = await store.put(Put(b"k", b"v3", condition=held))
            for refused in (held, Condition(match=()), Condition(none_match=(second.version,))):
                with pytest.raises(ConditionFailed):
                    await store.put(Put(b"k", b"v4", condition=refused))
                with pytest.raises(ConditionFailed):
                    await store.delete(Delete(b"k", refused))
            assert await value_of(store, b"k") == b"v3"
            await store.delete(Delete(b"k", Condition(none_match=(first.version,))))
            assert (await store.put(Put(b"k", b"v5", condition=create_only))).created

        self.run(scenario, factory, tmp_path)

    def test_of_many_writers_that_create_one_wins(self, factory: Factory, tmp_path: Path) -> None:
        async def scenario(store: Store, clock: ManualClock) -> None:
            create_only = Condition(none_match_any=True)
            puts = [Put(b"k", b"%d" % n, condition=create_only) for n in range(50)]
            results = await asyncio.gather(*map(store.put, puts), return_exceptions=True)
            won = [n for n, result in enumerate(results) if isinstance(result, Written)]
            assert len(won) == 1
            assert all(isinstance(r, Written | ConditionFailed) for r in results)
            assert await value_of(store, b"k") == b"%d" % won[0]

        self.run(scenario, factory, tmp_path)

    def test_an_expired_key_is_gone_and_stays_gone(self, factory: Factory, tmp_path: Path) -> None:
        async def scenario(store: Store, clock: ManualClock) -> None:
            ends_s = clock.now_ms() // 1000 + 10
            for key in (b"a", b"b", b"c", b"d"):
                written = await store.put(Put(key, b"v", expires_s=ends_s))
                assert written.expires_s == ends_s
            clock.advance(9.9)
            assert await live(store, b"a") is not None
            clock.advance(0.1)
            assert await live(store, b"a") is None
            clock.step_wall(-3600)  # nothing comes back
            assert await live(store, b"a") is None
            clock.step_wall(3600)
            assert (await store.put(Put(b"b", b"new", condition=CREATE))).created
            with pytest.raises(KeyNotFound):
                await store.delete(Delete(b"c"))
            listing = store.list_keys(b"", after=None, limit=10, delimiter=None)
            assert [key for key, _ in listing.entries] == [b"b"]

        self.run(scenario, factory, tmp_path)

    def test_a_key_that_had_expired_for_a_condition_stays_gone(
        self, factory: Factory, tmp_path: Path
    ) -> None:
        async def scenario(store: Store, clock: ManualClock) -> None:
            ends_s = clock.now_ms() // 1000 + 10
            there = Condition(match_any=True)
            for key in (b"put", b"delete", b"batch", b"upload"):
                await store.put(Put(key, b"v", expires_s=ends_s))
            upload = await store.upload(size=2 * MIB)
            await upload.write(bytes(2 * MIB))
            await upload.finish()
            clock.advance(10)
            with pytest.raises(ConditionFailed):
                await store.put(Put(b"put", b"new", condition=there))
            with pytest.raises(ConditionFailed):
                await store.delete(Delete(b"delete", there))
            (failed,) = await store.batch([Put(b"batch", b"new", condition=there)])
            assert isinstance(failed, ConditionFailed)
            with pytest.raises(ConditionFailed):
                await store.put_upload(Put(b"upload", b"", condition=there), upload)
            clock.step_wall(-3600)
            for key in (b"put", b"delete", b"batch", b"upload"):
                assert await live(store, key) is None, key

        self.run(scenario, factory, tmp_path)

    def test_a_large_value_is_streamed(self, factory: Factory, tmp_path: Path) -> None:
        async def scenario(store: Store, clock: ManualClock) -> None:
            value = bytes(range(251)) * (3 * MIB // 251)
            written = await put_large(store, b"big", value)
            assert written.created
            assert written.size == len(value)
            entry = await live(store, b"big")
            assert entry is not None
            assert entry.content_type == "text/x"
            assert await value_of(store, b"big") == value
            for start, end in (
                (0, 1),
                (MIB - 1, MIB + 1),
                (5, 5 + 2 * MIB),
                (len(value) - 1, None),
            ):
                stop = len(value) if end is None else end
                part = [c async for c in store.chunks(b"big", entry, start=start, end=stop)]
                assert b"".join(part) == value[start:stop]

        self.run(scenario, factory, tmp_path)

    def test_an_upload_counts_only_when_it_is_put(self, factory: Factory, tmp_path: Path) -> None:
        async def scenario(store: Store, clock: ManualClock) -> None:
            await store.put(Put(b"k", b"old"))
            upload = await store.upload()
            await upload.write(bytes(2 * MIB))
            await upload.abort()
            assert await value_of(store, b"k") == b"old"
            # The condition is decided when the bytes are there, not when they began to come.
            upload = await store.upload()
            await upload.write(bytes(2 * MIB))
            before = (await store.put(Put(b"k", b"newer"))).version
            await upload.finish()
            with pytest.raises(ConditionFailed):
                await store.put_upload(
                    Put(b"k", b"", condition=Condition(none_match_any=True)), upload
                )
            assert await value_of(store, b"k") == b"newer"
            assert (await put_large(store, b"k", bytes(2 * MIB))).version > before

        self.run(scenario, factory, tmp_path)

    def test_a_batch_is_done_in_order(self, factory: Factory, tmp_path: Path) -> None:
        async def scenario(store: Store, clock: ManualClock) -> None:
            await put_large(store, b"big", bytes(2 * MIB))
            results = await store.batch(
                [
                    Put(b"a", b"1", "text/plain"),
                    Get(b"a"),
                    Put(b"a", b"2"),
                    Put(b"a", b"3", condition=CREATE),
                    Get(b"a"),
                    Delete(b"a"),
                    Get(b"a"),
                    Delete(b"a"),
                    Get(b"big"),
                    Put(b"b", b"4"),
                    Get(b"b", Condition(none_match_any=True)),
                ]
            )
            kinds = [type(result) for result in results]
            assert kinds == [
                Written,
                Got,
                Written,
                ConditionFailed,
                Got,
                Written,
                KeyNotFound,
                KeyNotFound,
                ValueTooLarge,
                Written,
                ConditionFailed,
            ]
            got = [result for result in results if isinstance(result, Got)]
            assert [one.value for one in got] == [b"1", b"2"]
            assert got[0].entry.content_type == "text/plain"
            written = [result for result in results if isinstance(result, Written)]
            assert [one.created for one in written] == [True, False, False, True]
            assert await store.batch([]) == []
            assert all(isinstance(r, Written | Got | PulzarError) for r in results)

        self.run(scenario, factory, tmp_path)

    def test_pages_have_every_key_once_in_byte_order(
        self, factory: Factory, tmp_path: Path
    ) -> None:
        async def scenario(store: Store, clock: ManualClock) -> None:
            keys = [b"a", b"a/1", b"a/2", b"a/b/c", b"a!", b"b/1", "é/x".encode(), b"zz", b" "]
            keys.append(b"k" * KEY_BYTES_MAX)
            for key in keys:
                await store.put(Put(key, b"v"))
            for limit in (1, 2, 3, 100):
                assert pages(store, b"", limit, None) == [(key, None) for key in sorted(keys)]
                assert pages(store, b"a/", limit, None) == [
                    (b"a/1", None),
                    (b"a/2", None),
                    (b"a/b/c", None),
                ]
                assert pages(store, b"a", limit, b"/") == [
                    (b"a", None),
                    (b"a!", None),
                    (None, b"a/"),
                ]
                assert pages(store, b"a/", limit, b"/") == [
                    (b"a/1", None),
                    (b"a/2", None),
                    (None, b"a/b/"),
                ]
                assert pages(store, b"nothing", limit, b"/") == []
            listing = store.list_keys(b"", after=b"a/1", limit=2, delimiter=None)
            assert [key for key, _ in listing.entries] == [b"a/2", b"a/b/c"]

        self.run(scenario, factory, tmp_path)

    def test_it_tells_of_itself(self, factory: Factory, tmp_path: Path) -> None:
        async def scenario(store: Store, clock: ManualClock) -> None:
            assert store.not_ready() is None
            await store.put(Put(b"a", b"1"))
            await store.put(Put(b"b", b"1"))
            await store.put(Put(b"b", b"2"))
            await store.delete(Delete(b"a"))
            assert store.status().entries == 1
            statistics = store.statistics()
            assert statistics["puts_total"] == 3
            assert statistics["deletes_total"] == 1
            assert statistics["keys"] == 1
            done = await store.compact()
            assert all(isinstance(count, int) for count in done.values())
            assert await value_of(store, b"b") == b"2"

        self.run(scenario, factory, tmp_path)


CREATE = Condition(none_match_any=True)


def pages(
    store: Store, prefix: bytes, limit: int, delimiter: bytes | None
) -> list[tuple[bytes | None, bytes | None]]:
    """All pages, as (key, None) and (None, group) in the order of bytes."""
    found: list[tuple[bytes | None, bytes | None]] = []
    after: bytes | None = None
    while True:
        page = store.list_keys(prefix, after=after, limit=limit, delimiter=delimiter)
        assert len(page.entries) + len(page.prefixes) <= limit
        found += [(key, None) for key, _ in page.entries]
        found += [(None, group) for group in page.prefixes]
        if page.next is None:
            return sorted(found, key=lambda one: one[0] or one[1] or b"")
        assert after is None or page.next > after
        after = page.next
