"""/skynet/turn, results, word, scripts: what agents say to the master. Inside the cluster only."""

import asyncio
import re

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from pulzar.cluster.checks import check_text
from pulzar.cluster.messages import Message
from pulzar.errors import InvalidParameter, ScriptNotFound, Unavailable
from pulzar.http.application import Paths
from pulzar.http.internal import Internal
from pulzar.http.sending import until_gone
from pulzar.jobs.messages import Done, Result, Turn, Word
from pulzar.jobs.states import Event
from pulzar.jobs.system import JobSystem
from pulzar.limits import (
    AGENTS_BEFORE_MAX,
    JOB_LOG_BYTES_MAX,
    ORDERS_MAX,
    RESULTS_MAX,
    SLOTS_MAX,
    WAIT_S_MAX,
)

PATHS: Paths = {
    "/skynet/turn": (("POST",), "internal"),
    "/skynet/results": (("POST",), "internal"),
    "/skynet/word": (("POST",), "internal"),
    "/skynet/scripts/{hash}": (("GET",), "internal"),
}

_DIGEST = re.compile(rb"[0-9a-f]{64}")
_ENDING_EVENTS = (Event.SUCCEED, Event.FAIL, Event.TIME_OUT, Event.CANCEL, Event.RETURN)
_ENDS = frozenset(str(event) for event in _ENDING_EVENTS)


class Agents:
    """The endpoints of one master."""

    def __init__(self, system: JobSystem, internal: Internal) -> None:
        self._system = system
        self._internal = internal
        self.endpoints: dict[str, ASGIApp] = {
            "/skynet/turn": self._turn,
            "/skynet/results": internal.call(Done, system.record, check_done),
            "/skynet/word": internal.call(Word, system.word, check_word),
            "/skynet/scripts/{hash}": internal.guarded(self._scripts),
        }

    async def _turn(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An agent waits for orders, as long as it is there: a job is not given to one that has
        gone."""

        async def work(turn: Turn) -> Message:
            ordering = asyncio.ensure_future(self._system.orders(turn))
            gone = asyncio.ensure_future(until_gone(receive))
            try:
                await asyncio.wait((ordering, gone), return_when=asyncio.FIRST_COMPLETED)
                if not ordering.done():
                    raise Unavailable("the agent has gone")
                return ordering.result()
            finally:
                ordering.cancel()
                gone.cancel()
                await asyncio.gather(ordering, gone, return_exceptions=True)

        await self._internal.call(Turn, work, check_turn)(scope, receive, send)

    async def _scripts(self, scope: Scope, _receive: Receive, send: Send) -> None:
        digest = scope["raw_path"].rpartition(b"/")[2]
        content = None
        if _DIGEST.fullmatch(digest):
            content = await self._system.archive(digest.decode())
        if content is None:
            raise ScriptNotFound("there are no scripts with that hash")
        headers = [
            (b"content-type", b"application/x-tar"),
            (b"content-length", b"%d" % len(content)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


def check_turn(turn: Turn) -> None:
    """Raise InvalidParameter where an agent could not have said this."""
    _check_agent(turn.agent, turn.node, turn.wait_s)
    if not 1 <= turn.wants <= ORDERS_MAX or not 0 <= turn.free <= SLOTS_MAX or turn.turn < 1:
        raise InvalidParameter("a turn has a number, and wants some orders for some slots")
    if len(turn.jobs) > turn.wants or any(number < 1 for number in turn.jobs):
        raise InvalidParameter("a turn wants orders for all jobs that it names")


def check_done(done: Done) -> None:
    """Raise InvalidParameter where an agent could not have said this."""
    _check_agent(done.agent, done.node, 0.0)
    if len(done.results) > RESULTS_MAX:
        raise InvalidParameter(f"up to {RESULTS_MAX} results are told at once")
    for result in done.results:
        _check_result(result)


def check_word(word: Word) -> None:
    """Raise InvalidParameter where an agent could not have said this."""
    _check_agent(word.agent, word.node, word.wait_s)
    if not 0 <= word.slots <= SLOTS_MAX or len(word.running) > word.slots:
        raise InvalidParameter("an agent runs no more than it has slots")
    if len(word.before) > AGENTS_BEFORE_MAX:
        raise InvalidParameter("an agent is in the place of a few others")
    if not 0 <= word.scheduler < 1 << 16:
        raise InvalidParameter("a scheduler has a port")
    for before in word.before:
        check_text("an agent's id", before.agent)
    for news in word.running:
        if news.job < 1 or news.attempt < 1 or not 0 <= news.offset <= JOB_LOG_BYTES_MAX:
            raise InvalidParameter("this is no news of an attempt")
        if len(news.log) > JOB_LOG_BYTES_MAX or not -1 <= news.progress <= 1:
            raise InvalidParameter("this is no news of an attempt")


def _check_agent(agent: str, node: str, wait_s: float) -> None:
    check_text("an agent's id", agent)
    check_text("a node's name", node)
    if not 0 <= wait_s <= WAIT_S_MAX:
        raise InvalidParameter(f"wait_s is from 0 to {WAIT_S_MAX:g}")


def _check_result(result: Result) -> None:
    if result.job < 1 or result.attempt < 1 or result.event not in _ENDS:
        raise InvalidParameter("this is no result of an attempt")
    if len(result.log) > JOB_LOG_BYTES_MAX or result.log_dropped < 0:
        raise InvalidParameter("this is no log of an attempt")
    if result.event == Event.SUCCEED:
        try:
            msgspec.json.decode(result.output)
        except msgspec.DecodeError as error:
            raise InvalidParameter(f"the output of an attempt is no JSON: {error}") from None
