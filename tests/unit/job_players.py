"""A site whose store is a dict, and agents that a test plays."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from pulzar.jobs.ledger import Kept
from pulzar.jobs.messages import Before, Done, News, Order, Result, Turn, Word
from pulzar.jobs.scripts import Scripts
from pulzar.jobs.states import Event, State
from pulzar.jobs.system import JobSystem
from pulzar.limits import AGENT_LOST_S
from pulzar.testing import ManualClock
from pulzar.testing.memory_store import MemoryStore

DEADLINE_S = 10.0


class Site:
    """A store, what is where in it, and the job system, which may be started again."""

    def __init__(self, scripts: Scripts) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(self.clock)
        self.scripts = scripts
        self.where: dict[str, list[str]] = {}
        self.kept = Kept(10_000, 30 * 24 * 3600)
        self.system = self._made()

    def _made(self) -> JobSystem:
        return JobSystem(
            self.store,
            self.scripts,
            clock=self.clock,
            holders=lambda key: self.where.get(key, []),
            draw=lambda: 0.0,
            kept=self.kept,
        )

    async def start(self) -> None:
        self.system.start()
        await self.until(lambda: self.system._is_loaded)

    async def restart(self) -> None:
        await self.system.close()
        self.system = self._made()
        await self.start()

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not holds():  # noqa: ASYNC110  # there is no event to wait for
                await asyncio.sleep(0.001)

    async def launch(self, body: bytes = b"", token: str = "") -> int:
        return (await self.system.launch("d", "s", body, token)).id

    async def silence(self) -> None:
        """Let AGENT_LOST_S pass without a word from anybody, while the master looks around."""
        looked = self.system.dispatcher._look_around
        for _ in range(round(AGENT_LOST_S)):
            self.clock.advance(1)
            await looked()

    async def schedule(self, **scheduled: object) -> int:
        return await self.launch(json.dumps({"n": 1, "scheduled": scheduled}).encode())

    def jobs(self) -> list[int]:
        """The ids of all jobs."""
        return sorted(job.id for job in self.system.ledger.in_states(State))

    def state(self, number: int) -> State:
        return self.system.ledger.get(number).state


class Player:
    """An agent with one slot, played by a test."""

    def __init__(self, site: Site, agent: str = "agent", node: str = "node") -> None:
        self.site = site
        self.agent = agent
        self.node = node
        self.turn = 0

    async def ask(
        self, result: Result | None = None, *, again: bool = False, wait_s: float = DEADLINE_S
    ) -> Order | None:
        if not again:
            self.turn += 1
        if result is not None:
            await self.tell(result)
        orders = await self.many(1, wait_s=wait_s)
        return orders[0] if orders else None

    async def tell(self, *results: Result) -> None:
        await self.site.system.record(Done(self.agent, self.node, list(results)))

    async def many(self, wants: int, *, wait_s: float = DEADLINE_S) -> list[Order]:
        """Ask for several orders, in the turn that it is."""
        turn = Turn(
            agent=self.agent, node=self.node, turn=self.turn, wait_s=wait_s, wants=wants, free=1
        )
        return (await self.site.system.orders(turn)).orders

    async def order(self, result: Result | None = None) -> Order:
        order = await self.ask(result)
        assert order is not None
        return order

    async def speak(
        self,
        *running: Order,
        wait_s: float = 0.0,
        log: bytes = b"",
        before: Sequence[Before] = (),
    ) -> list[int]:
        news = [News(job=one.job, attempt=one.attempt, log=log) for one in running]
        word = Word(
            agent=self.agent,
            node=self.node,
            slots=1,
            wait_s=wait_s,
            running=news,
            before=list(before),
        )
        return [job for job, _ in (await self.site.system.word(word)).cancel]

    def result(self, order: Order, event: Event = Event.SUCCEED, output: str = "1") -> Result:
        now_ms = self.site.clock.now_ms()
        return Result(
            job=order.job,
            attempt=order.attempt,
            event=str(event),
            started_ms=now_ms,
            finished_ms=now_ms,
            output=output if event == Event.SUCCEED else "",
            log=b"written\n",
        )


@asynccontextmanager
async def opened(scripts: Scripts) -> AsyncIterator[Site]:
    site = Site(scripts)
    await site.start()
    try:
        yield site
    finally:
        await site.system.close()
