"""Finds the names that contain a text, in the file of names (varidb/names.py has its format).

The sorted part of a file never changes, and stays mapped from call to call: to map 30 MB anew takes
5 ms. What is new since then is read each time.
"""

import heapq
import mmap
import os
from collections.abc import Iterator

Buffer = mmap.mmap | bytes

_mapped: dict[str, mmap.mmap] = {}  # of one file, the last one


def scan(path: str, text: bytes, *, sorted_bytes: int, size: int, after: bytes) -> Iterator[bytes]:
    """The keys that contain `text` (which has no newline), strictly behind `after`, in byte order,
    each once. Those that were deleted may be among them. Raises OSError."""
    with open(path, "rb") as file:
        if path not in _mapped:
            _mapped.clear()
            _mapped[path] = mmap.mmap(file.fileno(), sorted_bytes, prot=mmap.PROT_READ)
        tail = b"\n" + os.pread(file.fileno(), size - sorted_bytes, sorted_bytes)
    names = _mapped[path]
    old = matches(names, text, start_behind(names, after, sorted_bytes), sorted_bytes)
    new = sorted(key for key in matches(tail, text, 1, len(tail)) if key > after)
    last = after
    for key in heapq.merge(old, new):
        if key != last:
            last = key
            yield key


def matches(names: Buffer, text: bytes, start: int, end: int) -> Iterator[bytes]:
    """The lines of names[start:end] that contain `text`. A line begins at `start`."""
    while start < end:
        found = names.find(text, start, end)
        if found < 0:
            return
        first = names.rfind(b"\n", start - 1, found + 1) + 1 if text else start
        last = names.find(b"\n", found, end)
        yield names[first:last]
        start = last + 1


def start_behind(names: Buffer, after: bytes, end: int) -> int:
    """Where the first line strictly behind `after` begins; the lines up to `end` are sorted, and
    the first one begins at 1."""
    low, high = 1, end
    while low < high:  # every line that begins before `low` is not behind, those from `high` on are
        middle = names.rfind(b"\n", 0, (low + high) // 2) + 1
        line_end = names.find(b"\n", middle, end)
        if names[middle:line_end] <= after:
            low = line_end + 1
        elif middle <= low:
            return low
        else:
            high = middle
    return low
