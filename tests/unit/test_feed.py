"""The feed and its watchers: order, gaps, and what is told after a restart."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulzar.errors import NotReady, Unavailable
from pulzar.varidb import feed as feed_module
from pulzar.varidb import watching as watching_module
from pulzar.varidb.feed import Event, Feed, Place
from pulzar.varidb.watching import Mark, watch


def put(key: str, version: int) -> Event:
    return Event(key.encode(), version, is_delete=False, size=1)


def delete(key: str, version: int) -> Event:
    return Event(key.encode(), version, is_delete=True)


class Rows:
    """What a catalog knows: the last event of each key. Implements `History`."""

    def __init__(self) -> None:
        self.last: dict[bytes, Event] = {}
        self.forgot = 0

    def take(self, events: Sequence[Event]) -> None:
        for event in events:
            self.last[event.key] = event

    def is_unsure(self, version: int) -> bool:
        return version < self.forgot

    def keys_behind(self, after: bytes, limit: int) -> list[bytes]:
        raise NotImplementedError

    def created_between(
        self, start_ms: int, end_ms: int, *, after: tuple[int, bytes] | None, limit: int
    ) -> list[tuple[int, bytes]]:
        raise NotImplementedError

    def newer(
        self, prefix: bytes, version: int, *, after: bytes, deletes: bool, limit: int
    ) -> tuple[list[Event], bytes | None]:
        keys = sorted(
            key
            for key, event in self.last.items()
            if key > after and key.startswith(prefix) and event.is_delete == deletes
        )
        page = keys[:limit]
        found = [self.last[key] for key in page if self.last[key].version > version]
        return found, page[-1] if len(page) == limit and len(keys) > limit else None


async def taken(
    feed: Feed, rows: Rows, prefix: bytes, after: Place | None, until: int
) -> list[Event | Mark]:
    """What a watcher is told, up to an event or a mark at a version."""
    told: list[Event | Mark] = []
    stream = watch(feed, rows, prefix, after, ping_s=5)
    try:
        async for items in stream:
            told += items
            if any(item.place.version >= until for item in items):
                return told
    finally:
        await stream.aclose()
    return told


def running(version: int = 100) -> Feed:
    feed = Feed()
    feed.start(version)
    return feed


def test_events_are_held_back_while_an_older_write_is_under_way() -> None:
    async def life() -> None:
        feed = running()
        under_way = {101, 102, 103}
        feed.floor = lambda: min(under_way, default=None)
        watcher = feed.watch(b"")
        under_way -= {103, 102}
        feed.landed([put("c", 103), put("b", 102)])
        assert watcher.pending == []
        under_way.clear()  # 101 has failed: nobody is told of it
        feed.settle()
        assert [event.version for event in watcher.pending] == [102, 103]
        assert feed.last == Place(103, 0)

    asyncio.run(life())


def test_an_event_that_comes_late_has_a_place_of_its_own() -> None:
    async def life() -> None:
        feed, rows = running(), Rows()
        feed.landed([put("a", 105), put("b", 103), put("c", 104)])
        assert feed.last == Place(105, 2)
        told = await taken(feed, rows, b"", Place(105, 1), 105)
        assert [item.place for item in told] == [Place(105, 1)]
        stream = watch(feed, rows, b"", Place(105, 1), ping_s=0.01)
        assert [str(item.place) for item in await anext(stream)] == ["0000000000000069.1"]
        (event,) = await anext(stream)
        assert isinstance(event, Event)
        assert (event.key, event.version, str(event.place)) == (b"c", 104, "0000000000000069.2")
        await stream.aclose()

    asyncio.run(life())


def test_who_waits_is_woken_before_what_is_held_back_is_told() -> None:
    async def life() -> None:
        feed = running()
        feed.floor = lambda: 101
        waiting, other = feed.wait(b"k"), feed.wait(b"other")
        feed.landed([put("k", 102)])
        assert waiting.done()
        assert not other.done()
        feed.unwait(b"k", waiting)
        feed.unwait(b"other", other)
        assert feed.statistics()["watchers"] == 0

    asyncio.run(life())


def test_reserved_keys_are_not_told_to_watchers() -> None:
    async def life() -> None:
        feed = running()
        watcher = feed.watch(b"")
        feed.landed([put("\0pulzar/job", 101), put("a", 102)])
        assert [event.key for event in watcher.pending] == [b"a"]

    asyncio.run(life())


def test_prefixes_of_many_lengths_get_their_own_keys_only() -> None:
    async def life() -> None:
        feed = running()
        watchers = {prefix: feed.watch(prefix) for prefix in (b"", b"a", b"a/b", b"b")}
        feed.landed([put("a/b/c", 101), put("a", 102), put("b", 103)])
        told = {prefix: [e.version for e in w.pending] for prefix, w in watchers.items()}
        assert told == {b"": [101, 102, 103], b"a": [101, 102], b"a/b": [101], b"b": [103]}
        for watcher in watchers.values():
            feed.unwatch(watcher)
        feed.landed([put("a", 104)])
        assert len(watchers[b""].pending) == 3

    asyncio.run(life())


def test_a_slow_watcher_catches_up_without_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "WATCH_PENDING_MAX", 4)
    monkeypatch.setattr(feed_module, "FEED_EVENTS", 8)

    async def life() -> None:
        feed, rows = running(), Rows()
        stream = watch(feed, rows, b"", None, ping_s=5)
        told: list[Event | Mark] = list(await anext(stream))
        turn = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        for version in range(101, 141):
            events = [put(f"k{version % 5}", version)]
            rows.take(events)
            feed.landed(events)
        while told[-1].place.version < 140:
            told += await turn
            turn = asyncio.ensure_future(anext(stream))
        turn.cancel()
        versions = [item.version for item in told if isinstance(item, Event)]
        assert versions == sorted(set(versions))
        assert {f"k{n % 5}".encode() for n in range(136, 141)} == {
            item.key for item in told if isinstance(item, Event) and item.version > 135
        }

    asyncio.run(life())


@pytest.mark.parametrize(
    ("after", "forgot", "kinds"),
    [
        (Place(90, 0), 0, ["ready", "put", "delete"]),  # from before this run: its rows tell
        (Place(101, 0), 0, ["ready", "delete"]),  # from this run: the ring tells
        (Place(90, 0), 95, ["ready", "reset"]),  # deletes were purged since
        (Place(500, 0), 0, ["ready", "reset"]),  # of another cluster, or a later life
    ],
)
def test_where_a_watcher_goes_on(after: Place, forgot: int, kinds: list[str]) -> None:
    async def life() -> list[str]:
        feed, rows = running(), Rows()
        rows.forgot = forgot
        events = [put("a", 101), delete("b", 102)]
        rows.take(events)
        feed.landed(events)
        told = await taken(feed, rows, b"", after, 0 if after.version > 200 else 102)
        if after.version > 200:
            stream = watch(feed, rows, b"", after, ping_s=0.01)
            told = [*await anext(stream), *await anext(stream)]
            await stream.aclose()
        names = {False: "put", True: "delete"}
        return [i.kind if isinstance(i, Mark) else names[i.is_delete] for i in told]

    assert asyncio.run(life()) == kinds


def test_too_much_to_tell_is_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching_module, "WATCH_CATCH_UP_MAX", 3)

    async def life() -> None:
        feed, rows = running(), Rows()
        events = [put(f"k{n}", 101 + n) for n in range(4)]
        rows.take(events)
        feed.landed(events)
        stream = watch(feed, rows, b"", Place(50, 0), ping_s=0.01)
        told = [*await anext(stream), *await anext(stream)]
        assert told == [Mark("ready", Place(50, 0)), Mark("reset", Place(104, 0))]
        await stream.aclose()

    asyncio.run(life())


def test_a_pause_makes_every_watcher_list_again() -> None:
    async def life() -> None:
        feed, rows = running(), Rows()
        stream = watch(feed, rows, b"", None, ping_s=5)
        await anext(stream)
        feed.landed([put("a", 101)])
        assert [item.place for item in await anext(stream)] == [Place(101, 0)]
        turn = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        rows.forgot = 10_000
        feed.pause()
        feed.landed([put("lost", 102)])
        feed.start(10_000)
        (mark,) = await turn
        assert isinstance(mark, Mark)
        assert mark.kind == "reset"
        feed.landed([put("b", 10_001)])
        (event,) = await anext(stream)
        assert event.place == Place(10_001, 0)
        await stream.aclose()

    asyncio.run(life())


def test_listening_is_bounded_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "WATCHERS_MAX", 2)

    async def life() -> None:
        with pytest.raises(NotReady):
            Feed().watch(b"")  # not started
        feed, rows = running(), Rows()
        stream = watch(feed, rows, b"", None, ping_s=60)
        await anext(stream)
        waiting = feed.wait(b"k")
        with pytest.raises(Unavailable):
            feed.watch(b"")
        turn = asyncio.ensure_future(anext(stream, "end"))
        await asyncio.sleep(0)
        feed.close()
        assert waiting.done()
        assert await turn == [] or await anext(stream, "end") == "end"
        with pytest.raises(NotReady):
            feed.wait(b"k")

    asyncio.run(life())


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 3)),
        min_size=1,
        max_size=60,
    ),
    st.integers(1, 12),
    st.lists(st.integers(0, 59), max_size=6),
)
def test_whatever_happens_of_each_key_the_last_change_comes_and_none_twice(
    changes: list[tuple[str, bool, int]], keep: int, breaks: list[int]
) -> None:
    """Writes land out of order; a watcher breaks off and comes back; the ring is short."""
    patch = pytest.MonkeyPatch()
    patch.setattr(feed_module, "FEED_EVENTS", keep)

    async def life() -> None:
        feed, rows = running(), Rows()
        under_way: dict[int, None] = {}
        feed.floor = lambda: next(iter(under_way), None)
        told: list[Event] = []
        place: Place | None = Place(100, 0)
        stream = watch(feed, rows, b"", place, ping_s=0.001)
        await anext(stream)
        waiting: list[Event] = []
        for number, (key, is_delete, delay) in enumerate(changes):
            version = 101 + number
            if not any(event.key == key.encode() for event in waiting):
                under_way[version] = None
                waiting.append(Event(key.encode(), version, is_delete=is_delete))
            while len(waiting) > delay:
                event = waiting.pop(len(waiting) // 2)
                del under_way[event.version]
                rows.take([event])
                feed.landed([event])
            if number in breaks:
                items = await anext(stream)
                told += [item for item in items if isinstance(item, Event)]
                place = items[-1].place if items else place
                await stream.aclose()
                stream = watch(feed, rows, b"", place, ping_s=0.001)
                await anext(stream)
        for event in waiting:
            del under_way[event.version]
            rows.take([event])
            feed.landed([event])
        while items := await anext(stream):
            told += [item for item in items if isinstance(item, Event)]
        await stream.aclose()
        assert len({(event.key, event.version) for event in told}) == len(told)
        for told_key in {event.key for event in told}:
            versions = [event.version for event in told if event.key == told_key]
            assert versions == sorted(versions)
        last = {event.key: event.version for event in told}
        assert last == {key: event.version for key, event in rows.last.items()}

    try:
        asyncio.run(life())
    finally:
        patch.undo()
