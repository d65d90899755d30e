"""Purge: which DELETE records nothing needs any more, on one volume.

A DELETE hides older records of its key. It may go when an exact look-up finds none: not in a
sealed segment, and not in a retired one, which is still in the directory and in copies of it.
The active segment and the batch in flight hold nothing older: the one writer of a volume without
a cluster gives versions in the order of the log. While a segment waits for its footer, nothing is
purged. A PURGE record goes first, synced, then the segments without the DELETEs count.
"""

from bisect import bisect_left
from collections.abc import Iterable

from pulzar.varidb.footer import Footer, bloom_may_hold, entry_order

Deleted = tuple[bytes, int, int]
"""(key, version, seq) of a DELETE record."""


def without_older(deletes: Iterable[Deleted], footer: Footer) -> list[Deleted]:
    """Those of `deletes` of whose key the segment of `footer` holds nothing older."""
    return [one for one in deletes if not _holds_older(one, footer)]


def _holds_older(deleted: Deleted, footer: Footer) -> bool:
    key, version, seq = deleted
    if not bloom_may_hold(footer.bloom, key):
        return False
    at = bisect_left(footer.keys, key)
    while at < len(footer.keys) and footer.keys[at] == key:
        if entry_order(footer.entries[at]) < (version, seq):
            return True
        at += 1
    return False
