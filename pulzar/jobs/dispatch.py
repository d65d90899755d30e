"""What becomes of the jobs of a site: who has them, what is known of them, who is still there.

    an agent asks (Turn)    -> an engine says which jobs -> the claims are durable -> Orders
    an agent speaks (Word)  -> what runs, what it wrote -> it waits until something is to be ended
    an agent is silent      -> after AGENT_LOST_S, what it ran is lost

Which job goes to which agent is decided by an engine (engine.py). An agent that asks the same turn
again is given the same orders again: its answer was lost on the way, and nothing was started.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

import msgspec

from pulzar.clock import Clock
from pulzar.errors import Conflict, JobNotFound, PulzarError, Unavailable
from pulzar.jobs import changes
from pulzar.jobs.engine import Engine
from pulzar.jobs.ledger import Ledger
from pulzar.jobs.messages import (
    Before,
    Done,
    Given,
    Heard,
    News,
    Order,
    Recorded,
    Result,
    Turn,
    Word,
)
from pulzar.jobs.queue import Queue
from pulzar.jobs.record import Job, Place
from pulzar.jobs.states import AT_WORK, FINISHED, Event, State
from pulzar.jobs.workforce import Agent, Workforce
from pulzar.limits import (
    AGENT_LOST_S,
    JOB_DATA_WAIT_S,
    JOB_LOG_BYTES_MAX,
    JOBS_AGE_LOOK_S,
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


class Dispatcher:
    """The jobs of one site, and the agents that run them. One event loop.

    `draw` gives a number in [0, 1). What waits is in `queue`, who is there in `workforce`.
    """

    def __init__(
        self,
        ledger: Ledger,
        queue: Queue,
        workforce: Workforce,
        engine: Engine,
        *,
        clock: Clock,
        draw: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._queue = queue
        self._workforce = workforce
        self._engine = engine
        self._clock = clock
        self._draw = draw
        self._live: dict[int, Live] = {}
        self._waiters: dict[int, list[asyncio.Future[None]]] = {}
        self._ticking: asyncio.Task[None] | None = None
        self._without_data: dict[int, float] = {}  # jobs by id, since when
        self._data_s = 0.0  # monotonic; when to look for them
        self._looked_s = 0.0  # monotonic; when it was last looked around
        self.is_open = True  # until it is to end

    def start(self) -> None:
        """Begin, when the ledger has been loaded."""
        now_s = self._looked_s = self._clock.monotonic_s()
        for job in self._ledger.in_states(AT_WORK):
            if self._workforce.get(job.place.agent) is None:
                self._workforce.add(Agent(job.place.agent, job.place.node, now_s))
            self._workforce.changed(job, None)
        for job in self._ledger.in_states([State.PENDING]):
            self._queue.add(job, now_ms=self._clock.now_ms())
        self._engine.start()
        self._ticking = asyncio.create_task(self._tick())

    def leave(self) -> None:
        """It is to end: who waits is answered that there is nothing."""
        self.is_open = False
        self._engine.leave()
        for agent in self._workforce.known:
            agent.wake.set()
        for number in self._waiters:
            self._tell(number)

    async def close(self) -> None:
        """End."""
        self.leave()
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.wait([self._ticking])
        await self._engine.close()

    # What is known.

    def counts(self) -> dict[str, float]:
        """How many agents there are, and how many of them have joined the scheduler."""
        there = self._workforce.there
        return {
            "jobs_agents": len(there),
            "jobs_agents_joined": len([agent for agent in there if agent.scheduler]),
        }

    def reason(self, job: Job) -> str:
        """Why a job waits; empty for one that does not."""
        if job.state != State.PENDING:
            return ""
        if job.not_before_ms > self._clock.now_ms():
            return "waiting-retry"
        nodes = {agent.node for agent in self._workforce.there}
        if not nodes:
            return "waiting-node"
        if job.policy.requires_data and not self._workforce.fitting(job, nodes):
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
        self._workforce.changed(job, before)
        if job.state == State.PENDING:
            self._queue.add(job, now_ms=self._clock.now_ms())
            self._engine.match()
        if job.state not in AT_WORK:
            self._live.pop(job.id, None)
        self._tell(job.id)

    def _tell(self, number: int) -> None:
        for news in self._waiters.get(number, ()):
            if not news.done():
                news.set_result(None)

    # What agents ask.

    async def orders(self, turn: Turn) -> Given:
        """An agent's slots are free: it waits for orders. May be cancelled where the agent has
        gone. Raises Unavailable."""
        self._hear(turn.agent, turn.node)
        place = Place(turn.node, turn.agent, turn.turn)
        again = self._workforce.given(place)
        if again:
            return Given([_order(self._ledger.get(number)) for number in again])
        end_s = self._clock.monotonic_s() + turn.wait_s
        while self.is_open:
            left_s = max(0.0, end_s - self._clock.monotonic_s())
            numbers = turn.jobs or await self._engine.jobs_for(turn, timeout_s=left_s)
            claimed = await asyncio.gather(
                *(self._claim(number, place) for number in numbers), return_exceptions=True
            )
            for job in claimed:
                if isinstance(job, BaseException):  # what was claimed is given to the next try
                    raise job
            orders = [_order(job) for job in claimed if isinstance(job, Job)]
            if orders or turn.jobs or not numbers:
                return Given(orders)
        return Given()

    async def _claim(self, number: int, place: Place) -> Job | None:
        try:
            return await self._ledger.change(number, lambda job: changes.claim(job, place))
        except JobNotFound:
            return None
        except BaseException:  # cancellation too: another agent may have the job
            self._queue.put_back(number)
            self._engine.match()
            raise

    async def record(self, done: Done) -> Recorded:
        """Attempts have ended. Raises Unavailable."""
        agent = self._hear(done.agent, done.node)
        await asyncio.gather(*(self._finish(agent, result) for result in done.results))
        return Recorded()

    async def _finish(self, agent: Agent, result: Result) -> None:
        log = result.log
        if result.log_dropped:
            log += f"\n... and {result.log_dropped} bytes more that were not kept\n".encode()
        agent.ending.discard((result.job, result.attempt))
        agent.told.discard((result.job, result.attempt))
        if result.event != Event.RETURN:
            self._workforce.took((result.finished_ms - result.started_ms) / 1000)
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
        if (agent.slots, agent.scheduler) != (word.slots, word.scheduler):
            agent.slots, agent.scheduler = word.slots, word.scheduler
            self._engine.match()
        for news in word.running:
            await self._take_news(agent, news)
        if self.is_open and word.wait_s and not self._has_news_for(agent):
            agent.wake.clear()
            try:
                async with asyncio.timeout(word.wait_s):
                    await agent.wake.wait()
            except TimeoutError:
                agent.told.clear()  # an answer may have been lost
        agent.heard_s = self._clock.monotonic_s()
        ending = sorted(agent.ending - agent.told)
        agent.told.update(ending)
        agent.told_scheduler = self._engine.scheduler
        return Heard(ending, agent.told_scheduler)

    def _has_news_for(self, agent: Agent) -> bool:
        is_elsewhere = self._engine.scheduler != agent.told_scheduler
        return bool(agent.ending - agent.told) or is_elsewhere

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
        agent = self._workforce.get(agent_id)
        now_s = self._clock.monotonic_s()
        if agent is None:
            agent = Agent(agent_id, node, now_s)
            for other in self._workforce.known:
                if other.node == node:
                    other.heard_s = now_s - AGENT_LOST_S
            self._workforce.add(agent)
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
            agent = self._workforce.get(job.place.agent)
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
            for agent in self._workforce.known:  # something to say could not be heard
                agent.heard_s += away_s
        self._looked_s = now_s
        self._queue.look(now_ms=now_ms)
        self._engine.match()
        if now_s >= self._data_s:
            self._data_s = now_s + JOBS_AGE_LOOK_S
            await self._give_up_without_data(now_s)
        for agent in self._workforce.known:
            if now_s - agent.heard_s >= AGENT_LOST_S:
                await self._lose(agent)

    async def _give_up_without_data(self, now_s: float) -> None:
        """What must run where its data is, and has waited JOB_DATA_WAIT_S for such a node."""
        nodes = {agent.node for agent in self._workforce.there}
        waiting = {
            job.id: self._without_data.get(job.id, now_s)
            for job in self._ledger.in_states([State.PENDING])
            if job.policy.requires_data and not self._workforce.fitting(job, nodes)
        }
        self._without_data = waiting
        for number, since_s in waiting.items():
            if now_s - since_s >= JOB_DATA_WAIT_S:
                give_up = partial(
                    changes.give_up,
                    reason=f"no node had its data for {JOB_DATA_WAIT_S:g} s",
                    now_ms=self._clock.now_ms(),
                )
                await self._ledger.change(number, give_up)

    async def _take_over(self, before: Before) -> None:
        """An agent has gone, and it is known what it had begun: the rest is given to others."""
        begun = set(before.begun)
        for _, number in self._workforce.places(before.agent):
            attempt = self._ledger.get(number).attempt
            if (number, attempt) not in begun:
                give_back = partial(changes.give_back, agent=before.agent, attempt=attempt)
                await self._ledger.change(number, give_back)

    async def _lose(self, agent: Agent) -> None:
        now_ms = self._clock.now_ms()
        for _, number in self._workforce.places(agent.id):
            _log.warning("job %d is lost: no word from node %s", number, agent.node)
            attempt = self._ledger.get(number).attempt
            lose = partial(changes.lose, agent=agent.id, attempt=attempt, now_ms=now_ms)
            await self._ledger.change(number, lose)
        self._workforce.remove(agent)
        self._engine.forget(agent.id)


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
