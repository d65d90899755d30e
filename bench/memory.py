"""Memory of a server while it works: PSS of all its processes, without the page cache.

Counted is Pss_Anon + Pss_Shmem of /proc/PID/smaps_rollup, summed over the processes: heap,
stacks and anonymous shared memory, with pages that processes share divided among them. Not
counted is Pss_File: pages of files (the mapped LMDB views, the programs themselves), which are
page cache that the kernel takes back when it needs the room.
"""

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.servers import Server

INTERVAL_S = 0.1
COUNTED = frozenset({"Pss_Anon", "Pss_Shmem"})


def counted_kib(smaps_rollup: str) -> int:
    """The counted KiB of one process, from the text of its smaps_rollup."""
    total = 0
    for line in smaps_rollup.splitlines():
        name, _, amount = line.partition(":")
        if name in COUNTED:
            total += int(amount.split()[0])
    return total


def memory_mib(server: Server) -> float:
    """What all processes of `server` hold now."""
    total = 0
    for pid in server.pids():
        try:
            total += counted_kib(Path(f"/proc/{pid}/smaps_rollup").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended since it was listed
    return total / 1024


class MemoryWatch:
    """Samples a server in a thread as long as the block runs; `peak_mib` is the largest."""

    def __init__(self, server: Server, *, interval_s: float = INTERVAL_S) -> None:
        self._server = server
        self._interval_s = interval_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.peak_mib = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            self.peak_mib = max(self.peak_mib, memory_mib(self._server))
            if self._ended.wait(self._interval_s):
                return
