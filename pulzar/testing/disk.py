"""A disk in memory that forgets, at a power loss, what was not synced.

`SimulatedDisk` is a `pulzar.disk.Disk`. It holds twice what a disk holds: as the kernel shows
it, and as it is on the platter (`content.py` for bytes, `names.py` for directories; each says
what may be left after a power loss). Everything it decides comes from its seed or from the one
given to `power_loss`, so a failure repeats.

    kill()         the process died: its files are closed, its locks released, nothing is lost
    power_loss()   the machine died: what was not synced is kept, dropped or mixed
    faults         which operation fails, and how (`faults.py`)
    copy_steps()   tar of a live directory, step by step; snapshot() and rollback()
    flip()         one bit is damaged

Handles of a dead process raise EBADF, closing them does nothing. Any thread may call anything.
"""

import errno
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from threading import RLock
from typing import NoReturn

from pulzar.disk import Buffer, File, Lock
from pulzar.testing.content import Content
from pulzar.testing.copies import Snapshot, copy_steps, from_snapshot, take_snapshot
from pulzar.testing.faults import REACHED, Fault, FaultPlan, Killed
from pulzar.testing.names import Assignment, Directory, Names, Node
from pulzar.varidb.crash_point import CrashPoint

FREE_BYTES = 1 << 40  # of a disk without a capacity
COPY_CHUNK_BYTES = 4096


class Process:
    """What all handles of one simulated process share."""

    __slots__ = ("alive", "killed", "locked")

    def __init__(self) -> None:
        self.alive = True
        self.killed = False  # died in the middle of an operation, and does not know it yet
        self.locked: set[Content] = set()

    def check(self) -> None:
        """Raise where this process is dead."""
        if self.killed:
            raise Killed
        if not self.alive:
            raise _error(errno.EBADF, "a dead process has no open files")


class SimulatedDisk:
    """Files and directories in memory. `capacity` in bytes; None is as good as endless."""

    def __init__(self, seed: int = 0, *, capacity: int | None = None) -> None:
        self.capacity = capacity
        self.faults: FaultPlan | None = None
        self.log: list[str] | None = None  # set to [] to have every operation described
        self.operations = 0
        self.operations_by_kind: Counter[str] = Counter()
        self.points: Counter[str] = Counter()  # how often each named point was reached
        self._last_number = 0
        self._mutex = RLock()
        self._rng = Random(seed)
        self._names = Names(Directory())
        self._process = Process()

    # The Disk protocol.

    def create(self, path: str, *, private: bool = False) -> File:
        with self._mutex:
            self._begin("create", path)
            parent, name = self._place(path)
            if name in parent.shown:
                raise _error(errno.EEXIST, path)
            content = Content()
            self._names.change(Assignment(parent, name, content))
            return SimulatedFile(self, content, path, writable=True)

    def open(self, path: str, *, write: bool = False) -> File:
        with self._mutex:
            self._begin("open", path)
            return SimulatedFile(self, self._content(path), path, writable=write)

    def list(self, path: str) -> list[str]:
        with self._mutex:
            self._begin("list", path)
            try:
                return sorted(self._directory(path).shown)
            except FileNotFoundError:
                return []

    def exists(self, path: str) -> bool:
        with self._mutex:
            self._process.check()
            try:
                self._find(path)
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    def make_directory(self, path: str) -> None:
        with self._mutex:
            self._begin("make_directory", path)
            parts = _parts(path)
            parent = self._names.root
            for depth, part in enumerate(parts, 1):
                node = parent.shown.get(part)
                if node is None:
                    node = Directory()
                    self._names.change(Assignment(parent, part, node))
                if isinstance(node, Content):
                    raise _error(errno.EEXIST if depth == len(parts) else errno.ENOTDIR, path)
                parent = node

    def rename(self, source: str, target: str) -> None:
        with self._mutex:
            self._begin("rename", source, f"-> {target}")
            node = self._find(source)
            source_place, target_place = self._place(source), self._place(target)
            replaced = target_place[0].shown.get(target_place[1])
            if replaced is node:
                return
            if isinstance(replaced, Directory):
                raise _error(errno.EISDIR, target)
            if replaced is not None and isinstance(node, Directory):
                raise _error(errno.ENOTDIR, target)
            self._names.change(Assignment(*source_place, None), Assignment(*target_place, node))

    def unlink(self, path: str) -> None:
        with self._mutex:
            self._begin("unlink", path)
            self._content(path)
            self._names.change(Assignment(*self._place(path), None))

    def sync_directory(self, path: str) -> None:
        with self._mutex:
            fault = self._count("sync_directory", path)
            directory = self._directory(path)
            if fault is not None:
                if not fault.kill:
                    self._names.fail_sync(directory)
                self._fail(fault, path)
            self._names.sync(directory)

    def free_bytes(self, path: str) -> int:
        with self._mutex:
            self._process.check()
            self._find(path)
            if self.capacity is None:
                return FREE_BYTES
            return max(0, self.capacity - self.used_bytes())

    def lock(self, path: str) -> Lock:
        with self._mutex:
            if not self.exists(path):
                self.create(path)
            content = self._content(path)
            if content in self._process.locked:
                raise _error(errno.EWOULDBLOCK, path)
            self._process.locked.add(content)
            return SimulatedLock(self._process, content)

    def file_id(self, path: str) -> str:
        with self._mutex:
            self._process.check()
            content = self._content(path)
            if not content.number:
                self._last_number += 1
                content.number = self._last_number
            return f"simulated:{content.number}"

    def reached(self, point: str) -> None:
        with self._mutex:
            self._process.check()
            self.points[str(point)] += 1
            self._note(f"reached {point}")
            fault = None if self.faults is None else self.faults.meet(REACHED, point)
            if fault is not None:
                self._fail(fault, point)

    # What happens to a disk.

    def kill(self) -> None:
        """The process dies. The page cache stays: nothing that was written is lost."""
        with self._mutex:
            self._note("kill")
            self._restart()

    def power_loss(self, seed: int | Random | None = None, *, torn_sectors: bool = False) -> None:
        """The machine dies and comes back. `torn_sectors`: not even 512 bytes are atomic."""
        with self._mutex:
            self._names = self._names_after_power_loss(seed, torn_sectors=torn_sectors)
            self._note("power loss")
            self._restart()

    def clone_after_power_loss(
        self, seed: int | Random, *, torn_sectors: bool = False
    ) -> "SimulatedDisk":
        """A disk as this one could be after a power loss now; this one goes on untouched."""
        with self._mutex:
            clone = SimulatedDisk(capacity=self.capacity)
            clone._names = self._names_after_power_loss(seed, torn_sectors=torn_sectors)
            clone._last_number = self._last_number
            clone._rng.setstate(self._rng.getstate())
            return clone

    def drop_caches(self) -> None:
        """The kernel needs its memory: `read_cached` is None for all until they are read."""
        with self._mutex:
            for content in self._names.contents():
                content.warm = False

    def flip(self, path: str, byte_offset: int, bit: int) -> None:
        """Damage one bit, on the platter and in the cache."""
        with self._mutex:
            self._note(f"flip {path} @{byte_offset} bit {bit}")
            self._content(path).flip(byte_offset, bit)

    def snapshot(self, path: str) -> Snapshot:
        """All that a directory shows now."""
        with self._mutex:
            return take_snapshot(self._directory(path))

    def rollback(self, path: str, snapshot: Snapshot) -> None:
        """Put a directory back to an earlier state, durably. Stop its process first.

        Handles into the directory keep the files that they opened, which have no names now.
        """
        with self._mutex:
            self._note(f"rollback {path}")
            self._put_durably(path, from_snapshot(snapshot))

    def copy_directory(self, source: str, target: str) -> None:
        """Copy what a directory shows to a new place, durably, at one moment."""
        self.rollback(target, self.snapshot(source))

    def copy_steps(
        self, source: str, target: str, order_seed: int, *, chunk_bytes: int = COPY_CHUNK_BYTES
    ) -> Iterator[str]:
        """Copy a live directory as tar or cp do; whatever runs between steps changes it.

        The copy is a process of its own: it survives `kill()`. A power loss ends it.
        """
        with self._mutex:
            names = self._names
            origin = self._directory(source)
            copy = Directory()
            self._put_durably(target, copy)
        steps = copy_steps(origin, copy, Random(order_seed), chunk_bytes=chunk_bytes)
        while self._names is names:
            with self._mutex:
                step = next(steps, None)
            if step is None:
                return
            yield step

    def used_bytes(self, _path: str = "") -> int:
        """The sizes of all files together."""
        return sum(len(content.shown) for content in self._names.contents())

    def __repr__(self) -> str:
        contents = list(self._names.contents())
        return (
            f"<SimulatedDisk {len(contents)} files,"
            f" {sum(len(each.shown) for each in contents)} bytes shown,"
            f" {sum(len(each.durable) for each in contents)} durable,"
            f" {sum(bool(each.pending) for each in contents)} files and"
            f" {len(self._names.pending)} names unsynced,"
            f" {len(self._process.locked)} locks, {self.operations} operations>"
        )

    def _begin(self, kind: str, path: str, detail: str = "") -> None:
        """Count an operation that a fault prevents wholly."""
        fault = self._count(kind, path, detail)
        if fault is not None:
            self._fail(fault, path)

    def _count(self, kind: str, path: str, detail: str = "") -> Fault | None:
        """Count an operation; the fault that it meets, for `_fail`."""
        self._process.check()
        self.operations += 1
        self.operations_by_kind[kind] += 1
        if self.log is not None:
            self._note(f"{kind} {path} {detail}")
        return None if self.faults is None else self.faults.meet(kind, path)

    def _fail(self, fault: Fault, path: str) -> NoReturn:
        if fault.kill:
            self._note(f"killed at {path}")
            self._process.alive = False
            self._process.killed = True
            raise Killed(path)
        self._note(f"failed: {errno.errorcode.get(fault.error, fault.error)}")
        raise _error(fault.error, path)

    def _note(self, event: str) -> None:
        if self.log is not None:
            self.log.append(event)

    def _restart(self) -> None:
        self._process.alive = False
        self._process.killed = False
        self._process = Process()

    def _names_after_power_loss(self, seed: int | Random | None, *, torn_sectors: bool) -> Names:
        if seed is None:
            rng = self._rng
        else:
            rng = seed if isinstance(seed, Random) else Random(seed)
        return self._names.after_power_loss(rng, torn_sectors=torn_sectors)

    def _find(self, path: str) -> Node:
        try:
            return self._names.find(_parts(path))
        except OSError as error:
            raise _error(_ERRNO[type(error)], path) from None

    def _content(self, path: str) -> Content:
        node = self._find(path)
        if isinstance(node, Directory):
            raise _error(errno.EISDIR, path)
        return node

    def _directory(self, path: str) -> Directory:
        node = self._find(path)
        if isinstance(node, Content):
            raise _error(errno.ENOTDIR, path)
        return node

    def _place(self, path: str) -> tuple[Directory, str]:
        """The directory that a name is in, and the name."""
        *parents, name = _parts(path)
        return self._directory("/".join(parents)), name

    def _put_durably(self, path: str, directory: Directory) -> None:
        *parents, name = _parts(path)
        parent = self._names.root
        for part in parents:
            node = parent.shown.get(part)
            if not isinstance(node, Directory):
                node = Directory()
                parent.put_durably(part, node)
            parent = node
        parent.put_durably(name, directory)

    def _room(self, content: Content, size: int) -> int:
        """How far a file may grow towards `size` before the disk is full."""
        if self.capacity is None or size <= len(content.shown):
            return size
        return min(size, len(content.shown) + max(0, self.capacity - self.used_bytes()))


class SimulatedFile:
    """An open file of a simulated disk."""

    __slots__ = ("_content", "_disk", "_open", "_path", "_process", "_writable")

    def __init__(self, disk: SimulatedDisk, content: Content, path: str, *, writable: bool) -> None:
        self._disk = disk
        self._content = content
        self._path = path
        self._writable = writable
        self._process = disk._process
        self._open = True

    def write(self, buffers: Sequence[Buffer], *, offset: int) -> None:
        written = b"".join(buffers)
        with self._disk._mutex:
            fault = self._begin("write", f"@{offset}+{len(written)}", writes=True)
            if fault is not None:
                if fault.short or fault.kill:
                    done = self._disk._rng.randrange(len(written) + 1)
                    self._content.write(written[:done], offset)
                self._disk._fail(fault, self._path)
            room = self._disk._room(self._content, offset + len(written)) - offset
            if room < len(written):
                self._content.write(written[: max(0, room)], offset)
                raise _error(errno.ENOSPC, self._path)
            self._content.write(written, offset)

    def write_synced(self, buffers: Sequence[Buffer], *, offset: int) -> None:
        self.write(buffers, offset=offset)
        self._disk.reached(CrashPoint.COMMIT_WRITTEN)
        self.sync()

    def read(self, length: int, *, offset: int) -> bytes:
        with self._disk._mutex:
            fault = self._begin("read", f"@{offset}+{length}")
            if fault is not None:
                self._disk._fail(fault, self._path)
            self._content.warm = True
            return bytes(self._content.shown[offset : offset + length])

    def read_cached(self, length: int, *, offset: int) -> bytes | None:
        with self._disk._mutex:
            self._check()
            if not self._content.warm or offset + length > len(self._content.shown):
                return None
            return bytes(self._content.shown[offset : offset + length])

    def sync(self) -> None:
        with self._disk._mutex:
            fault = self._begin("sync")
            if fault is not None:
                if not fault.kill:
                    self._content.fail_sync(self._disk._rng)
                self._disk._fail(fault, self._path)
            self._content.sync()

    def allocate(self, length: int) -> None:
        with self._disk._mutex:
            fault = self._begin("allocate", f"{length}", writes=True)
            if length <= 0:
                raise _error(errno.EINVAL, self._path)
            size = len(self._content.shown)
            if fault is not None:
                if (fault.short or fault.kill) and length > size:
                    self._content.resize(self._disk._rng.randint(size, length))
                self._disk._fail(fault, self._path)
            if length > size:
                if self._disk._room(self._content, length) < length:
                    raise _error(errno.ENOSPC, self._path)
                self._content.resize(length)

    def truncate(self, length: int) -> None:
        with self._disk._mutex:
            fault = self._begin("truncate", f"{length}", writes=True)
            if fault is not None:
                self._disk._fail(fault, self._path)
            self._content.resize(length)

    def size(self) -> int:
        with self._disk._mutex:
            self._check()
            return len(self._content.shown)

    def close(self) -> None:
        if self._process.alive and not self._open:
            raise _error(errno.EBADF, self._path)
        self._open = False

    def _check(self) -> None:
        self._process.check()
        if not self._open:
            raise _error(errno.EBADF, self._path)

    def _begin(self, kind: str, detail: str = "", *, writes: bool = False) -> Fault | None:
        self._check()
        if writes and not self._writable:
            raise _error(errno.EBADF, self._path)
        return self._disk._count(kind, self._path, detail)


class SimulatedLock:
    """A lock of one process; it ends with the process."""

    __slots__ = ("_content", "_process")

    def __init__(self, process: Process, content: Content) -> None:
        self._process = process
        self._content = content

    def release(self) -> None:
        self._process.locked.discard(self._content)


_ERRNO = {FileNotFoundError: errno.ENOENT, NotADirectoryError: errno.ENOTDIR}


def _error(number: int, path: str) -> OSError:
    """OSError chooses the subclass from the number."""
    return OSError(number, os.strerror(number), path)


def _parts(path: str) -> list[str]:
    """The working directory is the root; so relative and absolute paths are the same."""
    return [part for part in os.path.normpath(path).split("/") if part not in ("", ".")]
