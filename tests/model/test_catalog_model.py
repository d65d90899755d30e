"""The catalog against a dictionary, and against itself rebuilt.

The model keeps, of each key, the records themselves; what a catalog should say is worked out from
all of them at once, in the plainest words. Three volumes write logs; records reach the catalog in
batches, volume by volume, each log in its order. At any time the catalog may be killed, closed,
copied away from, or thrown away and filled from footers in any order of segments, then followed
on. In the end a catalog rebuilt from footers, with the tails of the logs behind them, says what
the live one says.
"""

import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from pulzar.varidb.catalog import Catalog, Change
from pulzar.varidb.entry import Entry
from pulzar.varidb.position import Cursor, Position, pack_position
from pulzar.varidb.record import Type

IDENTITY = b"model"
MAP_BYTES = 32 << 20
CREATED_MS = 1_700_000_000_000
HOLDERS = (1, 2, 3)
OPENINGS = {holder: bytes([holder]) * 16 for holder in HOLDERS}
NOW_S = 50

KEYS = st.sampled_from(
    [b"a", b"a/1", b"a/2", b"a/b/3", b"b", b"c/4", b"\x00job", b"\xc3\xa9", b"d" * 480]
)
TYPES = st.sampled_from([Type.PUT] * 5 + [Type.BLOB] + [Type.DELETE] * 2 + [Type.MOVED])


class Said(msgspec.Struct, frozen=True):
    """One record of one volume's log."""

    key: bytes
    type: Type
    version: int
    seq: int
    size: int
    created_ms: int
    expires_s: int
    content_type: str
    inline: bytes | None

    def change(self) -> Change:
        """As the live path gives it: the seq of a record is not known there."""
        return Change(
            self.key,
            self.type,
            self.version,
            self.size,
            self.created_ms,
            self.expires_s,
            self.content_type,
            self.inline,
        )

    def position(self) -> Position:
        """As a footer gives it."""
        meta_length = 30 if self.content_type else 0
        return Position(
            1,
            64,
            200,
            self.type,
            0,
            len(self.key),
            meta_length,
            self.seq,
            self.version,
            self.size,
            self.created_ms,
            self.expires_s,
        )


def expected(records: dict[int, list[Said]], key: bytes) -> Entry | int | None:
    """What a catalog that knows these records has of a key: an entry, or the version at which it
    was deleted, or nothing."""
    said = [(holder, one) for holder, log in records.items() for one in log if one.key == key]
    if not said:
        return None
    version = max(one.version for _, one in said)
    newest = [(holder, one) for holder, one in said if one.version == version]
    if any(one.type == Type.DELETE for _, one in newest):
        return version
    last = dict(sorted(newest, key=lambda item: item[1].seq))
    seen = [one for _, one in newest if one.type != Type.MOVED]
    source = seen[0] if seen else newest[0][1]
    return Entry(
        version,
        source.size,
        source.created_ms,
        source.expires_s,
        source.content_type if seen else "",
        tuple(sorted(holder for holder, one in last.items() if one.type != Type.MOVED)),
        source.inline if seen else None,
        complete=bool(seen),
    )


def bare(entry: Entry | None) -> Entry | None:
    """An entry without what a footer cannot tell."""
    if entry is None:
        return None
    return msgspec.structs.replace(entry, content_type="", inline=None, complete=False)


class CatalogMachine(RuleBasedStateMachine):
    """One catalog, three logs."""

    @initialize()
    def begin(self) -> None:
        """An empty catalog."""
        self.directory = Path(tempfile.mkdtemp(prefix="catalog-model-"))
        self.written: dict[int, list[Said]] = {holder: [] for holder in HOLDERS}
        self.followed = dict.fromkeys(HOLDERS, 0)
        self.facts: dict[int, Said] = {}
        self.loaded = False  # then content types and inline values may be unknown
        self.catalog = self.open("live")

    def open(self, name: str) -> Catalog:
        """The catalog in a directory."""
        return Catalog.open(str(self.directory / name), identity=IDENTITY, map_bytes=MAP_BYTES)

    def known(self) -> dict[int, list[Said]]:
        """The records that the catalog has followed."""
        return {holder: self.written[holder][: self.followed[holder]] for holder in HOLDERS}

    # Records come to be.

    @rule(
        holder=st.sampled_from(HOLDERS),
        key=KEYS,
        type_=TYPES,
        expires_s=st.sampled_from([0, 0, 0, 10, 90]),
        typed=st.booleans(),
        size=st.sampled_from([0, 3, 1024, 1025]),
    )
    def write(
        self, holder: int, key: bytes, type_: Type, expires_s: int, size: int, *, typed: bool
    ) -> None:
        """A volume's log gets a record of a new version."""
        version = 100 + len(self.facts)
        content = type_ in (Type.PUT, Type.BLOB)
        self.append(
            holder,
            Said(
                key,
                type_,
                version,
                0,
                size if content else 0,
                CREATED_MS + version % 5,
                expires_s if content else 0,
                "text/plain" if content and typed else "",
                bytes([version % 256]) * size if type_ == Type.PUT and size <= 1024 else None,
            ),
        )

    @rule(holder=st.sampled_from(HOLDERS), data=st.data(), leaves=st.booleans())
    def repeat(self, holder: int, data: st.DataObject, *, leaves: bool) -> None:
        """A volume gets a copy of a version that there is (late or not), or gives its copy up."""
        versions = [version for version, one in self.facts.items() if one.type != Type.MOVED]
        if not versions:
            return
        said = self.facts[data.draw(st.sampled_from(versions))]
        if leaves and said.type != Type.DELETE:
            said = msgspec.structs.replace(
                said,
                type=Type.MOVED,
                size=0,
                content_type="",
                inline=None,
                expires_s=0,
            )
        self.append(holder, said)

    def append(self, holder: int, said: Said) -> None:
        """To the end of a volume's log."""
        said = msgspec.structs.replace(said, seq=len(self.written[holder]) + 1)
        self.facts.setdefault(said.version, said)
        self.written[holder].append(said)

    # The catalog follows, or does not.

    @rule(holder=st.sampled_from(HOLDERS), count=st.integers(1, 6))
    def follow(self, holder: int, count: int) -> None:
        """The next records of one log."""
        self.apply(self.catalog, holder, count)
        self.followed[holder] = self.catalog.cursor(holder).seq

    def apply(self, catalog: Catalog, holder: int, count: int) -> None:
        """Give a catalog the next records of one log."""
        seq = catalog.cursor(holder).seq
        batch = self.written[holder][seq : seq + count]
        cursor = Cursor(OPENINGS[holder], seq + len(batch))
        catalog.apply([said.change() for said in batch], holder, cursor)

    @rule(clean=st.booleans())
    def reopen(self, *, clean: bool) -> None:
        """It is closed, or killed."""
        self.catalog.close(clean=clean)
        self.catalog = self.open("live")
        assert not self.catalog.view.created

    @rule(key=KEYS)
    def complete(self, key: bytes) -> None:
        """A reader has read the record and tells the catalog what only it says."""
        entry = self.catalog.get(key)
        if entry is not None and not entry.complete and entry.holders:
            said = self.facts[entry.version]
            whole = msgspec.structs.replace(
                entry, content_type=said.content_type, inline=said.inline, complete=True
            )
            self.catalog.refill(key, whole)
            assert self.catalog.get(key) == expected(self.known(), key)

    @rule(seed=st.integers(0, 2**32))
    def rebuild(self, seed: int) -> None:
        """It is thrown away and filled from the footers of what it had followed."""
        self.catalog.reset()
        self.load(self.catalog, seed)
        self.loaded = True

    def load(self, catalog: Catalog, seed: int) -> None:
        """Fill a catalog from footers: the segments of all logs, in any order."""
        chance = random.Random(seed)
        segments: list[tuple[int, list[Said]]] = []
        for holder, records in self.known().items():
            rest = records
            while rest:
                length = chance.randint(1, len(rest))
                segments.append((holder, rest[:length]))
                rest = rest[length:]
        chance.shuffle(segments)
        for holder, records in segments:
            ordered = sorted(records, key=lambda said: (said.key, -said.version, -said.seq))
            keys = [said.key for said in ordered]
            entries = [pack_position(said.key, said.position()) for said in ordered]
            catalog.load(keys, entries, holder)
        for holder in HOLDERS:
            catalog.apply([], holder, Cursor(OPENINGS[holder], self.followed[holder]))

    @rule()
    def purge(self) -> None:
        """The deletes of everything that the logs say are dropped: nothing may come of that."""
        known = self.known()
        self.catalog.drop_deletes(
            [(said.key, said.version - 1) for log in known.values() for said in log]
        )

    # What must hold.

    @invariant()
    def says_what_the_records_say(self) -> None:
        """Entries, deletes, listing, both orders, the count."""
        known = self.known()
        keys = sorted({said.key for log in known.values() for said in log})
        live: dict[bytes, Entry] = {}
        for key in keys:
            wanted = expected(known, key)
            entry = self.catalog.get(key)
            if isinstance(wanted, Entry):
                assert entry is not None
                assert bare(entry) == bare(wanted)
                assert entry == wanted or (self.loaded and not entry.complete)
                assert self.catalog.deleted(key) is None
                live[key] = entry
            else:
                assert entry is None
                assert self.catalog.deleted(key) == wanted
        self.lists(live)

    def lists(self, live: dict[bytes, Entry]) -> None:
        """Listing and orders are those of the live keys."""
        users = {key: entry for key, entry in live.items() if key[0]}
        unexpired = [key for key, entry in users.items() if not 0 < entry.expires_s <= NOW_S]
        assert self.catalog.status().entries == len(users)
        listing = self.catalog.list_keys(b"", after=None, limit=99, delimiter=None, now_s=NOW_S)
        assert [key for key, _ in listing.entries] == sorted(unexpired)
        grouped = self.catalog.list_keys(b"", after=None, limit=99, delimiter=b"/", now_s=NOW_S)
        assert [key for key, _ in grouped.entries] == sorted(k for k in unexpired if b"/" not in k)
        groups = {key[: key.index(b"/") + 1] for key in unexpired if b"/" in key}
        assert grouped.prefixes == sorted(groups)
        created = self.catalog.created_between(0, 2**63, after=None, limit=99)
        assert created == sorted((entry.created_ms, key) for key, entry in users.items())
        expired = self.catalog.expired(NOW_S, 99)
        assert sorted(expired) == sorted(
            (key, entry.version) for key, entry in live.items() if 0 < entry.expires_s <= NOW_S
        )
        held: Counter[tuple[int, ...]] = Counter()
        sizes: Counter[tuple[int, ...]] = Counter()
        for entry in live.values():
            held[entry.holders] += 1
            sizes[entry.holders] += entry.size
        copies = self.catalog.copies()
        assert {one.numbers: (one.keys, one.size) for one in copies} == {
            holders: (count, sizes[holders]) for holders, count in held.items()
        }

    def teardown(self) -> None:
        """Rebuilt from footers, then followed to the heads, it is the live one."""
        if not hasattr(self, "catalog"):
            return
        rebuilt = self.open("rebuilt")
        self.load(rebuilt, len(self.facts))
        for catalog in (rebuilt, self.catalog):
            for holder in HOLDERS:
                self.apply(catalog, holder, len(self.written[holder]))
        for name in ("keys", "reserved", "deletes", "created", "expiry", "copies"):
            assert rebuilt.view.stat(name)["entries"] == self.catalog.view.stat(name)["entries"]
        for key in {said.key for log in self.written.values() for said in log}:
            assert bare(rebuilt.get(key)) == bare(self.catalog.get(key))
            assert rebuilt.deleted(key) == self.catalog.deleted(key)
        rebuilt.close(clean=False)
        self.catalog.close(clean=False)
        shutil.rmtree(self.directory)


def test_the_catalog_is_what_the_records_say() -> None:
    run_state_machine_as_test(
        CatalogMachine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )
