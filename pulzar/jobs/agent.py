"""An agent: runs jobs on a node, in its slots, for the master that it asks.

Each slot asks for a job, runs it, and asks again, with the result; where jobs are short, it asks
for the next one while one runs (messages.py). What is begun is noted in a file first (begun.py), so
that the agent after this one can say what had not been begun. Beside them one question is always
open, by which the master says what is to be ended; and as long as something runs, the agent says
what was written, some times a second.

The master may restart: every question is asked again until it is answered, and what runs goes on.
What an agent needs to know comes as one line of JSON on stdin; it ends when stdin closes.
"""

import asyncio
import contextlib
import ctypes
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

import msgspec
import uvloop

from pulzar.clock import Clock, SystemClock
from pulzar.cluster.messages import Message, decode, encode
from pulzar.cluster.remote import Network
from pulzar.errors import InvalidParameter, PulzarError
from pulzar.jobs.begun import Begun
from pulzar.jobs.messages import Before, Given, Heard, News, Order, Result, Turn, Word
from pulzar.jobs.slot import Slot
from pulzar.jobs.states import Event
from pulzar.limits import (
    AGENT_NEWS_S,
    AGENT_SPEAKS_S,
    AGENT_WAIT_S,
    HELD_S_MAX,
    LINK_ANSWER_S,
    SHORT_JOB_S,
)
from pulzar.parent import die_with_parent

_log = logging.getLogger(__name__)

_PR_SET_CHILD_SUBREAPER = 36
_AGAIN_S = 0.2  # before a question is asked again
M = TypeVar("M", bound=Message)

# What runs in the process. A signal to the whole group is for the parent, which closes stdin.
COMMAND = """\
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
from pulzar.jobs.agent import main
main()
"""


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent is told: the master's URL, the cluster's key (hex), the name of its node, how
    many slots it has, a directory of its own, and how much memory a job may have; 0: any."""

    master: str
    key: str
    node: str
    slots: int
    directory: str
    memory_bytes: int
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
                clock=clock,
            )
            for number in range(site.slots)
        ]
        self._clock = clock
        self._begun = Begun(site.directory, agent_id)
        self._held: set[tuple[int, int]] = set()  # ordered, and not begun
        self._unwanted: set[tuple[int, int]] = set()  # of these, what is to be ended
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
                    for lane in (0, 1):
                        group.create_task(self._serve(slot, lane))
                group.create_task(self._listen())
                group.create_task(self._report())
        finally:
            await asyncio.gather(*(slot.close() for slot in self._slots))

    async def _serve(self, slot: Slot, lane: int) -> None:
        """One of the two lanes of a slot: while one has a job, the other one asks for the next, as
        long as jobs are short."""
        result: Result | None = None
        turn = 0
        while True:
            if lane and result is None:
                await slot.is_quick.wait()
            wait_s = AGENT_WAIT_S if not lane or slot.is_quick.is_set() else 0.0
            turn += 1
            question = Turn(
                agent=self._id,
                node=self._site.node,
                slot=2 * slot.number + lane,
                turn=turn,
                wait_s=wait_s,
                result=result,
            )
            given = await self._ask(Given, "turn", question, wait_s=wait_s)
            result = None if given.order is None else await self._take(slot, given.order)

    async def _take(self, slot: Slot, order: Order) -> Result:
        """Run a job when it is its turn; give it back where that takes long."""
        attempt = order.job, order.attempt
        self._held.add(attempt)
        has_turn = True
        try:
            async with asyncio.timeout(HELD_S_MAX):
                await slot.turn.acquire()
        except TimeoutError:
            has_turn = False
            slot.is_quick.clear()
        self._held.discard(attempt)
        try:
            if attempt in self._unwanted:
                self._unwanted.discard(attempt)
                return self._unrun(order, Event.CANCEL, "cancelled")
            return await self._run(slot, order) if has_turn else self._unrun(order, Event.RETURN)
        finally:
            if has_turn:
                slot.turn.release()

    async def _run(self, slot: Slot, order: Order) -> Result:
        began_s = self._clock.monotonic_s()
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
        finally:
            if self._clock.monotonic_s() - began_s < SHORT_JOB_S:
                slot.is_quick.set()
            else:
                slot.is_quick.clear()

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
        """Hear what is to be ended."""
        while True:
            heard = await self._speak([], wait_s=AGENT_SPEAKS_S)
            for job, attempt in heard.cancel:
                if (job, attempt) in self._held:
                    self._unwanted.add((job, attempt))
                for slot in self._slots:
                    running = slot.running
                    if running and (running.order.job, running.order.attempt) == (job, attempt):
                        slot.cancel()

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
        )
        return await self._ask(Heard, "word", word, wait_s=wait_s)

    async def _ask(self, kind: type[M], path: str, message: Message, *, wait_s: float) -> M:
        """Ask the master until it answers."""
        url = f"{self._site.master}/skynet/{path}"
        content = encode(message)
        while True:
            try:
                timeout_s = wait_s + LINK_ANSWER_S
                return decode(
                    kind, await self._network.call("POST", url, content, timeout_s=timeout_s)
                )
            except InvalidParameter:
                raise
            except PulzarError as error:
                _log.debug("%s: %s", url, error)
                await asyncio.sleep(_AGAIN_S)

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
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
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
