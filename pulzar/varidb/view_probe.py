"""The throw-away process that touches a doubtful view first: `python view_probe.py DIR TABLE...`.

A damaged LMDB environment may abort the process that reads it. So a view whose last owner was
killed is opened here before anything of value opens it: both ends of every table, some entries in
between, and one write that is thrown away (it reads the list of free pages). Exit 0 means that
the process lived. It does not walk everything: that takes seconds with millions of entries, and
each entry has a checksum of its own. With `--all` it does.

This file imports nothing of Pulzar, so that it starts quickly and from anywhere.
"""

import sys

import lmdb

_SEEKS = 64  # per table


def main(arguments: list[str]) -> int:
    """Touch the view. Any exception is as good as a crash."""
    whole = arguments[0] == "--all"
    directory, *tables = arguments[1:] if whole else arguments
    environment = lmdb.open(
        directory,
        create=False,
        map_size=0,  # as at its creation
        max_dbs=len(tables),
        sync=False,
        metasync=False,
        readahead=False,
    )
    handles = [environment.open_db(name.encode(), create=False) for name in tables]
    with environment.begin() as transaction:
        for handle in handles:
            _touch(transaction.cursor(handle), whole=whole)
    transaction = environment.begin(write=True)
    try:
        for handle in handles:
            transaction.put(b"\xff" * 500, bytes(5000), db=handle)
    except lmdb.MapFullError:
        pass  # full is not damaged
    transaction.abort()
    return 0


def _touch(cursor: "lmdb.Cursor[bytes]", *, whole: bool) -> None:
    if whole:
        for _ in cursor.iternext():
            pass
    if not cursor.first():
        return
    low = cursor.key()
    cursor.last()
    high = cursor.item()[0]
    shared = next((at for at in range(min(len(low), len(high))) if low[at] != high[at]), 0)
    first = int.from_bytes(low[shared : shared + 4].ljust(4, b"\0"))
    last = int.from_bytes(high[shared : shared + 4].ljust(4, b"\0"))
    for step in range(_SEEKS):
        between = first + (last - first) * step // _SEEKS
        if cursor.set_range(low[:shared] + between.to_bytes(4)):
            cursor.item()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
