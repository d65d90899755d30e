"""Extensions of every kind in real child processes: how each call ends, and what it leaves."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from pulzar.errors import (
    ExtensionFailed,
    ExtensionNotFound,
    ExtensionTimeout,
    InvalidParameter,
    NotReady,
    Unavailable,
)
from pulzar.extensions import slots as slots_module
from pulzar.extensions.loader import Loader
from pulzar.extensions.slots import Call, Extensions, sweep

pytestmark = pytest.mark.slow

TIMEOUT_S = 3.0


class Bench:
    """Extensions, and the modules that a test gives them."""

    def __init__(self, tmp_path: Path, *, slots: int = 2, memory_bytes: int = 0) -> None:
        self.path = tmp_path / "third_party"
        self.path.mkdir()
        self.work = tmp_path / "work"
        sweep(str(self.work))
        self.extensions = Extensions(
            str(self.path),
            slots=slots,
            timeout_s=TIMEOUT_S,
            memory_bytes=memory_bytes,
            work=str(self.work),
        )
        self.extensions.url = "http://127.0.0.1:1"

    def module(self, text: str, name: str = "m") -> None:
        """Write a module."""
        (self.path / f"{name}.py").write_text(text)

    async def call(self, *arguments: str, name: str = "m", **params: list[str]) -> str:
        """Call one."""
        call = Call(arguments=arguments, params=params, body=None, base="http://host")
        return await self.extensions.call(self.extensions.find(name), call)


def live(tmp_path: Path, test: Callable[[Bench], Awaitable[None]], **options: int) -> None:
    """Run a test on a bench, and look that nothing is left of it."""

    @contextlib.asynccontextmanager
    async def bench() -> AsyncIterator[Bench]:
        made = Bench(tmp_path, **options)
        try:
            yield made
        finally:
            await made.extensions.close()

    async def life() -> None:
        async with asyncio.timeout(40), bench() as made:
            await test(made)
        async with asyncio.timeout(10):
            while ours():  # noqa: ASYNC110  # there is no event to wait for
                await asyncio.sleep(0.01)

    asyncio.run(life())


def ours() -> list[psutil.Process]:
    """Every process that was started for an extension and is alive."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


SIGNATURES = {
    "def execute(arguments): return [arguments]": '[["a"]]',
    "def execute(arguments, params): return [arguments, params]": '[["a"], {"x": ["1"]}]',
    "def execute(arguments, params, body): return [arguments, params, body]": (
        '[["a"], {"x": ["1"]}, null]'
    ),
    "def execute(arguments, params=None, *, more=1): return [params]": '[{"x": ["1"]}]',
    "def execute(*given): return len(given)": "3",
    "async def execute(arguments): return arguments": '["a"]',
    'execute = lambda arguments: \'{"sent": ["as it is"]}\'': '{"sent": ["as it is"]}',
    "def execute(arguments): return 'no JSON'": '"no JSON"',
    "def execute(arguments): return 'NaN'": '"NaN"',
    "def execute(arguments): return None": "null",
    "def execute(arguments): return '\\ud800'": '"\\ud800"',
}


@pytest.mark.parametrize("text", SIGNATURES)
def test_what_execute_takes_and_gives(tmp_path: Path, text: str) -> None:
    async def test(bench: Bench) -> None:
        bench.module(text)
        assert await bench.call("a", x=["1"]) == SIGNATURES[text]

    live(tmp_path, test)


FAILURES = {
    "def execute(arguments): return float('nan')": "JSON cannot hold",
    "def execute(arguments): return object()": "JSON cannot hold",
    "def execute(arguments): return {(1, 2): 3}": "JSON cannot hold",
    "def execute(arguments):\n l = []; l.append(l); return l": "JSON cannot hold",
    "def execute(arguments): return b'bytes'": "JSON cannot hold",
    "def execute(arguments): return 'x' * (25 << 20)": "are allowed",
    "def execute(arguments): return arguments[7]": "IndexError: list index out of range",
    "def execute(): return 1\nexecute = 5": "no function execute",
    "x = 1": "no function execute",
    "def execute(arguments: return": "SyntaxError",
    "import not_there_at_all\ndef execute(arguments): pass": "ModuleNotFoundError",
    "import os\ndef execute(arguments): os._exit(3)": "exit status 3",
    "import sys\ndef execute(arguments): sys.exit('no')": "sys.exit",
    "import ctypes\ndef execute(arguments): ctypes.string_at(0)": "SIGSEGV",
    "import os\ndef execute(arguments): os.kill(os.getpid(), 9)": "SIGKILL",
    "import os\ndef execute(arguments): os.close(1); os.closerange(3, 64)": "its process ended",
    "def execute(arguments): raise BaseException('odd')": "BaseException: odd",
    "def execute(arguments): raise ValueError('two\\nlines')": "ValueError: two lines",
    "def execute(arguments): return execute(arguments)": "RecursionError",
}


@pytest.mark.parametrize("text", FAILURES)
def test_a_failure_is_one_line_and_the_next_call_works(tmp_path: Path, text: str) -> None:
    async def test(bench: Bench) -> None:
        bench.module(text)
        bench.module("def execute(arguments): return 1", name="good")
        for _ in range(2):
            with pytest.raises(ExtensionFailed) as failure:
                await bench.call()
            assert FAILURES[text] in str(failure.value)
            assert "\n" not in str(failure.value)
            assert await bench.call(name="good") == "1"

    live(tmp_path, test)


def test_a_loop_is_ended_with_all_that_it_has_started(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.module(
            "import subprocess, sys, time\n"
            "def execute(arguments):\n"
            "    program = 'import time; time.sleep(1000)'\n"
            "    subprocess.Popen([sys.executable, '-c', program], start_new_session=True)\n"
            "    while True: pass\n"
        )
        with pytest.raises(ExtensionTimeout, match="no answer in 3 s"):
            await bench.call()
        assert ours() == []

    live(tmp_path, test)


def test_a_child_that_leaves_a_process_is_replaced(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.module(
            "import os, time\n"
            "def execute(arguments):\n"
            "    if arguments and os.fork() == 0:\n"
            "        os.setsid(); time.sleep(1000)\n"
            "    return os.getpid()\n"
        )
        first = await bench.call()
        assert await bench.call() == first
        assert await bench.call("fork") == first
        assert await bench.call() != first
        assert len(ours()) == 1

    live(tmp_path, test)


def test_a_child_that_does_not_read_its_call_is_ended(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.module("def execute(arguments): return len(arguments[0])")
        assert await bench.call("x" * 1_000_000) == "1000000"
        (child,) = ours()
        child.suspend()
        with pytest.raises(ExtensionTimeout):
            await bench.call("x" * 1_000_000)  # more than a pipe holds: a thread writes it
        assert await bench.call("x" * 1_000_000) == "1000000"

    live(tmp_path, test)


def test_memory_is_bounded(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.module("def execute(arguments): return len(bytearray(2 << 30))")
        with pytest.raises(ExtensionFailed, match="MemoryError"):
            await bench.call()

    live(tmp_path, test, memory_bytes=512 << 20)


def test_a_leaking_child_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "CHILD_BYTES_MAX", 64 << 20)

    async def test(bench: Bench) -> None:
        bench.module(
            "import os\nkept = []\n"
            "def execute(arguments):\n"
            "    kept.append(bytearray(os.urandom(1) * (40 << 20)))\n"
            "    return os.getpid()\n"
        )
        assert len({await bench.call() for _ in range(6)}) >= 3

    live(tmp_path, test)


def test_a_changed_file_is_picked_up(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.module("VALUE = 1", name="other")
        bench.module("import other\ndef execute(arguments): return other.VALUE")
        assert await bench.call() == "1"
        bench.module("VALUE = 22", name="other")
        assert await bench.call() == "22"
        bench.module("def execute(arguments): return 333")
        assert await bench.call() == "333"
        (bench.path / "m.py").unlink()
        with pytest.raises(ExtensionNotFound):
            await bench.call()

    live(tmp_path, test)


def test_what_a_module_leaves_in_the_process_is_undone(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.module(
            "import os, signal, sys\n"
            "def execute(arguments):\n"
            "    seen = [os.environ.get('X'), os.getcwd()]\n"
            "    os.environ['X'] = '1'; os.chdir('/tmp'); signal.alarm(1)\n"
            "    sys.stdout.close()\n"
            "    return seen\n"
        )
        assert await bench.call() == '[null, "/"]'
        assert await bench.call() == '[null, "/"]'

    live(tmp_path, test)


def test_calls_wait_for_a_slot_and_too_many_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots_module, "EXTENSION_WAITING_MAX", 3)

    async def test(bench: Bench) -> None:
        bench.module(
            "import time\ndef execute(arguments): time.sleep(float(arguments[0])); return 1"
        )
        calls = [asyncio.ensure_future(bench.call("0.2")) for _ in range(6)]
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert [one for one in done if one == "1"] == ["1"] * 5
        assert [type(one) for one in done if one != "1"] == [Unavailable]
        long = [asyncio.ensure_future(bench.call("2.9")) for _ in range(2)]
        await asyncio.sleep(0)
        gone = asyncio.ensure_future(bench.call("0"))
        await asyncio.sleep(0)
        gone.cancel()  # its place is given on
        assert await bench.call("0") == "1"
        await asyncio.gather(*long)

    live(tmp_path, test)


def test_a_close_ends_what_runs_and_what_waits(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.module("import time\ndef execute(arguments): time.sleep(1000)")
        calls = [asyncio.ensure_future(bench.call()) for _ in range(3)]
        while len(ours()) < 2:  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.01)
        await bench.extensions.close()
        done = await asyncio.gather(*calls, return_exceptions=True)
        kinds = [type(one) for one in done]
        assert set(kinds) <= {ExtensionFailed, NotReady}  # one may not have begun
        assert kinds[2] is NotReady
        with pytest.raises(NotReady):
            await bench.call()

    live(tmp_path, test)


def test_without_slots_none_is_called(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.module("def execute(arguments): return 1")
        with pytest.raises(Unavailable, match="slots is 0"):
            await bench.call()

    live(tmp_path, test, slots=0)


def test_nonsense_is_the_clients_fault(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.module(
            "from pulzar import extension\n"
            "def execute(arguments): raise extension.BadInput('give a number')\n"
        )
        with pytest.raises(InvalidParameter, match="give a number"):
            await bench.call()
        assert bench.extensions.statistics()["extension_failures_total"] == 0

    live(tmp_path, test)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../m",
        "m.py",
        "m/x",
        "/etc/passwd",
        "_m",
        "m\0",
        "m\n",
        "é",
        "a" * 65,
        "__init__",
    ],
)
def test_a_name_is_a_word(tmp_path: Path, name: str) -> None:
    (tmp_path / "m.py").write_text("")
    (tmp_path / "_m.py").write_text("")
    with pytest.raises(ExtensionNotFound, match="there is"):
        Loader(str(tmp_path)).find(name)


def test_near_names_and_what_ships(tmp_path: Path) -> None:
    (tmp_path / "reports.py").write_text("")
    (tmp_path / "search.py").write_text("")
    loader = Loader(str(tmp_path))
    assert loader.names() == ["example", "reports", "search"]
    assert loader.find("search").directory == str(tmp_path)
    assert loader.find("example").directory != str(tmp_path)
    with pytest.raises(ExtensionNotFound, match="there is reports"):
        loader.find("report")
    assert Loader(str(tmp_path / "none")).names() == ["example", "search"]


def test_bodies_that_a_killed_server_left_are_swept(tmp_path: Path) -> None:
    (tmp_path / "left").write_text("")
    sweep(str(tmp_path))
    assert os.listdir(tmp_path) == []
