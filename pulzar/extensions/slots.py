"""Slots for extensions: warm child processes of the server, each with one call at a time.

    call -> a free slot, the one used last -> its child, if that has loaded the same files -> answer
            none is free: one more, up to `count`; then wait in the order of arrival, bounded

A child is kept while it answers, leaves no process and not too much memory behind. An exception is
an answer; a child that ends, or takes too long, is ended with all that it has started, and the next
call gets a new one. What it writes goes to the log of the server, line by line.
"""

import asyncio
import logging
import os
import secrets
from collections import deque
from collections.abc import Mapping, Sequence

import msgspec

from pulzar.errors import ExtensionFailed, ExtensionTimeout, InvalidParameter, NotReady, Unavailable
from pulzar.extensions.loader import Loader, Module
from pulzar.limits import (
    CHILD_BYTES_MAX,
    EXTENSION_CALLS_PER_CHILD,
    EXTENSION_LOG_BYTES_MAX,
    EXTENSION_WAITING_MAX,
)
from pulzar.pipes import Frame
from pulzar.warm_child import WarmChild

_log = logging.getLogger(__name__)

_COMMAND = "from pulzar.extensions.child import main; main()"
_MARK = "PULZAR_EXTENSION"


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What an extension is called with. `body` is the path of a file, `base` what stands before a
    path in the URLs that the client knows."""

    arguments: Sequence[str]
    params: Mapping[str, Sequence[str]]
    body: str | None
    base: str


class _Child(WarmChild):
    """A warm child that has loaded some directories of extensions."""

    def __init__(self, memory_bytes: int) -> None:
        mark = _MARK, secrets.token_hex(8)
        super().__init__(_COMMAND, mark=mark, wrote=self._take, memory_bytes=memory_bytes)
        self.stamps: dict[str, str] = {}
        self.calls = 0
        self._wrote = bytearray()
        self._dropped = 0

    def _take(self, content: bytes) -> None:
        room = EXTENSION_LOG_BYTES_MAX - len(self._wrote)
        self._wrote += content[:room]
        self._dropped += max(0, len(content) - room)

    def log(self, name: str) -> None:
        """Write what it has written to the log."""
        for line in self._wrote.decode(errors="replace").splitlines():
            _log.info("%s: %s", name, line)
        if self._dropped:
            _log.info("%s: %d bytes more were thrown away", name, self._dropped)
        self._wrote.clear()
        self._dropped = 0

    def has_loaded(self, module: Module) -> bool:
        """Whether it has loaded nothing of that directory that has changed since."""
        return self.stamps.setdefault(module.directory, module.stamp) == module.stamp


class Extensions:
    """Calls extensions. One event loop. `url` is where the store answers, known once it does."""

    def __init__(
        self, directory: str, *, slots: int, timeout_s: float, memory_bytes: int, work: str
    ) -> None:
        """`directory` has the user's modules; files with bodies go to `work`, which is ours."""
        self.url = ""
        self.work = work
        self.calls_total = 0
        self.failed_total = 0
        self._loader = Loader(directory)
        self._count = slots
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._idle: list[_Child] = []
        self._busy = 0
        self._working: set[_Child] = set()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed = False

    def find(self, name: str) -> Module:
        """The module that answers for a name. Raises ExtensionNotFound."""
        return self._loader.find(name)

    async def call(self, module: Module, call: Call) -> str:
        """What an extension answers: JSON.

        Raises ExtensionFailed, ExtensionTimeout, InvalidParameter where the extension says that it
        was asked nonsense, Unavailable where too many calls wait, NotReady.
        """
        await self._take_turn()
        self.calls_total += 1
        child: _Child | None = None
        try:
            child = await self._warm(module)
            answer = await self._ask(child, module, call)
            if "refused" in answer:
                raise InvalidParameter(answer["refused"])
            if "output" not in answer:
                reason = " ".join(answer["error"].split())  # one line
                raise ExtensionFailed(f"{module.name}: {reason}")
            output: str = answer["output"]
            return output
        except (ExtensionFailed, ExtensionTimeout):
            self.failed_total += 1
            raise
        finally:
            if child is not None:
                self._working.discard(child)
            self._give_turn()

    async def _ask(self, child: _Child, module: Module, call: Call) -> Frame:
        """Ask a child, and keep it if it is as good as new. Raises as `call`."""
        frame = {
            "directory": module.directory,
            "name": module.name,
            "arguments": call.arguments,
            "params": call.params,
            "body": call.body,
            "base": call.base,
            "master": self.url,
        }
        answer: Frame | None = None
        is_late = False
        try:
            async with asyncio.timeout(self._timeout_s):
                await child.send(frame)
                answer = await child.answer()
        except TimeoutError:
            is_late = True
        finally:
            ending = await self._let_go(child, is_good=answer is not None)
            child.log(module.name)
        if is_late:
            _log.warning("%s took longer than %g s and was ended", module.name, self._timeout_s)
            raise ExtensionTimeout(f"{module.name}: no answer in {self._timeout_s:g} s")
        if answer is None:
            _log.warning("%s: its process ended: %s", module.name, ending)
            raise ExtensionFailed(f"{module.name}: its process ended: {ending}")
        if answer.get("traceback"):
            _log.warning("%s failed:\n%s", module.name, answer["traceback"].rstrip())
        return answer

    async def close(self) -> None:
        """End every child. What is being called fails."""
        self._closed = True
        for turn in self._waiting:
            if not turn.done():
                turn.set_exception(NotReady("the server is stopping"))
        self._waiting.clear()
        idle, self._idle = self._idle, []
        await asyncio.gather(*(child.end(at_once=True) for child in idle))
        for child in self._working:
            child.kill()

    def statistics(self) -> dict[str, float]:
        """Counts by name."""
        return {
            "extension_calls_total": self.calls_total,
            "extension_failures_total": self.failed_total,
            "extension_calls": self._busy,
            "extension_calls_waiting": len(self._waiting),
        }

    async def _take_turn(self) -> None:
        if self._closed:
            raise NotReady("the server is stopping")
        if not self._count:
            raise Unavailable("no extension runs here: [third_party] slots is 0")
        if self._busy < self._count:
            self._busy += 1
            return
        if len(self._waiting) >= EXTENSION_WAITING_MAX:
            raise Unavailable(f"{EXTENSION_WAITING_MAX} calls of extensions wait: try again")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._timeout_s):
                await turn
        except TimeoutError:
            raise Unavailable(
                f"every slot for extensions was busy for {self._timeout_s:g} s: try again"
            ) from None
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_turn()
            raise

    def _give_turn(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._busy -= 1

    async def _warm(self, module: Module) -> _Child:
        """A child that may answer for a module: the one used last, or a new one."""
        child = self._idle.pop() if self._idle else None
        if child is not None and not child.has_loaded(module):
            await child.end(at_once=True)
            child = None
        if child is None:
            child = _Child(self._memory_bytes)
            try:
                await child.start()
            except OSError as error:
                raise Unavailable(f"no process can be started: {error.strerror}") from error
            if self._closed:  # meanwhile
                await child.end(at_once=True)
                raise NotReady("the server is stopping")
            child.has_loaded(module)
        child.calls += 1
        self._working.add(child)
        return child

    async def _let_go(self, child: _Child, *, is_good: bool) -> str:
        """Keep a child that is as good as new; end any other. How it ended, where it did."""
        child.read_log()
        if (
            is_good
            and not self._closed
            and child.calls < EXTENSION_CALLS_PER_CHILD
            and child.is_alone
            and child.resident_bytes <= CHILD_BYTES_MAX
        ):
            self._idle.append(child)
            return ""
        return await asyncio.shield(child.end(at_once=True))


def sweep(work: str) -> None:
    """Make the directory for bodies, and remove what a process that was killed left there.

    Raises OSError.
    """
    os.makedirs(work, exist_ok=True)
    for name in os.listdir(work):
        os.unlink(os.path.join(work, name))
