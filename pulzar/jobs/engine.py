"""What an engine is: it says which of the jobs that wait goes to which agent."""

from typing import Protocol

from pulzar.jobs.messages import Turn


class Engine(Protocol):
    """An engine takes jobs from the queue and knows the workforce. One event loop.

    That a job has been given to an agent is true when the agent's claim is durable; until then an
    engine may give it to another one.
    """

    @property
    def scheduler(self) -> int:
        """The port of the scheduler that agents are to join; 0 for none."""

    def start(self) -> None:
        """Begin."""

    def match(self) -> None:
        """Something has changed: jobs, slots or agents. Give what can be given."""

    async def jobs_for(self, turn: Turn, *, timeout_s: float) -> list[int]:
        """What an agent that asks is to be given; waits for that. May be cancelled."""

    def forget(self, agent: str) -> None:
        """An agent has gone."""

    def leave(self) -> None:
        """It is to end: let nobody wait any longer."""

    async def close(self) -> None:
        """End."""
