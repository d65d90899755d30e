"""An agent: runs jobs on a node, in its slots, for the master that it asks.

    ask for orders -> those that wait here -> a slot runs one -> its result is told to the master

Where jobs are short, the agent asks for more of them than it has slots, and what waits here too
long is given back. What is begun is noted in a file first (begun.py), so that the agent after this
one can say what had not been begun. Beside that one question is always open, by which the master
says what is to be ended; and as long as something runs, the agent says what was written, some times
a second.

A master may have a scheduler that gives jobs to agents; then the agent joins it (dask_worker.py)
and asks for those jobs that it is told of.

The master may restart: every question is asked again until it is answered, and what runs goes on.
What an agent needs to know comes as one line of JSON on stdin; it ends when stdin closes.
"""

import asyncio
import contextlib
import importlib
import io
import logging
import os
import secrets
import shutil
import signal
import sys
import tarfile
from collections.abc import Sequence
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
import uvloop

from pulzar.clock import Clock, SystemClock
from pulzar.cluster.messages import Message, decode, encode
from pulzar.cluster.remote import Network
from pulzar.errors import InvalidParameter, PulzarError
from pulzar.jobs.begun import Begun
from pulzar.jobs.held import Held
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
from pulzar.jobs.slot import Slot
from pulzar.jobs.states import Event
from pulzar.limits import (
    AGENT_NEWS_S,
    AGENT_SPEAKS_S,
    AGENT_WAIT_S,
    LINK_ANSWER_S,
    RESULTS_BYTES_MAX,
    RESULTS_MAX,
    ROOM_S_MAX,
)
from pulzar.parent import IGNORE_SIGNALS, adopt_orphans, die_with_parent

_log = logging.getLogger(__name__)

_AGAIN_S = 0.2  # before a question is asked again
_JOIN_AGAIN_S, _JOIN_AGAIN_S_MAX = 1.0, 60.0
M = TypeVar("M", bound=Message)

COMMAND = IGNORE_SIGNALS + "from pulzar.jobs.agent import main\nmain()\n"


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent is told: the master's URL, the cluster's key (hex), the name of its node, how
    many slots it has, a directory of its own, and how much memory a job may have, 0 for any, and
    whether each has a process of its own."""

    master: str
    key: str
    node: str
    slots: int
    directory: str
    memory_bytes: int
    is_fresh: bool
    log_level: str


class Agent:
    """The agent of one node. One event loop."""

    def __init__(self, site: Site, network: Network, *, clock: Clock, agent_id: str) -> None:
        self._site = site
        self._network = network
        self._id = agent_id
        self._scripts = os.path.join(site.directory, "scripts")
        work = os.path.join(site.directory, "work")
        for directory in (self._scripts, work):  # what another agent left there is of no use
            shutil.rmtree(directory, ignore_errors=True)
            os.makedirs(directory)
        self._slots = [
            Slot(
                number,
                directory=work,
                master=site.master,
                mark=f"{agent_id}-{number}",
                memory_bytes=site.memory_bytes,
                is_fresh=site.is_fresh,
                clock=clock,
            )
            for number in range(site.slots)
        ]
        self._clock = clock
        self._begun = Begun(site.directory, agent_id)
        self._turn = 0
        self._orders = Held(site.slots, clock=clock)
        self._results: list[Result] = []
        self._has_results = asyncio.Event()
        self._ends: dict[tuple[int, int], asyncio.Future[None]] = {}  # of what somebody waits for
        self._taking: set[asyncio.Task[None]] = set()
        self._scheduler = 0  # the port of the scheduler that is to be joined
        self._joining: asyncio.Task[None] | None = None
        self._joined = 0  # the port of the one that is
        self._claiming = asyncio.Lock()  # one after the other, or there is no room for the second
        self._is_alone = asyncio.Event()  # it has joined none
        self._is_alone.set()
        self._at_work = asyncio.Event()  # some slot has, or had just now, something to run
        self._there: set[str] = set()  # the hashes of which the scripts are here
        self._fetching: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Ask for jobs and run them, for ever."""
        before = self._begun.before()
        await self._speak([], wait_s=0.0, before=before)
        self._begun.forget(before)
        try:
            async with asyncio.TaskGroup() as group:
                for slot in self._slots:
                    group.create_task(self._serve(slot))
                group.create_task(self._ask_for_orders())
                group.create_task(self._tell_results())
                group.create_task(self._give_back())
                group.create_task(self._listen())
                group.create_task(self._report())
        finally:
            await asyncio.gather(*(slot.close() for slot in self._slots))

    async def _ask_for_orders(self) -> None:
        while True:
            await self._is_alone.wait()
            await self._orders.has_room()
            await self._take(wants=self._orders.room, wait_s=AGENT_WAIT_S)

    async def _take(
        self, *, wants: int, wait_s: float, jobs: Sequence[int] = ()
    ) -> Sequence[Order]:
        """Ask for orders, and have them here."""
        self._turn += 1
        turn = Turn(
            agent=self._id,
            node=self._site.node,
            turn=self._turn,
            wait_s=wait_s,
            wants=wants,
            free=self._orders.free,
            jobs=list(jobs),
        )
        orders = (await self._ask(Given, "turn", turn, wait_s=wait_s)).orders
        self._orders.add(orders)
        return orders

    async def _take_these(self, jobs: Sequence[int]) -> None:
        """Run those of some jobs that nobody has; wait until the master knows how they ended. They
        are run also where nobody waits any longer."""
        taking = asyncio.create_task(self._until_ended(jobs))
        self._taking.add(taking)
        taking.add_done_callback(self._taking.discard)
        await asyncio.shield(taking)

    async def _until_ended(self, jobs: Sequence[int]) -> None:
        async with self._claiming:
            try:
                async with asyncio.timeout(ROOM_S_MAX):
                    await self._orders.has_room()
            except TimeoutError:  # it was thought that jobs are short: others may have these
                return
            orders = await self._take(wants=len(jobs), wait_s=0.0, jobs=jobs)
        loop = asyncio.get_running_loop()
        ends = [loop.create_future() for _ in orders]
        self._ends.update(
            ((order.job, order.attempt), end) for order, end in zip(orders, ends, strict=True)
        )
        if ends:
            await asyncio.wait(ends)

    async def _serve(self, slot: Slot) -> None:
        while True:
            order = await self._orders.next()
            result = await self._run(slot, order)
            self._orders.ended(result)
            self._has_ended(result)

    def _has_ended(self, result: Result) -> None:
        self._results.append(result)
        self._has_results.set()

    async def _give_back(self) -> None:
        """Give back what has waited here too long: it was thought that jobs are short."""
        while True:
            for order in await self._orders.kept_too_long():
                self._has_ended(self._unrun(order, Event.RETURN))

    async def _tell_results(self) -> None:
        while True:
            await self._has_results.wait()
            telling = some_of(self._results)
            done = Done(self._id, self._site.node, telling)
            try:
                await self._ask_once(Recorded, "results", done, timeout_s=LINK_ANSWER_S)
            except InvalidParameter:  # it will never be taken, and all others would wait behind it
                raise
            except PulzarError as error:
                _log.debug("results are told again: %s", error)
                await asyncio.sleep(_AGAIN_S)
                continue
            del self._results[: len(telling)]
            for result in telling:
                end = self._ends.pop((result.job, result.attempt), None)
                if end is not None:
                    end.set_result(None)
            if not self._results:
                self._has_results.clear()

    async def _run(self, slot: Slot, order: Order) -> Result:
        try:
            path = await self._scripts_of(order.digest)
            self._begun.note(order.job, order.attempt, [one.running for one in self._slots])
            self._at_work.set()
            return await slot.run(order, path)
        except Exception as error:  # a bug, or a full disk: the slot goes on with the next job
            _log.exception("job %d could not be run", order.job)
            await slot.close()
            reason = f"node {self._site.node} could not run it: {error}"
            return self._unrun(order, Event.FAIL, reason)

    def _unrun(self, order: Order, event: Event, error: str = "") -> Result:
        """The end of an attempt that was not run."""
        now_ms = self._clock.now_ms()
        return Result(
            job=order.job,
            attempt=order.attempt,
            event=str(event),
            started_ms=now_ms,
            finished_ms=now_ms,
            error=error,
        )

    async def _listen(self) -> None:
        """Always wait for a word of the master: what is to be ended, which scheduler to join."""
        while True:
            heard = await self._speak([], wait_s=AGENT_SPEAKS_S)
            self._follow(heard.scheduler)

    def _end(self, job: int, attempt: int) -> None:
        """An attempt is to be ended, whether it has begun or not."""
        held = self._orders.remove(job, attempt)
        if held is not None:
            self._has_ended(self._unrun(held, Event.CANCEL, "cancelled"))
        for slot in self._slots:
            running = slot.running
            if running and (running.order.job, running.order.attempt) == (job, attempt):
                slot.cancel()

    def _follow(self, port: int) -> None:
        """Join the scheduler at a port of the master's host, in place of another one."""
        if port == self._scheduler:
            return
        self._scheduler = port
        if self._joining is not None:
            self._joining.cancel()
        self._joining = asyncio.create_task(self._join(port)) if port else None

    async def _join(self, port: int) -> None:
        # Not loaded by an agent that needs it not: it takes 40 MiB, and a second.
        dask_worker = await asyncio.to_thread(importlib.import_module, "pulzar.jobs.dask_worker")
        host = urlsplit(self._site.master).hostname or ""
        address = f"tls://[{host}]:{port}" if ":" in host else f"tls://{host}:{port}"

        async def joined(*, is_joined: bool) -> None:
            if is_joined:
                self._joined = port
                self._is_alone.clear()
            elif self._joined == port:  # and not yet another one
                self._joined = 0
                self._is_alone.set()
            await self._speak([], wait_s=0.0)

        pause_s = _JOIN_AGAIN_S
        while True:
            try:
                await dask_worker.work(
                    address,
                    key=self._site.key,
                    agent=self._id,
                    node=self._site.node,
                    slots=self._site.slots,
                    directory=os.path.join(self._site.directory, "dask"),
                    take=self._take_these,
                    joined=joined,
                )
            except Exception as error:  # whatever dask meets: until it is joined, the agent asks
                _log.warning("the scheduler at %s could not be joined: %s", address, error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _JOIN_AGAIN_S_MAX)

    async def _report(self) -> None:
        """Say what runs: often, where it has news; now and then, so that a new master knows."""
        said_s = self._clock.monotonic_s()
        while True:
            await self._at_work.wait()
            await asyncio.sleep(AGENT_NEWS_S)
            running = [slot.running for slot in self._slots if slot.running is not None]
            is_time = self._clock.monotonic_s() - said_s >= AGENT_SPEAKS_S
            telling = [one for one in running if one.is_new or is_time]
            if telling:
                await self._speak([one.news() for one in telling], wait_s=0.0)
                said_s = self._clock.monotonic_s()
            if not running:
                self._at_work.clear()

    async def _speak(
        self, running: list[News], *, wait_s: float, before: Sequence[Before] = ()
    ) -> Heard:
        word = Word(
            agent=self._id,
            node=self._site.node,
            slots=len(self._slots),
            wait_s=wait_s,
            running=running,
            before=list(before),
            scheduler=self._joined,
        )
        heard = await self._ask(Heard, "word", word, wait_s=wait_s)
        for job, attempt in heard.cancel:  # each answer may have some, and they are told once
            self._end(job, attempt)
        return heard

    async def _ask(self, kind: type[M], path: str, message: Message, *, wait_s: float) -> M:
        """Ask the master until it answers."""
        while True:
            try:
                return await self._ask_once(kind, path, message, timeout_s=wait_s + LINK_ANSWER_S)
            except InvalidParameter:
                raise
            except PulzarError as error:
                _log.debug("%s is asked again: %s", path, error)
                await asyncio.sleep(_AGAIN_S)

    async def _ask_once(self, kind: type[M], path: str, message: Message, *, timeout_s: float) -> M:
        url = f"{self._site.master}/skynet/{path}"
        content = encode(message)
        return decode(kind, await self._network.call("POST", url, content, timeout_s=timeout_s))

    async def _scripts_of(self, digest: str) -> str:
        """Where a directory of scripts is; it is fetched once. Raises PulzarError, OSError."""
        if digest not in self._there:
            task = self._fetching.get(digest)
            if task is None:
                task = self._fetching[digest] = asyncio.create_task(self._fetch(digest))
                task.add_done_callback(lambda _: self._fetching.pop(digest, None))
            await asyncio.shield(task)
            self._there.add(digest)
        return self._path(digest)

    def _path(self, digest: str) -> str:
        return os.path.join(self._scripts, digest)

    async def _fetch(self, digest: str) -> None:
        url = f"{self._site.master}/skynet/scripts/{digest}"
        content = await self._network.call("GET", url)
        path = self._path(digest)
        shutil.rmtree(path, ignore_errors=True)
        unpack(content, path)


def some_of(results: Sequence[Result]) -> list[Result]:
    """The first of some results, as many as are told at once."""
    some: list[Result] = []
    size = 0
    for result in results[:RESULTS_MAX]:
        size += len(result.output) + len(result.traceback) + len(result.log)
        if some and size > RESULTS_BYTES_MAX:
            break
        some.append(result)
    return some


def unpack(content: bytes, target: str) -> None:
    """Write the files of an archive (scripts.py) below a directory. Raises InvalidParameter for
    what is none, or leads out of it."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                file = archive.extractfile(member)
                words = member.name.split("/")
                if file is None or not member.isfile() or {"", ".", ".."} & set(words):
                    raise InvalidParameter(f"{member.name!r} does not belong into an archive")
                path = os.path.join(target, *words)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "wb") as written:
                    written.write(file.read())
    except tarfile.TarError as error:
        raise InvalidParameter(f"this is no archive of scripts: {error}") from None


async def _run_until_closed(site: Site) -> None:
    network = Network(site.key, connections=2 * site.slots + 4)
    agent = Agent(site, network, clock=SystemClock(), agent_id=secrets.token_hex(8))
    running = asyncio.create_task(agent.run())
    closed = asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
    try:
        await asyncio.wait((running, closed), return_when=asyncio.FIRST_COMPLETED)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await network.close()


def main() -> None:
    """Read what there is to know, and run."""
    die_with_parent()
    adopt_orphans()
    site = msgspec.json.decode(sys.stdin.buffer.readline(), type=Site)
    logging.basicConfig(
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        level=site.log_level.upper(),
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    uvloop.run(_run_until_closed(site))
    os._exit(0)  # a thread still waits for stdin
