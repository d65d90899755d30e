"""Concurrent clients that write, read and delete a few keys and record what each was answered.

Each process is a thread with a keep-alive connection of its own and a seeded choice of operations;
conditions name the newest version that any process has seen, so that several race for it. The
history is for `pulzar.testing.linearizability.check`.

What an answer proves is decided in `outcome_of`, nowhere else: a 4xx, 507 or 503 changed
nothing, except 503 `outcome_unknown`; a connection that dies with a request under way proves
nothing; one that could not be opened is no operation at all. An answer that has no business here
(a 500, a code that is not documented) is kept in `surprises`, which a test wants empty.

The server may die and come back elsewhere meanwhile: set `url`, and the clients follow.

Each value is its own label, repeated to the length that the label names, so a read knows
exactly which write it shows, and a mixture of two is no value that anybody wrote.
"""

import contextlib
import json
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from random import Random
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import quote, urlsplit

from pulzar.clock import Clock, SystemClock
from pulzar.testing.linearizability import Kind, Operation, Outcome, Tag

TIMEOUT_S = 20.0  # a server that takes longer to answer leaves the outcome unknown
RECONNECT_S = 0.005  # between two attempts to reach a server that is not there
PATHS = {Kind.PUT: "/add_key/", Kind.GET: "/get_key/", Kind.DELETE: "/delete_key/"}


class Answer(NamedTuple):
    """What came back. `code` and `problem_version` are those of a problem document."""

    status: int
    version: int | None
    body: bytes
    code: str = ""
    problem_version: int | None = None


class Wish(NamedTuple):
    """What a process wants to do next."""

    kind: Kind
    key: str
    label: str | None
    if_match: Tag | None
    if_none_match: Tag | None


def value_of(label: str) -> bytes:
    """The bytes that a label stands for; a label ends in their number, or is longer."""
    unit = label.encode() + b";"
    size = max(len(unit), int(label.rpartition(".")[2]))
    return (unit * (size // len(unit) + 1))[:size]


def label_of(value: bytes) -> str:
    """The label of a value; of bytes that no label stands for, a text that is no label."""
    head = value.partition(b";")[0][:64]
    try:
        label = head.decode()
        if value_of(label) == value:
            return label
    except ValueError:
        pass
    return f"{len(value)} bytes that nobody wrote, beginning with {value[:16]!r}"


def outcome_of(kind: Kind, answer: Answer) -> Outcome | None:
    """What an answer proves; None for one that has no business here."""
    status, code = answer.status, answer.code
    if status in (200, 201):
        return Outcome.OK
    if status == 412 or (kind is Kind.GET and status == 304):
        return Outcome.REFUSED
    if status == 404 and code == "key_not_found" and kind is not Kind.PUT:
        return Outcome.MISSING
    if status == 503 and code == "outcome_unknown" and kind is not Kind.GET:
        return Outcome.UNKNOWN
    if status == 507 and kind is Kind.PUT:
        return Outcome.FAILED
    if status == 503 and code in ("unavailable", "writes_stopped", "not_ready"):
        return Outcome.FAILED
    return None


class Recorder:
    """The clients and the history. Use it in a `with`, or `start` and `stop` it."""

    def __init__(
        self,
        url: str,
        *,
        keys: Sequence[str],
        processes: int = 4,
        seed: int = 0,
        value_bytes: Sequence[int] = (16,),
        clock: Clock | None = None,
    ) -> None:
        self.url = url
        self.history: list[Operation] = []
        self.surprises: list[str] = []
        self.clock = SystemClock() if clock is None else clock
        self.stopping = threading.Event()
        self._keys = keys
        self._value_bytes = value_bytes
        self._seen: dict[str, int] = {}
        self._changed = threading.Condition()
        self._clients = [_Client(self, n, Random(f"{seed} {n}")) for n in range(processes)]
        self._running: list[Future[None]] = []
        self._answered = 0

    def start(self) -> None:
        self.stopping.clear()
        pool = ThreadPoolExecutor(len(self._clients), thread_name_prefix="recorder")
        self._running = [pool.submit(client.run) for client in self._clients]
        pool.shutdown(wait=False)

    def stop(self) -> None:
        """End every process after its operation in flight; raises what ended one early."""
        self.stopping.set()
        for future in self._running:
            future.result(timeout=2 * TIMEOUT_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def wait_for_answers(self, count: int, *, timeout_s: float = TIMEOUT_S) -> None:
        """Return when `count` more operations were answered with what they asked for."""
        with self._changed:
            goal = self._answered + count
            if not self._changed.wait_for(lambda: self._answered >= goal, timeout_s):
                raise TimeoutError(f"{self._answered} of {goal} operations after {timeout_s} s")

    def wish(self, random: Random, name: str) -> Wish:
        """What a process does next."""
        kind = random.choices([Kind.PUT, Kind.GET, Kind.DELETE], [5, 4, 2])[0]
        key = random.choice(self._keys)
        seen = self._seen.get(key, 1)
        conditions: list[tuple[Tag | None, Tag | None]] = [
            (None, None),
            (seen, None),
            (None, "*"),
            (None, seen),
            ("*", None),
        ]
        weights = {
            Kind.PUT: [6, 5, 3, 0, 1],
            Kind.GET: [8, 0, 0, 2, 0],
            Kind.DELETE: [4, 4, 0, 0, 1],
        }
        match, none_match = random.choices(conditions, weights[kind])[0]
        label = f"{name}.{random.choice(self._value_bytes)}" if kind is Kind.PUT else None
        return Wish(kind, key, label, match, none_match)

    def record(self, operation: Operation) -> None:
        with self._changed:
            self.history.append(operation)
            self._answered += operation.outcome is Outcome.OK
            if operation.version is not None:
                self._seen[operation.key] = operation.version
            self._changed.notify_all()

    def surprise(self, text: str) -> None:
        with self._changed:
            self.surprises.append(text)


class _Client:
    """One process: one operation after the other on its own connection."""

    def __init__(self, recorder: Recorder, process: int, random: Random) -> None:
        self._recorder = recorder
        self._process = process
        self._random = random
        self._count = 0
        self._connection: HTTPConnection | None = None

    def run(self) -> None:
        while not self._recorder.stopping.is_set():
            connection = self._connected()
            if connection is None:
                self._recorder.stopping.wait(RECONNECT_S)
                continue
            self._count += 1
            wish = self._recorder.wish(self._random, f"{self._process}.{self._count}")
            self._operate(connection, wish)
        self._disconnect()

    def _operate(self, connection: HTTPConnection, wish: Wish) -> None:
        clock = self._recorder.clock
        invoked_s = clock.monotonic_s()
        try:
            answer = _exchange(connection, wish)
        except (OSError, HTTPException):
            self._disconnect()
            answer = None
        returned_s = clock.monotonic_s()
        outcome, version, value = self._understood(wish, answer)
        self._recorder.record(
            Operation(
                process=self._process,
                kind=wish.kind,
                key=wish.key,
                invoked_s=invoked_s,
                returned_s=returned_s,
                outcome=outcome,
                value=value,
                version=version,
                if_match=wish.if_match,
                if_none_match=wish.if_none_match,
            )
        )

    def _understood(
        self, wish: Wish, answer: Answer | None
    ) -> tuple[Outcome, int | None, str | None]:
        """(outcome, version, value) of an answer, or of none."""
        if answer is None:
            return Outcome.UNKNOWN, None, wish.label
        outcome = outcome_of(wish.kind, answer)
        if outcome is Outcome.OK and answer.version is None:
            self._recorder.surprise(f"{wish.kind} {answer.status} without a version")
        if outcome is Outcome.OK:
            value = label_of(answer.body) if wish.kind is Kind.GET else wish.label
            return outcome, answer.version, value
        if outcome is None:
            self._recorder.surprise(f"{wish.kind} {answer.status} {answer.body[:200]!r}")
            outcome = Outcome.FAILED if answer.status < 500 else Outcome.UNKNOWN
        return outcome, answer.problem_version, wish.label

    def _connected(self) -> HTTPConnection | None:
        """The connection, opened if need be; None where nobody listens."""
        if self._connection is not None and self._connection.sock is not None:
            return self._connection  # http.client closes it where an answer says so
        address = urlsplit(self._recorder.url)
        connection = HTTPConnection(address.hostname or "", address.port, timeout=TIMEOUT_S)
        try:
            connection.connect()
        except OSError:
            return None
        self._connection = connection
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _exchange(connection: HTTPConnection, wish: Wish) -> Answer:
    headers = {}
    if wish.if_match is not None:
        headers["If-Match"] = _etag(wish.if_match)
    if wish.if_none_match is not None:
        headers["If-None-Match"] = _etag(wish.if_none_match)
    body = None if wish.label is None else value_of(wish.label)
    path = PATHS[wish.kind] + quote(wish.key)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        # It may answer before it took the whole body, and then take no more of it.
        connection.request(wish.kind.upper(), path, body, headers)
    response = connection.getresponse()
    content = response.read()
    version = _version(response.getheader("ETag", ""))
    if response.status < 400:
        if wish.kind is Kind.DELETE:
            version = _version(json.loads(content).get("version", ""))
        return Answer(response.status, version, content)
    try:
        problem = json.loads(content)
    except ValueError:
        return Answer(response.status, version, content)
    code, told = problem.get("code", ""), problem.get("version", "")
    return Answer(response.status, version, content, code, _version(told) or None)


def _etag(tag: Tag) -> str:
    return tag if isinstance(tag, str) else f'"{tag:016x}"'


def _version(text: str) -> int | None:
    digits = text.strip('"')
    return int(digits, 16) if digits else None
