"""The job system of one site, as users see it: launch, look, cancel, retry.

It begins as soon as the store can be read, which a master that waits for its volumes cannot; until
then every question is answered that it is not ready.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from pulzar.clock import Clock
from pulzar.errors import Conflict, InvalidParameter, NotReady, PulzarError
from pulzar.jobs import changes
from pulzar.jobs.dispatch import Dispatcher
from pulzar.jobs.engine import Engine
from pulzar.jobs.launch import Wanted, parse_launch
from pulzar.jobs.ledger import Kept, Ledger
from pulzar.jobs.local import LocalEngine
from pulzar.jobs.maps import Map, Maps
from pulzar.jobs.messages import Done, Given, Heard, Recorded, Turn, Word
from pulzar.jobs.queue import Queue
from pulzar.jobs.record import Job
from pulzar.jobs.schedule import Schedule, parse_timing
from pulzar.jobs.scripts import Scripts
from pulzar.jobs.states import AT_WORK, FINISHED, State
from pulzar.jobs.timetable import Timetable
from pulzar.jobs.workforce import Workforce
from pulzar.limits import AGENT_LOST_S, CHILD_KILL_S, JOBS_TICK_S
from pulzar.varidb.entry import Store

_log = logging.getLogger(__name__)

_LOAD_AGAIN_S = 0.02  # between two looks whether the store can be read


class JobSystem:
    """See the module. One event loop."""

    def __init__(
        self,
        store: Store,
        scripts: Scripts,
        *,
        clock: Clock,
        holders: Callable[[str], Sequence[str]],
        draw: Callable[[], float],
        engine: Callable[[Queue, Workforce], Engine] = LocalEngine,
        kept: Kept,
    ) -> None:
        """`engine` makes the engine; see Dispatcher and Ledger for the others."""
        self.scripts = scripts
        self._store = store
        self._is_loaded = False
        self._ledger = Ledger(store, clock=clock, changed=self._changed, kept=kept)
        queue, workforce = Queue(self._ledger.get), Workforce(holders)
        self._dispatcher = Dispatcher(
            self._ledger, queue, workforce, engine(queue, workforce), clock=clock, draw=draw
        )
        self._timetable = Timetable(store, self._ledger, clock=clock, launch=self._accept)
        self._maps = Maps(store, self._ledger, clock=clock)
        self._clock = clock
        self._working: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._working = asyncio.create_task(self._work())

    def leave(self) -> None:
        """It is to end: answer those who wait."""
        self._dispatcher.leave()

    async def close(self) -> None:
        """End. What runs goes on, as far as its agent does."""
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait([self._working])
        await self._dispatcher.close()

    async def _work(self) -> None:
        """Read all jobs as soon as that can be done; then, beside requests, tidy up."""
        while True:
            try:
                if self._store.not_ready() is None:
                    await self._maps.load()
                    await self._ledger.load(self._maps.numbers)
                    await self._timetable.load()
                    break
            except PulzarError as error:
                _log.warning("the jobs could not be read, this is tried again: %s", error)
            await asyncio.sleep(_LOAD_AGAIN_S)
        for job in self._ledger.in_states(State):
            if job.parent:
                self._maps.changed(job, None)
        self._dispatcher.start()
        self._is_loaded = True

        while True:
            try:
                await self._ledger.settle()
                await self._timetable.look()
                await self._maps.settle()
            except PulzarError as error:
                _log.warning("jobs: %s", error)
            except Exception:  # a bug: schedules must go on
                _log.exception("a bug met the jobs")
            await asyncio.sleep(JOBS_TICK_S)

    def _changed(self, job: Job, before: Job | None) -> None:
        if job.parent:
            self._maps.changed(job, before)
        self._dispatcher.changed(job, before)

    @property
    def ledger(self) -> Ledger:
        """All jobs. Raises NotReady."""
        self._require()
        return self._ledger

    @property
    def timetable(self) -> Timetable:
        """All schedules. Raises NotReady."""
        self._require()
        return self._timetable

    @property
    def maps(self) -> Maps:
        """All maps. Raises NotReady."""
        self._require()
        return self._maps

    @property
    def dispatcher(self) -> Dispatcher:
        """What runs. Raises NotReady."""
        self._require()
        return self._dispatcher

    def _require(self) -> None:
        if not self._is_loaded:
            raise NotReady(f"the jobs are not known yet: {self._store.not_ready() or 'one moment'}")

    async def launch(self, directory: str, script: str, body: bytes, token: str) -> Job | Schedule:
        """Accept a job, or a schedule that launches it again and again: it is durable. Raises
        ScriptNotFound, InvalidParameter, OutOfSpace, Unavailable, OutcomeUnknown."""
        self._require()
        wanted = parse_launch(body)
        if wanted.scheduled is None:
            return await self._accept(directory, script, wanted, token)
        if token:
            raise InvalidParameter("a schedule has no Idempotency-Key: look at /admin/jobs first")
        timing = parse_timing(wanted.scheduled, now_ms=self._clock.now_ms())
        self.scripts.find(directory, script)
        return await self._timetable.add(directory, script, wanted, timing)

    async def _accept(self, directory: str, script: str, wanted: Wanted, token: str) -> Job:
        archive = self.scripts.find(directory, script)
        return await self._ledger.add(directory, script, archive, wanted, token)

    async def launch_many(self, directory: str, script: str, body: bytes) -> Map:
        """Accept many jobs, for each of some arguments or keys: they are durable. Raises as
        `launch`."""
        maps = self.maps
        archive = self.scripts.find(directory, script)
        return await maps.add(directory, script, archive, body)

    async def cancel(self, number: int) -> Job | Schedule | Map:
        """End a job, or all jobs of a map, and wait until that is sure; or a schedule. Raises
        JobNotFound, Conflict, Unavailable."""
        self._require()
        one = self._maps.get(number)
        if one is not None:
            # First those that wait: else they begin where others end.
            await self._maps.each(one, self._cancel_one, [State.PENDING])
            await self._maps.each(one, self._cancel_one, sorted(AT_WORK))
            return one
        if self._timetable.get(number) is not None:
            return await self._timetable.cancel(number)
        return await self.dispatcher.cancel(number, timeout_s=AGENT_LOST_S + CHILD_KILL_S)

    async def _cancel_one(self, number: int) -> None:
        with contextlib.suppress(Conflict):  # it has ended by itself
            await self.dispatcher.cancel(number, timeout_s=AGENT_LOST_S + CHILD_KILL_S)

    async def retry(self, number: int) -> Job | Map:
        """Run a job that has ended once more, or all jobs of a map that are not ready, with the
        script as it is now. Raises JobNotFound, Conflict, ScriptNotFound, Unavailable."""
        ledger = self.ledger
        one = self._maps.get(number)
        if one is not None:
            await self._maps.each(one, self.retry, sorted(FINISHED - {State.READY}))
            return one
        job = ledger.get(number)
        archive = self.scripts.find(job.directory, job.script)
        await ledger.keep_scripts(archive)
        again = await ledger.change(number, lambda job: changes.retry(job, digest=archive.digest))
        return ledger.get(number) if again is None else again

    async def record(self, done: Done) -> Recorded:
        """How attempts ended. Raises Unavailable."""
        return await self.dispatcher.record(done)

    async def orders(self, turn: Turn) -> Given:
        """What an agent is to do; waits for that. Raises Unavailable."""
        return await self.dispatcher.orders(turn)

    async def word(self, word: Word) -> Heard:
        """An agent speaks. Raises Unavailable."""
        return await self.dispatcher.word(word)

    async def archive(self, digest: str) -> bytes | None:
        """The content of a directory of scripts. Raises Unavailable."""
        return await self.ledger.scripts(digest)

    def statistics(self) -> dict[str, float]:
        """Counters and gauges by name."""
        if not self._is_loaded:
            return {}
        return {
            "jobs_accepted_total": self._ledger.accepted_total,
            **self._ledger.counts(),
            **self._dispatcher.counts(),
        }
