"""The engine dask: what it submits and takes back, and who may talk to its scheduler."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property

import msgspec
import pytest

from pulzar.errors import JobNotFound
from pulzar.jobs.certificates import certificate
from pulzar.jobs.dask_engine import DaskEngine
from pulzar.jobs.dask_lines import Begin, Drop, Ended, Gone, Port, Submit, decode_said, line
from pulzar.jobs.queue import Queue
from pulzar.jobs.record import Job, Place, Policy
from pulzar.jobs.states import State
from pulzar.jobs.workforce import Agent, Workforce
from pulzar.limits import DASK_JOBS_PER_TASK, DASK_WINDOW

KEY = "0123456789abcdef" * 4
PORT = 7000
DEADLINE_S = 30.0


class _Told(DaskEngine):
    """An engine whose scheduler is a list of what it was told."""

    @cached_property
    def said(self) -> list[Submit | Drop | Gone]:
        return []

    def _say(self, content: bytes) -> None:
        self.said.append(decode_said(content))


class Bench:
    """The engine, and two agents that have joined."""

    def __init__(self, slots: int = 1) -> None:
        self.jobs: dict[int, Job] = {}
        self.where: dict[str, list[str]] = {}
        self.queue = Queue(self._get)
        self.workforce = Workforce(lambda key: self.where.get(key, []))
        self.engine = _Told(
            self.queue, self.workforce, begin=Begin(KEY, "127.0.0.1", "error"), nodes_min=99
        )
        self.said = self.engine.said
        self.engine.scheduler = PORT
        for node in ("one", "two"):
            self.workforce.add(Agent(node, node, 0.0, slots=slots, scheduler=PORT))

    def _get(self, number: int) -> Job:
        if number not in self.jobs:
            raise JobNotFound(str(number))
        return self.jobs[number]

    def add(self, **policy: object) -> int:
        number = len(self.jobs) + 1
        made = Job(
            id=number,
            directory="d",
            script="s",
            digest="h",
            arguments="{}",
            created_ms=0,
            policy=msgspec.convert(policy, Policy),
        )
        self.jobs[number] = made
        self.queue.add(made, now_ms=0)
        self.engine.match()
        return number

    def claim(self, number: int, node: str) -> None:
        before = self.jobs[number]
        place = Place(node, node, number)
        self.jobs[number] = msgspec.structs.replace(
            before, state=State.DISPATCHED, attempt=1, place=place
        )
        self.workforce.changed(self.jobs[number], before)

    def be_quick(self) -> None:
        for _ in range(100):
            self.workforce.took(0.001)

    def over(self, task: int) -> None:
        self.engine._over(task)
        self.engine.match()


def test_one_task_for_each_slot_and_one_more_for_each_node() -> None:
    bench = Bench(slots=2)
    numbers = [bench.add() for _ in range(20)]
    assert bench.said == [
        Submit(n + 1, [number], "", 0, False) for n, number in enumerate(numbers[:6])
    ]
    bench.claim(numbers[0], "one")
    bench.over(1)
    assert bench.said[-1] == Submit(7, [numbers[6]], "", 0, False)


def test_short_jobs_of_a_long_queue_share_a_task() -> None:
    bench = Bench()
    bench.be_quick()
    for _ in range(1000):
        bench.add()
    assert len(bench.said) == 2 * DASK_WINDOW
    bench.over(1)
    last = bench.said[-1]
    assert isinstance(last, Submit)
    assert len(last.jobs) == DASK_JOBS_PER_TASK
    assert last.is_short


def test_what_nobody_has_claimed_when_a_task_is_over_goes_again() -> None:
    bench = Bench()
    first, second = bench.add(), bench.add()
    bench.claim(first, "one")
    bench.over(1)
    bench.over(2)
    assert [one for one in bench.said if isinstance(one, Submit) and first in one.jobs] == [
        Submit(1, [first], "", 0, False)
    ]
    assert bench.said[-1] == Submit(3, [second], "", 0, False)


def test_a_job_goes_to_its_data_while_that_node_has_a_slot_free() -> None:
    bench = Bench()
    bench.where["k"] = ["two"]
    bench.add(data="k")
    assert bench.said[-1] == Submit(1, [1], "two", 0, False)
    bench.add(data="k")
    assert bench.said[-1] == Submit(2, [2], "", 0, False)
    bench.add(data="k", requires_data=True)
    assert len(bench.said) == 2  # it waits for that node
    bench.jobs[1] = msgspec.structs.replace(bench.jobs[1], state=State.CANCELLED)
    bench.over(1)
    assert bench.said[-1] == Submit(3, [3], "two", 0, False)


def test_what_waits_for_a_node_that_has_gone_is_taken_back() -> None:
    bench = Bench()
    bench.where["k"] = ["two"]
    bench.add(data="k")
    gone = bench.workforce.get("two")
    assert gone is not None
    bench.workforce.remove(gone)
    bench.engine.forget("two")
    assert bench.said[1:] == [Gone("two"), Drop(1)]
    bench.over(1)
    again = bench.said[-1]
    assert again == Submit(2, [1], "", 0, False)


def test_a_higher_priority_is_told_and_goes_first() -> None:
    bench = Bench()
    for _ in range(6):
        bench.add()
    urgent = bench.add(priority=5)
    bench.over(1)
    assert bench.said[-1] == Submit(5, [urgent], "", 5, False)


@pytest.mark.parametrize(
    ("said", "content"),
    [
        (Begin("k", "h", "info"), b'{"key":"k","host":"h","log_level":"info"}\n'),
        (Port(7), b'{"port":7}\n'),
        (
            Submit(1, [2, 3], "n", 4, is_short=True),
            b'{"type":"submit","task":1,"jobs":[2,3],"node":"n","priority":4,"is_short":true}\n',
        ),
        (Gone("a"), b'{"type":"gone","agent":"a"}\n'),
        (Drop(1), b'{"type":"drop","task":1}\n'),
        (Ended(1), b'{"task":1}\n'),
    ],
)
def test_a_line_has_these_bytes(said: msgspec.Struct, content: bytes) -> None:
    assert line(said) == content


@asynccontextmanager
async def scheduler() -> AsyncIterator[int]:
    """The port of a real scheduler of the cluster with KEY."""
    bench = Bench()
    begin = Begin(KEY, "127.0.0.1", "error")
    engine = DaskEngine(bench.queue, bench.workforce, begin=begin, nodes_min=1)
    engine.start()
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not engine.scheduler:  # noqa: ASYNC110  # there is no event to wait for
                await asyncio.sleep(0.02)
        yield engine.scheduler
    finally:
        await engine.close()


def context(key: str, directory: str, *, shows: bool = True) -> ssl.SSLContext:
    """What somebody with a cluster's key shows and believes."""
    own = certificate(key, "somebody")
    made = ssl.create_default_context(cadata=own.authority)
    made.check_hostname = False
    for name, text in (("cert", own.certificate), ("key", own.private_key)):
        with open(f"{directory}/{name}", "w") as file:
            file.write(text)
    if shows:
        made.load_cert_chain(f"{directory}/cert", f"{directory}/key")
    return made


async def hears(port: int, shown: ssl.SSLContext | None) -> bool:
    """Whether the scheduler says anything to who comes like this."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=shown)
            if shown is None:
                writer.write(b"x" * 100)
            heard = await reader.read(1)
            writer.close()
    except (OSError, ssl.SSLError):
        return False
    return bool(heard)


@pytest.mark.slow
def test_only_who_has_the_key_of_the_cluster_can_talk_to_the_scheduler(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    async def life() -> None:
        directory = str(tmp_path_factory.mktemp("keys"))
        async with scheduler() as port:
            assert await hears(port, context(KEY, directory))
            assert not await hears(port, context(KEY, directory, shows=False))
            assert not await hears(port, context("f" * 64, directory))
            trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            trusting.check_hostname = False
            trusting.verify_mode = ssl.CERT_NONE
            assert not await hears(port, trusting)
            assert not await hears(port, None)

    asyncio.run(life())
