"""Faults that a test plans for a simulated disk: which operation fails, and how.

    disk.faults = FaultPlan(Fault(nth=3, kinds=("sync",)))           # the third sync: EIO
    disk.faults = FaultPlan(Fault(nth=k, error=ENOSPC, short=True))  # the k-th operation at all
    disk.faults = FaultPlan(Fault(path="*/MANIFEST", kinds=("read",), lasting=True))
    disk.faults = FaultPlan(Fault(nth=k, kill=True))                 # the process dies there
    disk.faults = FaultPlan(at_point("seal synced"))                 # it dies at a named point

Operations are counted from the moment that the plan was made. A test that wants to fail every
operation of a script runs it once without faults, reads `disk.operations`, and loops. Named
points (`Disk.reached`) are no operations: only a fault of kind REACHED meets them.
"""

import errno
from fnmatch import fnmatchcase

import msgspec

OPERATIONS = frozenset(
    {
        "allocate",
        "create",
        "list",
        "make_directory",
        "open",
        "read",
        "rename",
        "sync",
        "sync_directory",
        "truncate",
        "unlink",
        "write",
    }
)

REACHED = "reached"


class Killed(BaseException):
    """The simulated process died in the middle of an operation.

    Not an Exception: no code of a dead process may handle it. Everything that this process
    still tries on the disk raises it again, until the test calls `kill()` or `power_loss()`.
    """


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Fail the `nth` operation (from 1) among those of `kinds` (none: all) on `path`."""

    nth: int = 1
    kinds: tuple[str, ...] = ()
    path: str = "*"  # as in a shell; a rename has the path of its source
    error: int = errno.EIO
    short: bool = False  # a part of a write or allocate is done, then the error
    kill: bool = False  # no error: the process dies in the middle of the operation
    lasting: bool = False  # every later one fails too

    def __post_init__(self) -> None:
        unknown = set(self.kinds) - OPERATIONS - {REACHED}
        if unknown or self.nth < 1 or (REACHED in self.kinds and not self.kill):
            raise ValueError(f"no such operation to fail: {self}")

    def covers(self, kind: str, path: str) -> bool:
        """Whether an operation is one of those that this fault counts."""
        of_kind = kind in self.kinds if self.kinds else kind != REACHED
        return of_kind and fnmatchcase(path, self.path)


def at_point(point: str, *, nth: int = 1) -> Fault:
    """The process dies when it reaches a named point for the `nth` time."""
    return Fault(nth=nth, kinds=(REACHED,), path=point, kill=True)


class FaultPlan:
    """Some faults, and how far each has counted. `fired` lists what they hit."""

    def __init__(self, *faults: Fault) -> None:
        self.fired: list[str] = []
        self._faults = faults
        self._seen = [0] * len(faults)

    def meet(self, kind: str, path: str) -> Fault | None:
        """Count one operation; the fault that hits it, if any does."""
        hit: Fault | None = None
        for index, fault in enumerate(self._faults):
            if not fault.covers(kind, path):
                continue
            self._seen[index] += 1
            seen = self._seen[index]
            if hit is None and (seen == fault.nth or (fault.lasting and seen > fault.nth)):
                hit = fault
        if hit is not None:
            self.fired.append(f"{kind} {path}")
        return hit

    def __repr__(self) -> str:
        return f"<FaultPlan {self._faults} fired={self.fired}>"
