"""Pages of keys from the tables of the catalog, in the order of the keys.

Of a listing, keys that have expired are left out; groups ("directories") are jumped over, not
walked through.
"""

from collections.abc import Sequence

import lmdb

from pulzar.limits import LIST_SCAN_MAX
from pulzar.varidb.catalog_row import Row, unpack_entry, unpack_row
from pulzar.varidb.entry import Entry, Listing


def page(
    table: "lmdb.Cursor[bytes]",
    prefix: bytes,
    after: bytes,
    limit: int,
    delimiter: bytes,
    now_s: int,
) -> Listing:
    """One page of a key table, strictly behind `after`; `delimiter` is empty where keys are not to
    be grouped. Looks at LIST_SCAN_MAX rows at most. Raises Damage."""
    entries: list[tuple[bytes, Entry]] = []
    groups: list[bytes] = []
    scanned = 0
    last = b""
    start = _start(prefix, after, delimiter)
    found = start is not None and table.set_range(start)
    while found:
        key, packed = table.item()
        if not key.startswith(prefix):
            break
        if len(entries) + len(groups) >= limit or scanned == LIST_SCAN_MAX:
            return Listing(entries, groups, last)
        scanned += 1
        last = key
        entry = unpack_entry(key, packed)
        group = _group(key, prefix, delimiter)
        if entry.expires_s and entry.expires_s <= now_s:
            found = table.next()
        elif group:
            groups.append(group)
            last = group
            behind = _behind(group)
            found = behind is not None and table.set_range(behind)
        else:
            entries.append((key, entry))
            found = table.next()
    return Listing(entries, groups, None)


def present(table: "lmdb.Cursor[bytes]", keys: Sequence[bytes]) -> set[bytes]:
    """Those of the sorted `keys` that a table has."""
    if not keys or not table.last() or table.key() < keys[0]:
        return set()
    return {key for key, _ in table.getmulti(keys)}


def rows_between(
    tables: Sequence["lmdb.Cursor[bytes]"], after: bytes, last: bytes | None, limit: int
) -> list[tuple[bytes, Row]]:
    """Up to `limit` rows strictly behind `after`, up to `last` or to the end, from tables of which
    each begins behind the one before. Raises Damage."""
    rows: list[tuple[bytes, Row]] = []
    for table in tables:
        if not table.set_range(after + b"\0"):
            continue
        for key, packed in table.iternext():
            if len(rows) == limit or (last is not None and key > last):
                return rows
            rows.append((key, unpack_row(key, packed)))
    return rows


def _start(prefix: bytes, after: bytes, delimiter: bytes) -> bytes | None:
    """Where a page begins; None: behind every key."""
    if after and _group(after, prefix, delimiter) == after:
        return _behind(after)
    return max(prefix, after + b"\0") if after else prefix or b"\0"


def _group(key: bytes, prefix: bytes, delimiter: bytes) -> bytes:
    """The group that stands for a key, up to the first delimiter behind the prefix; or empty."""
    if not delimiter or not key.startswith(prefix):
        return b""
    at = key.find(delimiter, len(prefix))
    return b"" if at < 0 else key[: at + len(delimiter)]


def _behind(group: bytes) -> bytes | None:
    """The first possible key behind every key that begins with `group`."""
    stem = group.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else None
