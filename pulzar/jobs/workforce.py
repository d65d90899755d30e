"""The agents that are there, and what each of them has to do. No I/O."""

import asyncio
from collections.abc import Callable, Iterable, Sequence

import msgspec

from pulzar.errors import PulzarError
from pulzar.jobs.record import Job, Place
from pulzar.jobs.states import AT_WORK
from pulzar.limits import SHORT_JOB_S

_WEIGHT = 0.1  # of the job that ended last, in the mean of what jobs take


class Agent(msgspec.Struct, eq=False):
    """An agent that was heard. `ending` are jobs and attempts that it is to end, `told` those of
    them that it was told; `scheduler` is the port of the scheduler that it has joined, or 0, and
    `told_scheduler` that of the one that it is to join."""

    id: str
    node: str
    heard_s: float
    slots: int = 0
    scheduler: int = 0
    told_scheduler: int = 0
    ending: set[tuple[int, int]] = msgspec.field(default_factory=set)
    told: set[tuple[int, int]] = msgspec.field(default_factory=set)
    wake: asyncio.Event = msgspec.field(default_factory=asyncio.Event)


class Workforce:
    """All agents of a site. `holders(key)` are the nodes that have a key."""

    def __init__(self, holders: Callable[[str], Sequence[str]]) -> None:
        self._holders = holders
        self._agents: dict[str, Agent] = {}
        self._placed: dict[Place, dict[int, None]] = {}
        self._load: dict[str, int] = {}  # agents by id: the jobs that they have
        self._mean_s = 1.0

    @property
    def known(self) -> list[Agent]:
        """All that were heard, and have not gone."""
        return list(self._agents.values())

    @property
    def there(self) -> list[Agent]:
        """Those that have slots."""
        return [agent for agent in self._agents.values() if agent.slots]

    @property
    def slots(self) -> int:
        """How many slots there are."""
        return sum(agent.slots for agent in self._agents.values())

    @property
    def is_quick(self) -> bool:
        """Whether jobs were short, of late."""
        return self._mean_s < SHORT_JOB_S

    def get(self, agent: str) -> Agent | None:
        """The agent with an id."""
        return self._agents.get(agent)

    def add(self, agent: Agent) -> None:
        """There is another one."""
        self._agents[agent.id] = agent

    def remove(self, agent: Agent) -> None:
        """One has gone."""
        del self._agents[agent.id]

    def load(self, agent: str) -> int:
        """How many jobs an agent has."""
        return self._load.get(agent, 0)

    def given(self, place: Place) -> list[int]:
        """The jobs at a place."""
        return list(self._placed.get(place, ()))

    def places(self, agent: str) -> list[tuple[Place, int]]:
        """The jobs of an agent, and where they are."""
        return [
            (place, number)
            for place, numbers in self._placed.items()
            if place.agent == agent
            for number in numbers
        ]

    def changed(self, job: Job, before: Job | None) -> None:
        """A job is not what it was."""
        if before is not None and before.state in AT_WORK:
            self._displace(before)
        if job.state in AT_WORK:
            self._placed.setdefault(job.place, {})[job.id] = None
            self._load[job.place.agent] = self.load(job.place.agent) + 1

    def _displace(self, job: Job) -> None:
        numbers = self._placed.get(job.place, {})
        if job.id not in numbers:
            return
        del numbers[job.id]
        if not numbers:
            del self._placed[job.place]
        left = self._load.pop(job.place.agent) - 1
        if left:
            self._load[job.place.agent] = left

    def took(self, seconds: float) -> None:
        """A job took so long."""
        self._mean_s += _WEIGHT * (seconds - self._mean_s)

    def fitting(self, job: Job, nodes: Iterable[str]) -> set[str]:
        """Those of some nodes that a job may go to: that have its data, if it names some."""
        there = set(nodes)
        if not job.policy.data:
            return there
        try:
            near = there & set(self._holders(job.policy.data))
        except PulzarError:  # it is not known now
            near = set()
        return near if near or job.policy.requires_data else there
