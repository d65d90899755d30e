"""Many jobs in one call: a script over a list of arguments, or over all keys under a prefix.

    the jobs are written -> the map is written: now they are accepted, all of them -> they run

A map is a parent with counts by state; its jobs have its number in `parent`, and their ids follow
it, in the order of the arguments. Jobs whose map was never written were never accepted: they are
thrown away at the next start.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from pulzar.clock import Clock
from pulzar.errors import Damage, InvalidParameter
from pulzar.jobs.launch import Wanted, parse_launch
from pulzar.jobs.ledger import Ledger
from pulzar.jobs.record import Job
from pulzar.jobs.scripts import Archive
from pulzar.jobs.states import AT_WORK, FINISHED, State
from pulzar.limits import LIST_LIMIT_MAX, MAP_CHANGES_AT_ONCE, MAP_JOBS_MAX, MAPS_MAX
from pulzar.varidb.entry import Put, Store

MAPS_PREFIX = b"\0maps/"
KEYS = "pulzar_keys"


class Map(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A map, as VariDB keeps it under 0x00 "maps/" id (16 hex digits), as JSON. Its jobs are
    `first`, first + 1, ...; `parameters` is what was asked for."""

    id: int
    directory: str
    script: str
    created_ms: int
    first: int
    count: int
    parameters: str


def map_key(number: int) -> bytes:
    """The key of a map."""
    return b"%b%016x" % (MAPS_PREFIX, number)


def encode_map(one: Map) -> bytes:
    """The bytes of a map."""
    return msgspec.json.encode(one)


def decode_map(content: bytes) -> Map:
    """The map in some bytes. Raises Damage."""
    try:
        return msgspec.json.decode(content, type=Map)
    except (msgspec.DecodeError, ValueError) as error:
        raise Damage(f"the record of a map cannot be read: {error}") from None


def state_of(counts: Mapping[State, int]) -> State:
    """The state of a map, from those of its jobs: it runs while one has not ended, and is ready
    when all are."""
    if any(counts.get(state) for state in AT_WORK):
        return State.RUNNING
    if counts.get(State.PENDING):
        began = any(counts.get(state) for state in FINISHED)
        return State.RUNNING if began else State.PENDING
    if any(counts.get(state) for state in (State.FAILED, State.TIMEOUT, State.LOST)):
        return State.FAILED
    return State.CANCELLED if counts.get(State.CANCELLED) else State.READY


def parse_map(body: bytes) -> tuple[Sequence[Wanted], str, Wanted | None]:
    """What a body asks for: jobs, one by one; or a prefix, and what is the same for all of its
    keys. Raises InvalidParameter."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"the body is no JSON: {error}") from None
    if isinstance(value, dict) and KEYS in value:
        prefix = value.pop(KEYS)
        if not isinstance(prefix, str):
            raise InvalidParameter(f"{KEYS} is a prefix of keys")
        return (), prefix, _wanted(value)
    if not isinstance(value, list):
        raise InvalidParameter(
            f'the body is to be a list of JSON objects, or {{"{KEYS}": "a prefix of keys"}}'
        )
    _check_count(len(value))
    return [_wanted(one) for one in value], "", None


def for_key(wanted: Wanted, key: str) -> Wanted:
    """The job for one key: it is among its arguments, and where the job should run."""
    arguments = json.dumps({**json.loads(wanted.arguments), "key": key})
    return Wanted(arguments, msgspec.structs.replace(wanted.policy, data=key))


def _wanted(value: Any) -> Wanted:
    wanted = parse_launch(json.dumps(value).encode())
    if wanted.scheduled is not None:
        raise InvalidParameter("a map has no schedule: let a scheduled script launch it")
    return wanted


def _check_count(count: int) -> None:
    if not 1 <= count <= MAP_JOBS_MAX:
        raise InvalidParameter(f"a map has 1 to {MAP_JOBS_MAX} jobs, not {count}")


class Maps:
    """The maps of one site. One event loop."""

    def __init__(self, store: Store, ledger: Ledger, *, clock: Clock) -> None:
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._maps: dict[int, Map] = {}
        self._counts: dict[int, Counter[State]] = {}

    async def load(self) -> None:
        """Read all maps, before their jobs are read. Raises PulzarError."""
        page = self._store.list_keys(MAPS_PREFIX, after=None, limit=LIST_LIMIT_MAX, delimiter=None)
        for key, _ in page.entries:
            content = await self._ledger.read(key)
            if content is not None:
                self._know(decode_map(content))

    def _know(self, one: Map) -> None:
        self._maps[one.id] = one
        self._counts.setdefault(one.id, Counter())
        self._ledger.use_id(one.id)

    @property
    def numbers(self) -> frozenset[int]:
        """The ids of all maps."""
        return frozenset(self._maps)

    def get(self, number: int) -> Map | None:
        """A map."""
        return self._maps.get(number)

    def counts(self, number: int) -> dict[State, int]:
        """How many of its jobs are in each state."""
        return {state: count for state, count in self._counts[number].items() if count}

    def newest(self, *, after: int | None, name: str | None) -> list[Map]:
        """Maps, the newest first, those behind `after`; only those of a script."""
        found = [
            one
            for one in self._maps.values()
            if (after is None or one.id < after) and name in (None, one.script)
        ]
        return sorted(found, key=lambda one: -one.id)

    def changed(self, job: Job, before: Job | None) -> None:
        """The ledger says: a job is not what it was."""
        counts = self._counts.setdefault(job.parent, Counter())
        if before is not None:
            counts[before.state] -= 1
        counts[job.state] += 1

    async def add(self, directory: str, script: str, archive: Archive, body: bytes) -> Map:
        """Accept a map and its jobs: they are durable. Raises InvalidParameter, OutOfSpace,
        Unavailable, OutcomeUnknown."""
        wanted, prefix, common = parse_map(body)
        if common is not None:
            wanted = [for_key(common, key) for key in self._keys(prefix)]
            _check_count(len(wanted))
        number, now_ms = self._ledger.new_id(), self._clock.now_ms()
        jobs = [
            Job(
                id=self._ledger.new_id(),
                directory=directory,
                script=script,
                digest=archive.digest,
                arguments=one.arguments,
                created_ms=now_ms,
                policy=one.policy,
                parent=number,
            )
            for one in wanted
        ]
        parameters = json.dumps({KEYS: prefix}) if common is not None else f"{len(jobs)} of them"
        one = Map(
            id=number,
            directory=directory,
            script=script,
            created_ms=now_ms,
            first=jobs[0].id,
            count=len(jobs),
            parameters=parameters,
        )
        await self._ledger.keep_scripts(archive)
        await self._ledger.write_many(jobs)
        await self._store.put(Put(map_key(number), encode_map(one), "application/json"))
        self._know(one)
        self._ledger.accept(jobs)
        return one

    def _keys(self, prefix: str) -> list[str]:
        keys: list[str] = []
        after: bytes | None = None
        while True:
            page = self._store.list_keys(
                prefix.encode(), after=after, limit=LIST_LIMIT_MAX, delimiter=None
            )
            keys += [key.decode() for key, _ in page.entries]
            after = page.next
            if after is None or len(keys) > MAP_JOBS_MAX:
                return keys

    async def each(
        self, one: Map, work: Callable[[int], Awaitable[object]], states: Sequence[State]
    ) -> None:
        """Do something to all of its jobs that are in some states, some at a time. Raises what the
        first one raises that fails."""
        numbers = [job.id for job in self.jobs(one) if job.state in states]
        for begin in range(0, len(numbers), MAP_CHANGES_AT_ONCE):
            await asyncio.gather(
                *(work(number) for number in numbers[begin : begin + MAP_CHANGES_AT_ONCE])
            )

    def jobs(self, one: Map) -> list[Job]:
        """Its jobs, in order."""
        return [self._ledger.get(number) for number in range(one.first, one.first + one.count)]

    async def settle(self) -> None:
        """Forget the oldest of too many maps that have ended, with their jobs. Raises
        Unavailable."""
        ended = [
            number for number in sorted(self._maps) if state_of(self._counts[number]) in FINISHED
        ]
        for number in ended[: max(0, len(ended) - MAPS_MAX)]:
            one = self._maps[number]
            await self._ledger.keep_last_id()
            await self._ledger.forget_map(map_key(number), range(one.first, one.first + one.count))
            del self._maps[number], self._counts[number]
