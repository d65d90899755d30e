"""What a view writes down to know itself again; view.py says how it is used. No I/O.

All of it is JSON. A view of another FORMAT is deleted and rebuilt, never converted.
"""

import msgspec

FORMAT = 2


class Here(msgspec.Struct, frozen=True):
    """Where a view's data file is. Equal in two openings only if it is the same file, mounted
    once, under a kernel that never stopped."""

    boot: str
    device: int
    inode: int
    mount: int


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """What trust.json says. `identity` is whose view it is, `name` which one."""

    format: int
    name: str
    identity: str
    here: Here


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """What data.mdb remembers: the trust, and the very file that says the same."""

    trust: Trust
    inode: int
    ctime_ns: int


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What clean.json says of data.mdb."""

    format: int
    name: str
    identity: str
    inode: int
    size: int
    ctime_ns: int
    transaction: int
