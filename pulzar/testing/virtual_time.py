"""An event loop whose time passes only when nobody has anything to do: hours in a moment, and the
same order of events for the same seed.

Nothing in it may wait for the world: no sockets, no threads, no processes.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

START_S = 1000.0


class _Selector(selectors.SelectSelector):
    """Instead of waiting, lets the time pass."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = START_S

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everybody waits for somebody else: nothing will ever happen")
        self.now_s += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Virtual seconds."""
        return self._virtual.now_s


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


class LoopClock:
    """Implements `Clock` by the time of the running loop; `step_ms` is how far the one on the wall
    is off."""

    def __init__(self) -> None:
        self.step_ms = 0

    def now_ms(self) -> int:
        """Milliseconds since 1970, nearly."""
        return 1_700_000_000_000 + self.step_ms + round(self.monotonic_s() * 1000)

    def monotonic_s(self) -> float:
        """Virtual seconds."""
        return asyncio.get_running_loop().time()


class InlineExecutor(Executor):
    """Does at once what it is given."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """See `Executor`."""
        done: Future[T] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except BaseException as error:  # handed over to whoever waits
            done.set_exception(error)
        return done


class SimulatedWorker:
    """Implements `commit.Worker`: each piece takes a while, none is done after `die`."""

    def __init__(self, latency_s: Callable[[], float]) -> None:
        self._latency_s = latency_s
        self._free_s = 0.0
        self._dead = False

    def put(self, work: Callable[[], None]) -> None:
        """See `Worker`."""
        loop = asyncio.get_running_loop()
        self._free_s = max(self._free_s, loop.time()) + self._latency_s()
        loop.call_at(self._free_s, self._do, work)

    def _do(self, work: Callable[[], None]) -> None:
        if not self._dead:
            work()

    def die(self) -> None:
        """Do nothing any more."""
        self._dead = True

    async def close(self) -> None:
        """See `Worker`."""
        await asyncio.sleep(max(0.0, self._free_s - asyncio.get_running_loop().time()))
