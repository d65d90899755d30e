"""All jobs of a site. Nothing is true here before it is durable in VariDB.

    add -> a new id, written -> known
    change -> what becomes of the job (changes.py), written -> known, and told to `changed`

A site has one ledger, in the process of its master; it holds every job in memory but for outputs,
tracebacks and logs. What is written has its turn, job by job. A write of which it is not known
whether it happened is written again until it is.
"""

import asyncio
import heapq
import logging
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain, islice

import msgspec
from sortedcontainers import SortedList

from pulzar.clock import Clock
from pulzar.errors import JobNotFound, KeyNotFound, OutcomeUnknown
from pulzar.jobs.changes import Change
from pulzar.jobs.launch import Wanted
from pulzar.jobs.record import (
    JOBS_PREFIX,
    LAST_ID_KEY,
    Job,
    Policy,
    Stored,
    decode_stored,
    encode_stored,
    job_key,
    log_key,
    output_key,
    scripts_key,
)
from pulzar.jobs.scripts import Archive
from pulzar.jobs.states import FINISHED, State
from pulzar.limits import (
    JOB_OUTPUT_INLINE_BYTES_MAX,
    JOBS_AGE_LOOK_S,
    JOBS_FORGOTTEN_AT_ONCE,
    JOBS_WRITTEN_AT_ONCE,
    LIST_LIMIT_MAX,
    SEGMENT_VALUE_BYTES_MAX,
)
from pulzar.varidb.entry import Delete, Put, Store
from pulzar.varidb.turns import Turns

_log = logging.getLogger(__name__)

_JSON = "application/json"
_PLAIN = Policy()


class Kept(msgspec.Struct, frozen=True):
    """How many jobs that have ended are kept, and for how long."""

    jobs: int
    seconds: int


class Ledger:
    """The jobs of one site. One event loop. `changed` is called with each job that has changed, and
    what it was before."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        changed: Callable[[Job, Job | None], None],
        kept: Kept,
    ) -> None:
        self._store = store
        self._kept = kept
        self._clock = clock
        self._changed = changed
        self._turns = Turns()
        self._jobs: dict[int, Job] = {}
        self._tokens: dict[str, asyncio.Future[int]] = {}
        self._by_state: dict[State, SortedList[int]] = {state: SortedList() for state in State}
        self._of_maps: dict[State, SortedList[int]] = {state: SortedList() for state in State}
        self._scripts: set[str] = set()  # of which the content is known to be durable
        self._unsettled: dict[int, Stored] = {}
        self._unaccepted: list[bytes] = []  # jobs whose map was never written
        self._last = 0
        self._ages_s = 0.0  # monotonic; when it is to be looked which jobs are old
        self.accepted_total = 0

    async def load(self, maps: Collection[int]) -> None:
        """Read all jobs; those of other maps than these were never accepted. Raises PulzarError."""
        after: bytes | None = None
        while True:
            page = self._store.list_keys(
                JOBS_PREFIX, after=after, limit=LIST_LIMIT_MAX, delimiter=None
            )
            for key, _ in page.entries:
                content = await self.read(key)
                if content is None:
                    continue
                job = decode_stored(content).job
                self.use_id(job.id)
                if not job.parent or job.parent in maps:
                    self._keep(job)
                else:
                    self._unaccepted.append(key)
            after = page.next
            if after is None:
                break
        self.use_id(int(await self.read(LAST_ID_KEY) or b"0"))
        _log.info("%d jobs are known", len(self._jobs))

    # Reading.

    def get(self, number: int) -> Job:
        """A job. Raises JobNotFound."""
        try:
            return self._jobs[number]
        except KeyError:
            raise JobNotFound(f"there is no job {number}, or not any more") from None

    def in_states(self, states: Iterable[State]) -> list[Job]:
        """All jobs in some states, in no order."""
        return [
            self._jobs[number]
            for state in states
            for number in (*self._by_state[state], *self._of_maps[state])
        ]

    def newest(
        self, states: Iterable[State], *, limit: int, after: int | None, name: str | None
    ) -> list[Job]:
        """Jobs in some states that belong to no map, the newest first, those behind `after`; only
        those of a script."""
        until = None if after is None else after - 1
        pages = [self._by_state[state].irange(maximum=until, reverse=True) for state in states]
        jobs = (self._jobs[number] for number in heapq.merge(*pages, reverse=True))
        return list(islice((job for job in jobs if name is None or job.script == name), limit))

    def counts(self) -> dict[str, float]:
        """How many jobs are in each state, as gauges by name."""
        return {
            f"jobs_{state}": len(self._by_state[state]) + len(self._of_maps[state])
            for state in State
        }

    async def stored(self, number: int) -> Stored:
        """All that is kept of a job, its output too. Raises JobNotFound, Unavailable."""
        job = self.get(number)
        content = await self.read(job_key(number))
        if content is None:
            return Stored(job)
        stored = decode_stored(content)
        if stored.job.state == State.READY and not stored.output:
            output = await self.read(output_key(number))
            return Stored(stored.job, (output or b"").decode(), stored.traceback)
        return stored

    async def log(self, number: int) -> bytes:
        """What the last attempt that has ended wrote. Raises Unavailable."""
        return await self.read(log_key(number)) or b""

    async def scripts(self, digest: str) -> bytes | None:
        """The content of a directory of scripts. Raises Unavailable."""
        return await self.read(scripts_key(digest))

    # Ids.

    def new_id(self) -> int:
        """A number that was never used, for a job or a schedule."""
        self._last += 1
        return self._last

    def use_id(self, number: int) -> None:
        """A number is in use."""
        self._last = max(self._last, number)

    async def keep_last_id(self) -> None:
        """Remember the last number that was used: what has it is about to be forgotten. Raises
        OutOfSpace, Unavailable."""
        await self._write(LAST_ID_KEY, b"%d" % self._last)

    # Writing.

    async def add(
        self, directory: str, script: str, archive: Archive, wanted: Wanted, token: str
    ) -> Job:
        """Accept a job: it is durable, with its script. The same token gives the same job. Raises
        OutOfSpace, Unavailable, OutcomeUnknown."""
        known = self._tokens.get(token) if token else None
        if known is not None:
            return self.get(await asyncio.shield(known))
        accepted: asyncio.Future[int] | None = None
        if token:
            accepted = self._tokens[token] = asyncio.get_running_loop().create_future()
        try:
            await self.keep_scripts(archive)
            job = Job(
                id=self.new_id(),
                directory=sys.intern(directory),  # there are many jobs of few scripts
                script=sys.intern(script),
                digest=archive.digest,
                arguments=wanted.arguments,
                created_ms=self._clock.now_ms(),
                policy=_PLAIN if wanted.policy == _PLAIN else wanted.policy,
                token=token,
            )
            try:
                await self._write(job_key(job.id), encode_stored(Stored(job)))
            except OutcomeUnknown:
                self._unsettled[job.id] = Stored(job)
                raise
        except BaseException as error:  # cancellation too: who has the same token must not wait
            if accepted is not None:
                del self._tokens[token]
                accepted.set_exception(error)
                accepted.exception()  # somebody may wait for it, or nobody
            raise
        self._keep(job)
        if accepted is not None:
            accepted.set_result(job.id)
        self.accepted_total += 1
        self._changed(job, None)
        return job

    async def write_many(self, jobs: Sequence[Job]) -> None:
        """Make new jobs durable; they are not known yet. Raises OutOfSpace, Unavailable,
        OutcomeUnknown."""
        puts = [Put(job_key(job.id), encode_stored(Stored(job)), _JSON) for job in jobs]
        await self._batch(puts)

    def accept(self, jobs: Sequence[Job]) -> None:
        """Jobs that were written are accepted now."""
        for job in jobs:
            self._keep(job)
            self._changed(job, None)
        self.accepted_total += len(jobs)

    async def change(self, number: int, change: Change, *, log: bytes | None = None) -> Job | None:
        """Let something happen to a job; the job when that changed it. `log` is kept with it, in
        place of the one before.
        Raises JobNotFound, what the change raises, OutOfSpace, Unavailable, OutcomeUnknown."""
        key = job_key(number)
        await self._turns.take(key)
        try:
            before = self.get(number)
            stored = change(before)
            if stored is None:
                return None
            if log or (log is not None and self._store.lookup(log_key(number)) is not None):
                await self._write(log_key(number), log)
            output = stored.output.encode()
            if len(output) > JOB_OUTPUT_INLINE_BYTES_MAX:
                await self._write(output_key(number), output)
                stored = Stored(stored.job, "", stored.traceback)
            await self._write(key, encode_stored(stored))
            self._keep(stored.job)
        finally:
            self._turns.give(key)
        self._changed(stored.job, before)
        return stored.job

    async def settle(self) -> None:
        """Write again what may not have been written; forget the oldest jobs that have ended, some
        of those that are too many. Raises Unavailable."""
        for number, stored in list(self._unsettled.items()):
            await self._write(job_key(number), encode_stored(stored))
            del self._unsettled[number]
            self._keep(stored.job)
            self._changed(stored.job, None)
        if self._unaccepted:
            await self._batch([Delete(key) for key in self._unaccepted])
            self._unaccepted.clear()
        await self._forget_some()

    async def _forget_some(self) -> None:
        """Forget the oldest of too many jobs, or those that are too old; some at once, or other
        requests wait."""
        ended = [self._by_state[state] for state in FINISHED]
        surplus = sum(map(len, ended)) - self._kept.jobs
        if surplus > 0:
            oldest = islice(heapq.merge(*ended), min(surplus, JOBS_FORGOTTEN_AT_ONCE))
            await self._forget([number for number in oldest if number != self._last])
        elif self._clock.monotonic_s() >= self._ages_s:
            self._ages_s = self._clock.monotonic_s() + JOBS_AGE_LOOK_S
            until_ms = self._clock.now_ms() - self._kept.seconds * 1000
            old = (
                number
                for number in chain.from_iterable(ended)
                if self._jobs[number].finished_ms < until_ms and number != self._last
            )
            await self._forget(list(islice(old, JOBS_FORGOTTEN_AT_ONCE)))

    async def forget_map(self, key: bytes, numbers: Sequence[int]) -> None:
        """Forget a map, and its jobs, which have ended. Raises Unavailable."""
        await self._batch([Delete(key)])
        await self._forget(numbers)

    async def _forget(self, numbers: Sequence[int]) -> None:
        taken = [number for number in numbers if self._turns.try_take(job_key(number))]
        try:
            gone = [number for number in taken if self._jobs[number].state in FINISHED]
            keys = [one(number) for number in gone for one in (log_key, output_key, job_key)]
            there = [key for key in keys if self._store.lookup(key) is not None]
            await self._batch([Delete(key) for key in there])
            for number in gone:
                job = self._jobs.pop(number)
                self._numbers(job).remove(number)
                if job.token:
                    self._tokens.pop(job.token, None)
        finally:
            for number in taken:
                self._turns.give(job_key(number))

    async def _batch(self, operations: Sequence[Put | Delete]) -> None:
        """Do all of them, or raise what the first one met that failed; others may have happened."""
        for begin in range(0, len(operations), JOBS_WRITTEN_AT_ONCE):
            some = operations[begin : begin + JOBS_WRITTEN_AT_ONCE]
            for result in await self._store.batch(some):
                if isinstance(result, Exception) and not isinstance(result, KeyNotFound):
                    raise result

    def _numbers(self, job: Job) -> "SortedList[int]":
        """The ids of the jobs in its state, of maps or not."""
        return (self._of_maps if job.parent else self._by_state)[job.state]

    def _keep(self, job: Job) -> None:
        known = self._jobs.get(job.id)
        if known is not None:
            self._numbers(known).remove(job.id)
        elif job.token and job.token not in self._tokens:
            future = asyncio.get_running_loop().create_future()
            future.set_result(job.id)
            self._tokens[job.token] = future
        self._jobs[job.id] = job
        self._numbers(job).add(job.id)
        self.use_id(job.id)

    async def keep_scripts(self, archive: Archive) -> None:
        """Keep the content of a directory of scripts, durably. Raises OutOfSpace, Unavailable."""
        if archive.digest in self._scripts:
            return
        key = scripts_key(archive.digest)
        if self._store.lookup(key) is None:
            await self._write(key, archive.content)
        self._scripts.add(archive.digest)

    async def _write(self, key: bytes, content: bytes) -> None:
        if len(content) <= SEGMENT_VALUE_BYTES_MAX:
            await self._store.put(Put(key, content, _JSON))
            return
        upload = await self._store.upload(size=len(content))
        try:
            await upload.write(content)
            await upload.finish()
        except BaseException:  # cancellation too: the bytes must not stay on the disk
            await upload.abort()
            raise
        await self._store.put_upload(Put(key, b"", _JSON), upload)

    async def read(self, key: bytes) -> bytes | None:
        """The value of a key of Pulzar's own. Raises Unavailable, Damage."""
        entry = self._store.lookup(key)
        if entry is None:
            return None
        if entry.inline is not None:
            return entry.inline
        if entry.size <= self._store.direct_bytes_max:
            return await self._store.read(key, entry)
        chunks = self._store.chunks(key, entry, start=0, end=entry.size)
        return b"".join([chunk async for chunk in chunks])
