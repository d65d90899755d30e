"""What the agents of a node have begun: a line for each attempt, written before it starts.

    agent/begun-ID     "job attempt", of the agent with that id

The files are not synced: they are for the next agent on this node, when a process has ended. After
the end of a whole machine nothing depends on them: what its agent had is lost then, begun or not.
"""

import os
import re
from collections.abc import Sequence

from pulzar.jobs.messages import Before
from pulzar.jobs.slot import Running
from pulzar.limits import AGENTS_BEFORE_MAX, BEGUN_MAX

_NAME = re.compile(r"begun-([0-9a-f]{1,64})")
_LINE = re.compile(rb"([0-9]{1,18}) ([0-9]{1,18})")


class Begun:
    """The file of one agent, and those of the agents before it. Raises OSError."""

    def __init__(self, directory: str, agent: str) -> None:
        self._directory = directory
        self._path = os.path.join(directory, f"begun-{agent}")
        self._file = -1
        self._count = 0
        self._begin_file(())

    def note(self, job: int, attempt: int, running: Sequence[Running | None]) -> None:
        """An attempt begins now, beside those that run. Raises OSError."""
        if self._count >= BEGUN_MAX:
            self._begin_file(running)
        os.write(self._file, b"%d %d\n" % (job, attempt))
        self._count += 1

    def _begin_file(self, running: Sequence[Running | None]) -> None:
        fresh = f"{self._path}.new"
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        orders = [one.order for one in running if one is not None]
        os.write(file, b"".join(b"%d %d\n" % (one.job, one.attempt) for one in orders))
        os.rename(fresh, self._path)
        if self._file >= 0:
            os.close(self._file)
        self._file, self._count = file, len(orders)

    def before(self) -> list[Before]:
        """What the agents before this one had begun. Raises OSError."""
        found = []
        for name in sorted(os.listdir(self._directory)):
            match = _NAME.fullmatch(name)
            if match is None or os.path.join(self._directory, name) == self._path:
                continue
            with open(os.path.join(self._directory, name), "rb") as file:
                lines = [_LINE.fullmatch(line) for line in file.read().splitlines()]
            begun = [(int(line[1]), int(line[2])) for line in lines if line is not None]
            found.append(Before(match[1], begun))
        return found[:AGENTS_BEFORE_MAX]

    def forget(self, before: Sequence[Before]) -> None:
        """The master knows of those. Raises OSError."""
        for one in before:
            os.unlink(os.path.join(self._directory, f"begun-{one.agent}"))
