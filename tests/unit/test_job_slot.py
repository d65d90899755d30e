"""Scripts of every kind in real child processes: how each of them ends, and what it leaves."""

import asyncio
import ctypes
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pulzar.clock import SystemClock
from pulzar.jobs.messages import Order, Result
from pulzar.jobs.slot import Slot
from pulzar.limits import JOB_LOG_BYTES_MAX

DEADLINE_S = 30.0
MARK = "test-slot"


def order(
    script: str = "s", digest: str = "one", timeout_s: float = 0.0, **arguments: Any
) -> Order:
    return Order(
        job=7,
        attempt=2,
        directory="d",
        script=script,
        digest=digest,
        arguments=json.dumps(arguments),
        timeout_s=timeout_s,
    )


def marked() -> list[psutil.Process]:
    """Every process that a slot has started and that is alive."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PULZAR_SLOT") == MARK:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return [one for one in found if one.status() != psutil.STATUS_ZOMBIE]


async def until(holds: Callable[[], object]) -> None:
    while not holds():  # noqa: ASYNC110  # there is no event to wait for
        await asyncio.sleep(0.002)


class Bench:
    """A slot, and the scripts that a test gives it."""

    def __init__(self, tmp_path: Path, *, memory_bytes: int = 0, is_fresh: bool = False) -> None:
        self.path = tmp_path / "d"
        self.path.mkdir(parents=True)
        self.slot = Slot(
            0,
            directory=str(tmp_path / "work"),
            master="http://127.0.0.1:1",
            mark=MARK,
            clock=SystemClock(),
            memory_bytes=memory_bytes,
            is_fresh=is_fresh,
        )

    def script(self, text: str, name: str = "s") -> None:
        (self.path / f"{name}.py").write_text(text)

    async def run(self, wanted: Order) -> Result:
        return await self.slot.run(wanted, str(self.path))

    def life(self, work: Callable[["Bench"], Awaitable[None]]) -> None:
        async def whole() -> None:
            async with asyncio.timeout(DEADLINE_S):
                try:
                    await work(self)
                finally:
                    await self.slot.close()

        asyncio.run(whole())
        assert marked() == []


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def one(bench: Bench, text: str, **wanted: Any) -> Result:
    """The result of one script."""
    bench.script(text)
    results: list[Result] = []

    async def work(bench: Bench) -> None:
        results.append(await bench.run(order(**wanted)))

    bench.life(work)
    return results[0]


def test_execute_takes_arguments_and_gives_its_output(bench: Bench) -> None:
    text = """
import logging, sys
from pulzar import job
def execute(arguments):
    print("out")
    sys.stderr.write("err\\n")
    logging.warning("logged")
    job.log("told")
    return {"sum": arguments["a"] + arguments["b"], "job": [job.id, job.attempt]}
"""
    result = one(bench, text, a=1, b=2)
    assert (result.job, result.attempt, result.event) == (7, 2, "succeed")
    assert json.loads(result.output) == {"sum": 3, "job": [7, 2]}
    assert result.log == b"out\nerr\nWARNING:root:logged\ntold\n"
    assert result.finished_ms >= result.started_ms > 0


def test_a_coroutine_is_run(bench: Bench) -> None:
    result = one(bench, "async def execute(arguments):\n    return arguments\n", x=[1, None])
    assert json.loads(result.output) == {"x": [1, None]}


def test_a_script_without_execute_is_a_program(bench: Bench) -> None:
    text = """
import json, os, sys
assert __name__ == "__main__"
print(json.loads(os.environ["PULZAR_ARGUMENTS"])["x"], os.listdir())
sys.exit(int(json.loads(os.environ["PULZAR_ARGUMENTS"])["status"]))
"""
    result = one(bench, text, x="hello", status=0)
    assert (result.event, result.output, result.log) == ("succeed", "null", b"hello []\n")


def test_a_child_is_warm_and_begins_anew_where_it_must(bench: Bench) -> None:
    bench.script("import os\ncount = 0\ndef execute(a):\n    return os.getpid()\n")
    bench.script("def execute(a):\n    raise ValueError('no')\n", "bad")
    bench.script("import neighbour\ndef execute(a):\n    return neighbour.WORD\n", "other")
    bench.script("WORD = 'here'\n", "neighbour")

    async def work(bench: Bench) -> None:
        first = await bench.run(order())
        assert (await bench.run(order())).output == first.output
        assert (await bench.run(order("other"))).output == '"here"'
        assert (await bench.run(order())).output == first.output
        assert (await bench.run(order("bad"))).event == "fail"
        second = await bench.run(order())
        assert second.output != first.output  # a child that failed is not used again
        third = await bench.run(order(digest="two"))
        assert third.output not in (first.output, second.output)  # nor one with older scripts

    bench.life(work)


def test_a_name_of_the_standard_library_shadows_nothing(bench: Bench) -> None:
    bench.script("import json\ndef execute(a):\n    return json.dumps(a)\n", "json")
    bench.script("def execute(a):\n    import json\n    return json.dumps(a)\n", "s")

    async def work(bench: Bench) -> None:
        assert json.loads((await bench.run(order("json", x=1))).output) == '{"x": 1}'
        assert json.loads((await bench.run(order("s", x=1))).output) == '{"x": 1}'

    bench.life(work)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("def execute(a):\n    raise ValueError('no', a)\n", "ValueError: ('no', {})"),
        ("def execute(a):\n    return {1}\n", "JSON cannot hold"),
        ("def execute(a):\n    return float('nan')\n", "JSON cannot hold"),
        ("def execute(a):\n    return 'x' * (25 << 20)\n", "allowed"),
        ("def execute(:\n", "SyntaxError"),
        ("import not_there_at_all\ndef execute(a): pass\n", "ModuleNotFoundError"),
        ("raise SystemExit(3)\n", "exit status 3"),
        ("def execute(a):\n    raise KeyboardInterrupt\n", "KeyboardInterrupt"),
        ("def execute(a):\n    import os\n    os._exit(4)\n", "exit status 4"),
        ("def execute(a):\n    import ctypes\n    ctypes.string_at(0)\n", "SIGSEGV"),
        ("def execute(a):\n    import os\n    os.kill(os.getpid(), 9)\n", "SIGKILL"),
        ("def execute(a):\n    execute(a)\n", "RecursionError"),
    ],
)
def test_a_failure_says_what_it_was(bench: Bench, text: str, error: str) -> None:
    result = one(bench, text)
    assert result.event == "fail"
    assert error in result.error
    assert result.output == ""


def test_a_traceback_shows_the_script_and_not_us(bench: Bench) -> None:
    result = one(bench, "def execute(a):\n    return a['missing']\n")
    assert result.traceback.splitlines()[1] == '  File "s.py", line 2, in execute'
    assert "pulzar" not in result.traceback


def test_an_output_of_ten_million_bytes_arrives(bench: Bench) -> None:
    result = one(bench, "def execute(a):\n    return 'y' * 10_000_000\n")
    assert json.loads(result.output) == "y" * 10_000_000


def test_arguments_larger_than_a_pipe_arrive(bench: Bench) -> None:
    result = one(bench, "def execute(a):\n    return len(a['x'])\n", x="z" * 900_000)
    assert result.output == "900000"


def test_a_log_has_its_limit_and_does_not_stop_the_script(bench: Bench) -> None:
    text = "def execute(a):\n    for i in range(3000):\n        print('x' * 9_999)\n    return 1\n"
    result = one(bench, text)
    assert result.event == "succeed"
    assert len(result.log) == JOB_LOG_BYTES_MAX
    assert len(result.log) + result.log_dropped == 30_000_000


def test_more_memory_than_is_allowed_is_an_error_of_the_script(tmp_path: Path) -> None:
    bench = Bench(tmp_path, memory_bytes=200 << 20)
    text = "def execute(a):\n    return len(bytearray(a['size']))\n"
    result = one(bench, text, size=400 << 20)
    assert (result.event, result.error) == ("fail", "MemoryError")
    other = Bench(tmp_path / "other", memory_bytes=200 << 20)
    assert one(other, text, size=50 << 20).output == str(50 << 20)


def test_a_busy_loop_is_ended_when_its_time_is_over(bench: Bench) -> None:
    text = "def execute(a):\n    print('on')\n    while True: pass\n"
    result = one(bench, text, timeout_s=0.5)
    assert (result.event, result.log) == ("time_out", b"on\n")
    assert "0.5 s" in result.error


def test_a_script_that_ignores_sigterm_is_killed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pulzar.warm_child.CHILD_KILL_S", 0.2)
    text = """
import signal, time
def execute(a):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(1000)
"""
    assert one(bench, text, timeout_s=0.3).event == "time_out"


GRANDCHILDREN = """
import os, signal, subprocess, time
def execute(a):
    subprocess.Popen(["sleep", "1000"])
    subprocess.Popen(["sh", "-c", "sleep 1001 & sleep 1002"])
    subprocess.Popen(["setsid", "sh", "-c", "sleep 1003 & sleep 1004"])
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(1000)
        os._exit(0)
    os.wait()
    if a.get("wait"):
        time.sleep(1000)
    return "left"
"""


@pytest.mark.parametrize("waits", [False, True])
def test_nothing_that_a_script_started_outlives_it(bench: Bench, waits: bool) -> None:
    become_subreaper()
    bench.script(GRANDCHILDREN)

    async def work(bench: Bench) -> None:
        result = await bench.run(order(timeout_s=1.0 if waits else 0.0, wait=waits))
        assert result.event == ("time_out" if waits else "succeed")
        assert marked() == []

    bench.life(work)


def become_subreaper() -> None:
    """As an agent is."""
    ctypes.CDLL(None).prctl(36, 1)


def test_a_running_job_is_cancelled(bench: Bench) -> None:
    bench.script("import time\ndef execute(a):\n    print('on')\n    time.sleep(1000)\n")

    async def work(bench: Bench) -> None:
        running = asyncio.ensure_future(bench.run(order()))
        await until(lambda: bench.slot.running is not None and bench.slot.running.log == b"on\n")
        bench.slot.cancel()
        result = await running
        assert (result.event, result.log) == ("cancel", b"on\n")
        bench.slot.cancel()  # nothing runs: nothing happens

    bench.life(work)


def test_progress_is_told(bench: Bench) -> None:
    text = """
from pulzar import job
import time
def execute(a):
    job.progress(1, 4, "a quarter")
    time.sleep(1000)
"""
    bench.script(text)

    async def work(bench: Bench) -> None:
        running = asyncio.ensure_future(bench.run(order()))
        await until(lambda: bench.slot.running is not None and bench.slot.running.progress > 0)
        assert bench.slot.running is not None
        news = bench.slot.running.news()
        assert (news.progress, news.note) == (0.25, "a quarter")
        bench.slot.cancel()
        await running

    bench.life(work)


def test_what_a_script_does_to_its_process_is_undone(bench: Bench) -> None:
    bench.script(
        "import os, signal\n"
        "def execute(a):\n"
        "    seen = os.environ.get('LEFT'), signal.getsignal(signal.SIGTERM) == signal.SIG_IGN\n"
        "    os.environ['LEFT'] = 'x'\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    open('file', 'w').close()\n"
        "    return [*seen, len(os.listdir())]\n"
    )

    async def work(bench: Bench) -> None:
        for _ in range(2):
            assert json.loads((await bench.run(order())).output) == [None, False, 1]

    bench.life(work)


def test_a_child_that_is_killed_from_outside_is_a_failure(bench: Bench) -> None:
    bench.script("import time\ndef execute(a):\n    time.sleep(1000)\n")

    async def work(bench: Bench) -> None:
        running = asyncio.ensure_future(bench.run(order()))
        await until(marked)
        os.kill(marked()[0].pid, signal.SIGKILL)
        result = await running
        assert (result.event, result.error) == ("fail", "its process ended: SIGKILL")

    bench.life(work)


PID = "import os\ndef execute(arguments):\n    return os.getpid()\n"


def pids(bench: Bench) -> set[str]:
    """The processes of three jobs."""
    found: set[str] = set()

    async def work(bench: Bench) -> None:
        for _ in range(3):
            found.add((await bench.run(order())).output)

    bench.script(PID)
    bench.life(work)
    return found


def test_jobs_share_a_process_or_have_one_each(tmp_path: Path) -> None:
    assert len(pids(Bench(tmp_path / "warm"))) == 1
    assert len(pids(Bench(tmp_path / "fresh", is_fresh=True))) == 3


def test_a_process_that_has_become_too_large_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pulzar.jobs.slot.CHILD_BYTES_MAX", 1 << 20)
    assert len(pids(Bench(tmp_path))) == 3
