"""Work on sealed segments in a process of its own, so that requests never wait for it.

    python -m pulzar.varidb.background

reads one task per line (JSON, task.py) on stdin and answers one line on stdout. What the new files
mean is decided by the serving process, which commits a line of the MANIFEST. The index is opened
read-only. This process ends when its stdin closes and, through PR_SET_PDEATHSIG, when its parent
dies; the serving process ends when this one dies (maintenance.py).
"""

import ctypes
import os
import signal
import sys

import msgspec

from pulzar.disk import SystemDisk
from pulzar.varidb.index import Index
from pulzar.varidb.task import Answer, Seal, Task, run_compact, run_seal

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent thread ends, however it ends."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Serve tasks until stdin closes."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    os.nice(5)
    disk = SystemDisk()
    decode = msgspec.json.Decoder(Task).decode
    for line in sys.stdin.buffer:
        task = decode(line)
        if isinstance(task, Seal):
            answer: Answer = run_seal(task, disk)
        else:
            index = Index.open_readonly(task.views)
            try:
                answer = run_compact(task, disk, index)
            finally:
                index.close(clean=False)
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
