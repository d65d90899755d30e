"""The schedules of a site: each launches its job when it is due.

    due (schedule.py) -> the job, under a token made of schedule and time -> the next run, written

The job comes first. After a crash between the two the same run is due again, and its token gives
the job that is there: no run is lost, none is doubled.
"""

import logging
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from pulzar.clock import Clock
from pulzar.errors import InvalidParameter, JobNotFound, KeyNotFound, ScriptNotFound
from pulzar.jobs.launch import Wanted
from pulzar.jobs.ledger import Ledger
from pulzar.jobs.record import Job
from pulzar.jobs.schedule import (
    SCHEDULES_PREFIX,
    Due,
    Schedule,
    Timing,
    decode_schedule,
    due,
    encode_schedule,
    next_run,
    schedule_key,
)
from pulzar.jobs.states import FINISHED
from pulzar.limits import LIST_LIMIT_MAX, SCHEDULES_MAX
from pulzar.varidb.entry import Delete, Put, Store

_log = logging.getLogger(__name__)


class Timetable:
    """The schedules of one site. One event loop. `launch` accepts a job under a token."""

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        *,
        clock: Clock,
        launch: Callable[[str, str, Wanted, str], Awaitable[Job]],
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._launch = launch
        self._schedules: dict[int, Schedule] = {}

    async def load(self) -> None:
        """Read all schedules. Raises PulzarError."""
        page = self._store.list_keys(
            SCHEDULES_PREFIX, after=None, limit=LIST_LIMIT_MAX, delimiter=None
        )
        for key, entry in page.entries:
            schedule = decode_schedule(await self._store.read(key, entry))
            self._schedules[schedule.id] = schedule
            self._ledger.use_id(schedule.id)

    def newest(self, *, limit: int, after: int | None, name: str | None) -> list[Schedule]:
        """Schedules, the newest first, those behind `after`; only those of a script."""
        found = [
            schedule
            for schedule in self._schedules.values()
            if (after is None or schedule.id < after) and name in (None, schedule.script)
        ]
        return sorted(found, key=lambda one: -one.id)[:limit]

    def get(self, number: int) -> Schedule | None:
        """A schedule."""
        return self._schedules.get(number)

    async def add(self, directory: str, script: str, wanted: Wanted, timing: Timing) -> Schedule:
        """Accept a schedule: it is durable. Raises InvalidParameter, OutOfSpace, Unavailable,
        OutcomeUnknown."""
        if len(self._schedules) >= SCHEDULES_MAX:
            raise InvalidParameter(f"there are {SCHEDULES_MAX} schedules: cancel some")
        now_ms = self._clock.now_ms()
        first = next_run(timing, anchor_ms=now_ms, after_ms=now_ms)
        assert first is not None, "it was checked when it was read"
        schedule = Schedule(
            id=self._ledger.new_id(),
            directory=directory,
            script=script,
            arguments=wanted.arguments,
            policy=wanted.policy,
            timing=timing,
            created_ms=now_ms,
            next_ms=first,
        )
        await self._keep(schedule)
        return schedule

    async def cancel(self, number: int) -> Schedule:
        """End a schedule; a job of it that runs goes on. Raises JobNotFound, Unavailable."""
        schedule = self._schedules.get(number)
        if schedule is None:
            raise JobNotFound(f"there is no schedule {number}, or not any more")
        await self._drop(schedule)
        return schedule

    async def look(self) -> None:
        """Launch what is due. Raises Unavailable."""
        now_ms = self._clock.now_ms()
        for schedule in list(self._schedules.values()):
            found = due(schedule, now_ms=now_ms, is_running=self._is_running(schedule))
            if found is not None and self._schedules.get(schedule.id) is schedule:
                await self._run(schedule, found)

    def _is_running(self, schedule: Schedule) -> bool:
        try:
            return bool(schedule.last) and (self._ledger.get(schedule.last).state not in FINISHED)
        except JobNotFound:
            return False

    async def _run(self, schedule: Schedule, found: Due) -> None:
        """One run of a schedule, or what is said where it is left out."""
        moved = replace(schedule, error=found.reason)
        if found.launch:
            token = f"\0schedule-{schedule.id}-{schedule.next_ms}"
            wanted = Wanted(schedule.arguments, schedule.policy)
            try:
                job = await self._launch(schedule.directory, schedule.script, wanted, token)
                moved = replace(moved, last=job.id, runs=schedule.runs + 1)
            except (ScriptNotFound, InvalidParameter) as error:
                moved = replace(moved, error=str(error))
        if moved.error:
            _log.warning("schedule %d: a run was left out: %s", schedule.id, moved.error)
        if found.next_ms is None:
            await self._drop(schedule)
        else:
            await self._keep(replace(moved, next_ms=found.next_ms))

    async def _keep(self, schedule: Schedule) -> None:
        put = Put(schedule_key(schedule.id), encode_schedule(schedule), "application/json")
        await self._store.put(put)
        self._schedules[schedule.id] = schedule

    async def _drop(self, schedule: Schedule) -> None:
        await self._ledger.keep_last_id()
        try:
            await self._store.delete(Delete(schedule_key(schedule.id)))
        except KeyNotFound:
            _log.debug("schedule %d was gone already", schedule.id)
        self._schedules.pop(schedule.id, None)
