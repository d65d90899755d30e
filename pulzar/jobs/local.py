"""The engine: which job goes to which free slot, and who is still there.

    a slot asks (Turn)      -> it waits until a job is for it -> the claim is durable -> Order
    an agent speaks (Word)  -> what runs, what it wrote -> it waits until something is to be ended
    an agent is silent      -> after AGENT_LOST_S, what it ran is lost

Jobs go in the order of their priority, then of their ids. A job that names a key goes to a node
that has it, if one has a slot free. A slot that asks the same turn again is given the same order
again: its answer was lost on the way, and nothing was started.
"""

import asyncio
import heapq
import logging
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from pulzar.clock import Clock
from pulzar.errors import Conflict, JobNotFound, PulzarError, Unavailable
from pulzar.jobs import changes
from pulzar.jobs.ledger import Ledger
from pulzar.jobs.messages import Before, Given, Heard, News, Order, Result, Turn, Word
from pulzar.jobs.record import Job, Place
from pulzar.jobs.states import AT_WORK, FINISHED, State
from pulzar.limits import (
    AGENT_LOST_S,
    JOB_LOG_BYTES_MAX,
    JOB_PLACES_TRIED_MAX,
    JOBS_AWAY_S,
    JOBS_TICK_S,
)

_log = logging.getLogger(__name__)


class Live(msgspec.Struct):
    """What is known of an attempt that runs."""

    attempt: int
    log: bytearray
    progress: float = -1.0
    note: str = ""


class Agent(msgspec.Struct, eq=False):
    """An agent that was heard. `ending` are jobs and attempts that it is to end, `told` those of
    them that it was told."""

    id: str
    node: str
    heard_s: float
    slots: int = 0
    ending: set[tuple[int, int]] = msgspec.field(default_factory=set)
    told: set[tuple[int, int]] = msgspec.field(default_factory=set)
    wake: asyncio.Event = msgspec.field(default_factory=asyncio.Event)


class _Free(msgspec.Struct, eq=False):
    """A slot that waits for a job."""

    node: str
    chosen: "asyncio.Future[int]"


class LocalEngine:
    """The jobs of one site, on the agents that ask for them. One event loop.

    `holders(key)` are the nodes that have a key; `draw` gives a number in [0, 1).
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        clock: Clock,
        holders: Callable[[str], Sequence[str]],
        draw: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._holders = holders
        self._draw = draw
        self._pending: list[tuple[int, int]] = []  # a heap: -priority, id
        self._later: list[tuple[int, int]] = []  # a heap: when, id
        self._free: dict[tuple[str, int], _Free] = {}
        self._placed: dict[Place, int] = {}
        self._agents: dict[str, Agent] = {}
        self._live: dict[int, Live] = {}
        self._waiters: dict[int, list[asyncio.Future[None]]] = {}
        self._ticking: asyncio.Task[None] | None = None
        self._looked_s = 0.0  # monotonic; when it was last looked around
        self.is_open = True  # until it is to end

    def start(self) -> None:
        """Begin, when the ledger has been loaded."""
        now_s = self._looked_s = self._clock.monotonic_s()
        for job in self._ledger.in_states(AT_WORK):
            agent = job.place.agent
            self._agents.setdefault(agent, Agent(agent, job.place.node, now_s))
            self._placed[job.place] = job.id
        for job in self._ledger.in_states([State.PENDING]):
            self._enqueue(job)
        self._ticking = asyncio.create_task(self._tick())

    def leave(self) -> None:
        """It is to end: who waits is answered that there is nothing."""
        self.is_open = False
        for free in self._free.values():
            free.chosen.cancel()
        for agent in self._agents.values():
            agent.wake.set()
        for number in self._waiters:
            self._tell(number)

    async def close(self) -> None:
        """End."""
        self.leave()
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.wait([self._ticking])

    # What is known.

    @property
    def agents(self) -> list[Agent]:
        """The agents that are there."""
        return [agent for agent in self._agents.values() if agent.slots]

    def reason(self, job: Job) -> str:
        """Why a job waits; empty for one that does not."""
        if job.state != State.PENDING:
            return ""
        if job.not_before_ms > self._clock.now_ms():
            return "waiting-retry"
        if not self.agents:
            return "waiting-node"
        if job.policy.requires_data and not self._fits(job, {a.node for a in self.agents}):
            return "waiting-data"
        return "waiting-slot"

    def live(self, job: Job) -> Live | None:
        """What is known of the attempt of a job that runs."""
        live = self._live.get(job.id)
        return live if live is not None and live.attempt == job.attempt else None

    async def until_news(self, number: int, timeout_s: float) -> None:
        """Wait until something has changed about a job, or the time is over."""
        news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(number, [])
        waiters.append(news)
        try:
            await asyncio.wait([news], timeout=timeout_s)
        finally:
            waiters.remove(news)
            if not waiters and self._waiters.get(number) is waiters:
                del self._waiters[number]

    def changed(self, job: Job, before: Job | None) -> None:
        """The ledger says: a job is not what it was."""
        if before is not None:
            self._placed.pop(before.place, None)
        if job.state == State.PENDING:
            self._enqueue(job)
            self._match()
        if job.state in AT_WORK:
            self._placed[job.place] = job.id
        else:
            self._live.pop(job.id, None)
        self._tell(job.id)

    def _tell(self, number: int) -> None:
        for news in self._waiters.get(number, ()):
            if not news.done():
                news.set_result(None)

    # What agents ask.

    async def record(self, turn: Turn) -> None:
        """What a slot did before it asked. Raises Unavailable."""
        agent = self._hear(turn.agent, turn.node)
        if turn.result is not None:
            await self._finish(agent, turn.result)

    async def order(self, turn: Turn) -> Given:
        """A slot is free: it waits for an order. May be cancelled where the agent has gone. Raises
        Unavailable."""
        place = Place(turn.node, turn.agent, turn.slot, turn.turn)
        again = self._order_of(place)
        if again is not None:
            return Given(again)
        end_s = self._clock.monotonic_s() + turn.wait_s
        while self.is_open and (left_s := end_s - self._clock.monotonic_s()) > 0:
            number = await self._wait_for_job(turn, left_s)
            if number is None:
                break
            job = await self._claim(number, place)
            if job is not None:
                return Given(_order(job))
        return Given()

    async def _wait_for_job(self, turn: Turn, timeout_s: float) -> int | None:
        slot = turn.agent, turn.slot
        chosen: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        before = self._free.pop(slot, None)
        if before is not None:
            before.chosen.cancel()
        free = self._free[slot] = _Free(turn.node, chosen)
        self._match()
        try:
            await asyncio.wait([chosen], timeout=timeout_s)
        except asyncio.CancelledError:
            if chosen.done() and not chosen.cancelled():
                self._requeue(chosen.result())
            raise
        finally:
            if self._free.get(slot) is free:
                del self._free[slot]
        return chosen.result() if chosen.done() and not chosen.cancelled() else None

    async def _claim(self, number: int, place: Place) -> Job | None:
        try:
            return await self._ledger.change(number, lambda job: changes.claim(job, place))
        except JobNotFound:
            return None
        except BaseException:  # cancellation too: another slot may have the job
            self._requeue(number)
            raise

    def _order_of(self, place: Place) -> Order | None:
        number = self._placed.get(place)
        return None if number is None else _order(self._ledger.get(number))

    async def _finish(self, agent: Agent, result: Result) -> None:
        log = result.log
        if result.log_dropped:
            log += f"\n... and {result.log_dropped} bytes more that were not kept\n".encode()
        agent.ending.discard((result.job, result.attempt))
        agent.told.discard((result.job, result.attempt))
        try:
            await self._ledger.change(
                result.job,
                lambda job: changes.finish(job, result, agent=agent.id, draw=self._draw),
                log=log,
            )
        except JobNotFound:
            _log.info("the result of job %d comes too late: it is forgotten", result.job)

    async def word(self, word: Word) -> Heard:
        """An agent says what it runs, and waits until something is to be ended."""
        for before in word.before:
            await self._take_over(before)
        agent = self._hear(word.agent, word.node)
        agent.slots = word.slots
        for news in word.running:
            await self._take_news(agent, news)
        if self.is_open and word.wait_s and not agent.ending - agent.told:
            agent.wake.clear()
            try:
                async with asyncio.timeout(word.wait_s):
                    await agent.wake.wait()
            except TimeoutError:
                agent.told.clear()  # an answer may have been lost
        agent.heard_s = self._clock.monotonic_s()
        ending = sorted(agent.ending - agent.told)
        agent.told.update(ending)
        return Heard(ending)

    async def _take_news(self, agent: Agent, news: News) -> None:
        now_ms = self._clock.now_ms()
        try:
            job = self._ledger.get(news.job)
            if job.state not in AT_WORK or (job.attempt, job.place.agent) != (
                news.attempt,
                agent.id,
            ):
                agent.ending.add((news.job, news.attempt))  # nobody waits for it any more
                return
            await self._ledger.change(
                news.job, lambda job: changes.start(job, attempt=news.attempt, now_ms=now_ms)
            )
        except JobNotFound:
            agent.ending.add((news.job, news.attempt))
            return
        live = self._live.get(news.job)
        if live is None or live.attempt != news.attempt:
            live = self._live[news.job] = Live(news.attempt, bytearray())
        if news.offset <= len(live.log):
            live.log[news.offset :] = news.log
            del live.log[JOB_LOG_BYTES_MAX:]
        live.progress, live.note = news.progress, news.note
        self._tell(news.job)

    def _hear(self, agent_id: str, node: str) -> Agent:
        """There is a word from an agent. Another one on its node before it has gone."""
        agent = self._agents.get(agent_id)
        now_s = self._clock.monotonic_s()
        if agent is None:
            agent = self._agents[agent_id] = Agent(agent_id, node, now_s)
            for other in self._agents.values():
                if other.node == node and other is not agent:
                    other.heard_s = now_s - AGENT_LOST_S
        agent.heard_s = now_s
        return agent

    # What users ask.

    async def cancel(self, number: int, *, timeout_s: float) -> Job:
        """End a job, and wait until that is sure. Raises JobNotFound, Conflict, Unavailable."""
        now_ms = self._clock.now_ms()
        cancelled = await self._ledger.change(
            number, lambda job: changes.cancel_waiting(job, now_ms=now_ms)
        )
        if cancelled is not None:
            return cancelled
        end_s = self._clock.monotonic_s() + timeout_s
        while True:
            job = self._ledger.get(number)
            if job.state in FINISHED:
                break
            if job.state == State.PENDING:  # it was tried again meanwhile
                return await self.cancel(number, timeout_s=timeout_s)
            agent = self._agents.get(job.place.agent)
            if agent is not None and (job.id, job.attempt) not in agent.ending:
                agent.ending.add((job.id, job.attempt))
                agent.wake.set()
            left_s = end_s - self._clock.monotonic_s()
            if left_s <= 0:
                raise Unavailable(
                    f"job {number} was told to end, but node {job.place.node} did not confirm it"
                )
            await self.until_news(number, left_s)
        if job.state != State.CANCELLED:
            raise Conflict(
                f"job {number} has ended before it could be cancelled: it is {job.state}"
            )
        return job

    # What goes where.

    def _enqueue(self, job: Job) -> None:
        if job.not_before_ms > self._clock.now_ms():
            heapq.heappush(self._later, (job.not_before_ms, job.id))
        else:
            heapq.heappush(self._pending, (-job.policy.priority, job.id))

    def _requeue(self, number: int) -> None:
        try:
            job = self._ledger.get(number)
        except JobNotFound:
            return
        if job.state == State.PENDING:
            self._enqueue(job)
            self._match()

    def _match(self) -> None:
        """Give jobs to the slots that wait."""
        passed: list[tuple[int, int]] = []
        while self._free and self._pending and len(passed) < JOB_PLACES_TRIED_MAX:
            order = heapq.heappop(self._pending)
            try:
                job = self._ledger.get(order[1])
            except JobNotFound:
                continue
            if job.state != State.PENDING:
                continue
            slot = self._choose(job)
            if slot is None:
                passed.append(order)
                continue
            self._free.pop(slot).chosen.set_result(job.id)
        for order in passed:
            heapq.heappush(self._pending, order)

    def _choose(self, job: Job) -> tuple[str, int] | None:
        """The slot for a job: on a node with its data, if it names some; else that of the node with
        the most slots free."""
        by_node: dict[str, list[tuple[str, int]]] = {}
        for slot, free in self._free.items():
            by_node.setdefault(free.node, []).append(slot)
        fitting = self._fits(job, set(by_node))
        if not fitting:
            return None
        return max((by_node[node] for node in sorted(fitting)), key=len)[0]

    def _fits(self, job: Job, nodes: set[str]) -> set[str]:
        """The nodes that a job may go to."""
        if not job.policy.data:
            return nodes
        try:
            near = nodes & set(self._holders(job.policy.data))
        except PulzarError:  # it is not known now
            near = set()
        return near if near or job.policy.requires_data else nodes

    # Now and then.

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(JOBS_TICK_S)
            try:
                await self._look_around()
            except PulzarError as error:
                _log.warning("jobs: %s", error)
            except Exception:  # a bug: what is lost must still be noticed
                _log.exception("a bug met the jobs")

    async def _look_around(self) -> None:
        now_s, now_ms = self._clock.monotonic_s(), self._clock.now_ms()
        if (away_s := now_s - self._looked_s) > JOBS_AWAY_S:  # this process was stopped: who had
            for agent in self._agents.values():  # something to say could not be heard
                agent.heard_s += away_s
        self._looked_s = now_s
        while self._later and self._later[0][0] <= now_ms:
            self._requeue(heapq.heappop(self._later)[1])
        for agent in list(self._agents.values()):
            if now_s - agent.heard_s >= AGENT_LOST_S:
                await self._lose(agent)

    async def _take_over(self, before: Before) -> None:
        """An agent has gone, and it is known what it had begun: the rest is given to others."""
        begun = set(before.begun)
        for place, number in list(self._placed.items()):
            attempt = self._ledger.get(number).attempt
            if place.agent == before.agent and (number, attempt) not in begun:
                give_back = partial(changes.give_back, agent=before.agent, attempt=attempt)
                await self._ledger.change(number, give_back)

    async def _lose(self, agent: Agent) -> None:
        now_ms = self._clock.now_ms()
        for place, number in list(self._placed.items()):
            if place.agent == agent.id:
                _log.warning("job %d is lost: no word from node %s", number, agent.node)
                attempt = self._ledger.get(number).attempt
                lose = partial(changes.lose, agent=agent.id, attempt=attempt, now_ms=now_ms)
                await self._ledger.change(number, lose)
        for slot in [slot for slot in self._free if slot[0] == agent.id]:
            self._free.pop(slot).chosen.cancel()
        del self._agents[agent.id]


def _order(job: Job) -> Order:
    return Order(
        job=job.id,
        attempt=job.attempt,
        directory=job.directory,
        script=job.script,
        digest=job.digest,
        arguments=job.arguments,
        timeout_s=job.policy.timeout_s,
    )
