"""Work on sealed segments in a process of its own, so that requests never wait for it.

It reads one task per line (JSON, task.py) on stdin and answers one line on stdout. What the new
files mean is decided by the serving process, which commits a line of the MANIFEST. The index is
opened read-only. This process ends when its stdin closes and, through PR_SET_PDEATHSIG, when its
parent dies; the serving process ends when this one dies (maintenance.py).
"""

import os
import sys
import traceback

import msgspec

from pulzar.disk import SystemDisk
from pulzar.errors import PulzarError
from pulzar.parent import IGNORE_SIGNALS, die_with_parent
from pulzar.varidb.index import Index
from pulzar.varidb.task import (
    Answer,
    Compact,
    Failed,
    Scrub,
    Seal,
    Task,
    run_compact,
    run_scrub,
    run_seal,
)

# What runs in the process. A signal to the whole group is for the parent, which decides when to
# stop; so it is ignored before the imports, which take their time, and an empty line says so.
COMMAND = (
    IGNORE_SIGNALS
    + """\
print(flush=True)
from pulzar.varidb.background import main
main()
"""
)

_NICENESS = 15


def _step_back() -> None:
    """Take only what requests leave of the processors."""
    try:
        # Any other task that wakes up goes first; a nice one would keep its slice.
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:  # a sandbox that does not allow it
        os.nice(_NICENESS)


def main() -> None:
    """Serve tasks until stdin closes."""
    die_with_parent()
    _step_back()
    disk = SystemDisk()
    decode = msgspec.json.Decoder(Task).decode
    for line in sys.stdin.buffer:
        task = decode(line)
        try:
            answer = run_seal(task, disk) if isinstance(task, Seal) else _with_index(task, disk)
        except Exception as error:  # a bug; it must not end the server, again and again
            traceback.print_exc()
            answer = Failed(f"a bug: {error!r}")
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.buffer.flush()


def _with_index(task: Compact | Scrub, disk: SystemDisk) -> Answer:
    try:
        index = Index.open_readonly(task.views)
    except PulzarError as error:
        return Failed(str(error))
    try:
        if isinstance(task, Scrub):
            return run_scrub(task, disk, index)
        return run_compact(task, disk, index)
    finally:
        index.close(clean=False)
