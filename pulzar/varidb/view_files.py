"""The files of a view's directory, but for what LMDB does with its own.

data.mdb    LMDB's                    owner.lock   held by the one process that writes
lock.mdb    LMDB's                    probes       how often a child looked at it first
trust.json  where this is (view_trust.py)
clean.json  it was closed cleanly, and not opened since
"""

import fcntl
import os
from contextlib import suppress

from pulzar.errors import VolumeInUse
from pulzar.varidb.view_trust import Here

DATA = "data.mdb"
TRUST = "trust.json"
CLEAN = "clean.json"
PROBES = "probes"

_LOCK = "owner.lock"
_FILES = (CLEAN, TRUST, DATA, "lock.mdb", PROBES)
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def locate(directory: str) -> Here | None:
    """Where the data file is; None where the kernel does not tell: then nothing is trusted."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        stat = os.stat(DATA, dir_fd=fd)
        lines = read(f"/proc/self/fdinfo/{fd}").split(b"\n")
        mounts = [int(line.split()[1]) for line in lines if line.startswith(b"mnt_id:")]
        boot = read(_BOOT_ID).decode().strip()
    except OSError:
        return None
    finally:
        os.close(fd)
    return Here(boot, stat.st_dev, stat.st_ino, mounts[0]) if mounts and boot else None


def lock(directory: str) -> int:
    """Become the owner of a view until the descriptor is closed. Raises VolumeInUse."""
    fd = os.open(f"{directory}/{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise VolumeInUse(f"{directory} is in use by another process") from None
    return fd


def unlink(path: str) -> None:
    """Remove a name, if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def remove(directory: str) -> None:
    """Remove all files of a view but its lock."""
    for name in _FILES:
        unlink(f"{directory}/{name}")


def read(path: str) -> bytes:
    """All of a small file."""
    with open(path, "rb") as file:
        return file.read()


def write_synced(path: str, content: bytes) -> None:
    """A small file, durable but for its name."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
