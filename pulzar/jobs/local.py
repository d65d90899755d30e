"""The engine that needs nothing else: agents that have slots free ask, and are given what waits.

    an agent asks (Turn) -> it waits until jobs are for it -> their numbers

Jobs go in the order of their priority, then of their ids, each to the node with the most slots
free. A job that names a key goes to a node that has it, if one has a slot free. An agent that wants
more than one job, since jobs are short, gets its share of a long queue.
"""

import asyncio

import msgspec

from pulzar.jobs.messages import Turn
from pulzar.jobs.queue import Queue
from pulzar.jobs.record import Job
from pulzar.jobs.workforce import Workforce


class _Asking(msgspec.Struct, eq=False):
    """An agent that waits, and what it is to be given."""

    agent: str
    node: str
    wants: int
    free: int
    answer: "asyncio.Future[None]"
    numbers: list[int] = msgspec.field(default_factory=list)


class LocalEngine:
    """The engine. One event loop."""

    def __init__(self, queue: Queue, workforce: Workforce) -> None:
        self._queue = queue
        self._workforce = workforce
        self._asking: dict[str, _Asking] = {}
        self.scheduler = 0

    def start(self) -> None:
        """Nothing is to be begun."""

    async def jobs_for(self, turn: Turn, *, timeout_s: float) -> list[int]:
        """What an agent is to be given; waits for that."""
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asking = _Asking(turn.agent, turn.node, turn.wants, turn.free, answer)
        self._dismiss(turn.agent)
        self._asking[turn.agent] = asking
        self.match()
        try:
            await asyncio.wait([answer], timeout=timeout_s)
        except asyncio.CancelledError:
            for number in asking.numbers:
                self._queue.put_back(number)
            self.match()
            raise
        finally:
            if self._asking.get(turn.agent) is asking:
                del self._asking[turn.agent]
        return asking.numbers

    def match(self) -> None:
        """Give jobs to the agents that wait."""
        share = max(1, len(self._queue) // max(1, self._workforce.slots))

        def take(job: Job) -> bool:
            asking = self._choose(job)
            if asking is None:
                return False
            asking.numbers.append(job.id)
            if len(asking.numbers) >= min(asking.wants, share):
                self._dismiss(asking.agent)
            return True

        self._queue.offer(take, goes_on=lambda: bool(self._asking))
        for asking in list(self._asking.values()):
            if asking.numbers:
                self._dismiss(asking.agent)

    def _choose(self, job: Job) -> _Asking | None:
        nodes = self._workforce.fitting(job, (one.node for one in self._asking.values()))
        fitting = (one for one in self._asking.values() if one.node in nodes)
        return max(fitting, key=lambda one: one.free - len(one.numbers), default=None)

    def _dismiss(self, agent: str) -> None:
        """Let an agent wait no longer."""
        asking = self._asking.pop(agent, None)
        if asking is not None and not asking.answer.done():
            asking.answer.set_result(None)

    def leave(self) -> None:
        """Let nobody wait any longer."""
        for agent in list(self._asking):
            self._dismiss(agent)

    def forget(self, agent: str) -> None:
        """An agent has gone."""
        self._dismiss(agent)

    async def close(self) -> None:
        """End."""
        self.leave()
