"""The content of one simulated file: what the kernel shows and what is on the platter.

`shown` is the page cache, `durable` the platter. Between them lie `pending` changes, oldest
first. A change holds the size of the file behind it and, for a write, the whole 512-byte
sectors that it touched as they were behind it, so each sector has its history:

    durable -> pending[0] -> pending[1] -> ... = shown

`sync` applies all of pending to durable. A power loss may leave any of this behind:

- each sector has the content of any moment in its history, whatever the others have; a sector
  that was never written reads as zeros;
- the size is that of any moment in the file's history, or lies inside the last growth;
- a truncation is all or nothing: where it survived, nothing from before it reappears behind the
  cut; where it did not, what was written afterwards to the pages behind the cut did not survive
  either (a file system gives them new blocks, which only the lost metadata knew).

A failed `sync` does what Linux does: dirty pages are marked clean and forgotten, so the next
sync reports success and makes nothing durable. Whether readers still see the lost pages differs
by file system ("Can Applications Recover from fsync Failures?", USENIX ATC 2020, table 1); a
coin decides. The same coin-tossing decides which of the pages had reached the platter.
"""

from random import Random

import msgspec

SECTOR_BYTES = 512
PAGE_BYTES = 4096
_SECTORS_PER_PAGE = PAGE_BYTES // SECTOR_BYTES


class Change(msgspec.Struct, frozen=True, gc=False):
    """One unsynced change. Without data it only sets the size."""

    size: int
    start: int = 0
    data: bytes = b""


class Content:
    """One inode that is a file.

    `warm` says whether the page cache has it. `number` is given by the disk when it is first
    asked for (0 until then) and stays; a copy has another.
    """

    __slots__ = ("durable", "number", "pending", "shown", "warm")

    def __init__(self, content: bytes | bytearray = b"", *, warm: bool = True) -> None:
        self.shown = bytearray(content)
        self.durable = bytearray(content)
        self.pending: list[Change] = []
        self.warm = warm
        self.number = 0

    def write(self, content: bytes, offset: int) -> None:
        """Change what is shown; the sectors touched are pending until `sync`."""
        if not content:
            return
        shown = self.shown
        end = offset + len(content)
        start = offset // SECTOR_BYTES * SECTOR_BYTES
        if offset > len(shown):
            _resize(shown, offset)  # a hole: zeros that nobody wrote, so not data of this change
        shown[offset:end] = content
        data = bytes(shown[start : -(-end // SECTOR_BYTES) * SECTOR_BYTES])
        self.pending.append(Change(len(shown), start, data))

    def resize(self, length: int) -> None:
        """Truncate or grow; growth reads as zeros."""
        if length != len(self.shown):
            _resize(self.shown, length)
            self.pending.append(Change(length))

    def append_durably(self, content: bytes | bytearray) -> None:
        """Bytes from outside of the simulation: shown and durable at once."""
        self.shown += content
        self.durable += content

    def sync(self) -> None:
        """Everything pending becomes durable."""
        _apply(self.pending, self.durable)
        self.pending.clear()

    def fail_sync(self, rng: Random) -> None:
        """A sync that meets an I/O error: dirty pages become clean without being durable."""
        dirty = sorted({page for change in self.pending for page in _pages(change)})
        if rng.random() < 0.5:
            # The journal still commits the new size, and some pages had made it.
            lost = {page for page in dirty if rng.random() < 0.75}
            if dirty and not lost:
                lost.add(rng.choice(dirty))
            for change in self.pending:
                _apply(_without(change, lost), self.durable)
            self.pending.clear()
        else:
            # Nothing made it. The size is no page: it is still pending for the next sync.
            lost = set(dirty)
            self.pending = [Change(change.size) for change in self.pending]
        if rng.random() < 0.5:
            self._forget(lost)

    def _forget(self, pages: set[int]) -> None:
        """The cache drops these pages; readers see the platter again."""
        size = len(self.shown)
        platter = self.durable + bytes(max(0, size - len(self.durable)))
        for page in pages:
            start = page * PAGE_BYTES
            end = min(size, start + PAGE_BYTES)
            if start < end:
                self.shown[start:end] = platter[start:end]

    def flip(self, byte_offset: int, bit: int) -> None:
        """Turn one bit over in every copy of that byte: cache, platter and pending."""
        mask = 1 << bit
        self.shown[byte_offset] ^= mask
        if byte_offset < len(self.durable):
            self.durable[byte_offset] ^= mask
        for index, change in enumerate(self.pending):
            place = byte_offset - change.start
            if 0 <= place < len(change.data):
                data = bytearray(change.data)
                data[place] ^= mask
                self.pending[index] = Change(change.size, change.start, bytes(data))

    def after_power_loss(self, rng: Random, *, torn_sectors: bool) -> "Content":
        """A possible content after the power came back; this one is left as it is."""
        platter = bytearray(self.durable)
        settled, loose = _what_survives(self.pending, rng)
        _apply(settled, platter)
        if loose:
            platter = _scatter(platter, loose, rng, torn_sectors=torn_sectors)
        survivor = Content(platter, warm=False)
        survivor.number = self.number
        return survivor


def _resize(content: bytearray, length: int) -> None:
    if length < len(content):
        del content[length:]
    else:
        content.extend(bytes(length - len(content)))


def _apply(changes: list[Change], content: bytearray) -> None:
    for change in changes:
        if change.size != len(content):
            _resize(content, change.size)
        if change.data:
            content[change.start : change.start + len(change.data)] = change.data


def _pages(change: Change) -> range:
    end = change.start + len(change.data)
    return range(change.start // PAGE_BYTES, -(-end // PAGE_BYTES)) if change.data else range(0)


def _sectors(change: Change) -> list[tuple[int, bytes]]:
    """(sector number, its content) for all that a write touched."""
    first = change.start // SECTOR_BYTES
    data = change.data
    return [
        (first + place // SECTOR_BYTES, data[place : place + SECTOR_BYTES])
        for place in range(0, len(data), SECTOR_BYTES)
    ]


def _without(change: Change, lost: set[int]) -> list[Change]:
    """The change, without what it wrote to the pages that were lost."""
    return [Change(change.size)] + [
        Change(change.size, sector * SECTOR_BYTES, data)
        for sector, data in _sectors(change)
        if sector // _SECTORS_PER_PAGE not in lost
    ]


def _what_survives(pending: list[Change], rng: Random) -> tuple[list[Change], list[Change]]:
    """Which changes are wholly there, and which may be there sector by sector.

    Independent sectors alone would almost never show a whole batch kept or lost, nor one cut
    at a point in time, which are the likeliest states of a real disk; so they have their share.
    """
    if not pending:
        return [], []
    mode = rng.randrange(8)
    if mode == 0:
        return [], []
    if mode == 1:
        return pending, []
    if mode <= 3:
        point = rng.randrange(len(pending))
        return pending[:point], pending[point : point + 1]
    return [], pending


def _scatter(
    platter: bytearray, loose: list[Change], rng: Random, *, torn_sectors: bool
) -> bytearray:
    """`platter` with any mixture of the loose changes."""
    sizes_durable = rng.randint(0, len(loose))  # the size change of so many has survived
    size = _surviving_size(len(platter), loose, sizes_durable, rng)
    versions = _sector_versions(platter, loose, sizes_durable)
    keep_newest = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
    _resize(platter, size)
    for sector, candidates in sorted(versions.items()):
        start = sector * SECTOR_BYTES
        if start >= size:
            continue
        if rng.random() < keep_newest:
            content = candidates[-1]
        else:
            content = rng.choice(candidates[:-1] or candidates)
        content = content.ljust(SECTOR_BYTES, b"\0")
        if torn_sectors and rng.random() < 0.5:
            other = rng.choice(candidates).ljust(SECTOR_BYTES, b"\0")
            cut = rng.randrange(SECTOR_BYTES)
            content = content[:cut] + other[cut:]
        end = min(size, start + SECTOR_BYTES)
        platter[start:end] = content[: end - start]
    return platter


def _surviving_size(size_before: int, loose: list[Change], sizes_durable: int, rng: Random) -> int:
    size = loose[sizes_durable - 1].size if sizes_durable else size_before
    if sizes_durable < len(loose) and loose[sizes_durable].data:
        grown = loose[sizes_durable].size // SECTOR_BYTES
        if grown > size // SECTOR_BYTES and rng.random() < 0.5:
            # Growth is written back page by page, so it can stop inside of one write.
            return rng.randint(size // SECTOR_BYTES + 1, grown) * SECTOR_BYTES
    return size


def _sector_versions(
    platter: bytearray, loose: list[Change], sizes_durable: int
) -> dict[int, list[bytes]]:
    """Every content that each touched sector may have; cuts `platter` where a truncation did."""
    versions: dict[int, list[bytes]] = {}
    length = len(platter)
    unreached = float("inf")  # writes from here on lie behind a truncation that did not survive
    for index, change in enumerate(loose):
        if change.size < length:
            if index < sizes_durable:
                del platter[change.size :]
                _cut(versions, change.size)
            else:
                unreached = min(unreached, -(-change.size // PAGE_BYTES) * PAGE_BYTES)
        length = change.size
        for sector, data in _sectors(change):
            start = sector * SECTOR_BYTES
            if start < unreached:
                known = versions.setdefault(sector, [])
                if not known:
                    known.append(bytes(platter[start : start + SECTOR_BYTES]))
                known.append(data)
    return versions


def _cut(versions: dict[int, list[bytes]], length: int) -> None:
    for sector, candidates in versions.items():
        room = max(0, length - sector * SECTOR_BYTES)
        if room < SECTOR_BYTES:
            versions[sector] = [data[:room] for data in candidates] if room else [b""]
