"""The torture: kill a server again and again while it is written to, then verify all it kept.

    writers   threads; each has its own keys and its own ledger (ledger.py), and puts, overwrites,
              deletes, batches and reads values from nothing to some MiB as fast as it is answered
    killer    at random moments SIGKILLs one process of the server, or all of them, or the one that
              is just opening; and starts it again
    verifier  at the end reads every key that was ever attempted, and the listing, and judges what
              it finds by the ledgers on disk alone

The directory holds `data` (the server's), `ledger/` and the server's settings: small segments, so
that sealing and compaction happen all the time. After a power cut the ledgers still say what must
be there: `verify` needs nothing else.
"""

import os
import random
import threading
from collections.abc import Callable, Iterator

import msgspec

from pulzar.client.batch import Delete, Done, Operation, Put, Result
from pulzar.client.ledger import (
    ABSENT,
    Answered,
    Attempt,
    Change,
    Ledger,
    Line,
    Outcome,
    Seen,
    Verdict,
    decode,
    encode,
    state_of,
)
from pulzar.client.process import Server
from pulzar.client.sync import Client
from pulzar.clock import Clock, SystemClock
from pulzar.errors import (
    Damage,
    KeyNotFound,
    OutcomeUnknown,
    PulzarError,
    Unavailable,
    UnexpectedAnswer,
)
from pulzar.limits import KIB, MIB

KEYS_PER_WRITER = 200
BATCH_CHANGES_MAX = 20
UPTIME_S_MIN, UPTIME_S_MAX = 0.05, 2.0
OPENING_S_MAX = 0.8
COMPACT_EVERY_S = 1.0
ANSWER_S_MAX = 30.0
PROBLEMS_SHOWN_MAX = 20

KEYS = "torture/"
# No jobs: an agent that is killed is started again, and ends nobody.
SETTINGS = """\
[volume]
segment = 2MiB
retired_grace = 10s

[jobs]
slots = 0

[general]
log_level = warning
"""

# How large values are: the weight of each row, and the largest size of it.
SIZES = ((5, 0), (60, KIB), (25, 64 * KIB), (9, 512 * KIB), (1, 3 * MIB))


class Report(msgspec.Struct):
    """What a torture found. `kept` are acknowledged writes, all but the `lost` ones; `problems`
    says what is wrong, at most PROBLEMS_SHOWN_MAX sentences."""

    seed: int
    directory: str
    kills: int = 0
    attempted: int = 0
    acknowledged: int = 0
    keys: int = 0
    kept: int = 0
    lost: int = 0
    problems: list[str] = msgspec.field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not self.lost and not self.problems

    def add_problem(self, sentence: str) -> None:
        """Remember what is wrong, up to a limit."""
        if len(self.problems) < PROBLEMS_SHOWN_MAX:
            self.problems.append(sentence)


class Gate:
    """Tells the writers where the server is, and when to stop."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._url = ""
        self._generation = 0
        self.is_stopped = False

    def open(self, url: str) -> None:
        """A new server answers at `url`."""
        with self._changed:
            self._url = url
            self._generation += 1
            self._changed.notify_all()

    def stop(self) -> None:
        """It is over."""
        with self._changed:
            self.is_stopped = True
            self._changed.notify_all()

    def wait(self, last: int) -> tuple[int, str] | None:
        """The first server behind the one numbered `last`, with its number; None: it is over."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_stopped or self._generation > last)
            return None if self.is_stopped else (self._generation, self._url)


class Writer(threading.Thread):
    """Writes its own keys and keeps the ledger of them."""

    def __init__(self, number: int, *, seed: int, path: str, gate: Gate) -> None:
        super().__init__(name=f"writer-{number}", daemon=True)
        self._random = random.Random(f"{seed} {number}")
        self._names = [f"{KEYS}{number}/{name:03d}" for name in range(KEYS_PER_WRITER)]
        self._ledger = Ledger()
        self._file = open(path, "xb", buffering=0)
        self._gate = gate
        self.problems: list[str] = []

    def run(self) -> None:
        try:
            self._run()
        except (PulzarError, OSError, ValueError) as error:
            self.problems.append(f"{self.name} ended: {type(error).__name__}: {error}")
        finally:
            self._file.close()

    def _run(self) -> None:
        last = 0
        while server := self._gate.wait(last):
            last, url = server
            with Client(url, patience_s=0, timeout_s=ANSWER_S_MAX) as client:
                try:
                    self._resolve(client)
                    while not self._gate.is_stopped:
                        self._step(client)
                except Unavailable:
                    continue  # killed: the next one will answer

    def _resolve(self, client: Client) -> None:
        """Look what became of the changes whose answer never came."""
        for key in self._ledger.uncertain():
            found = found_state(client, key)
            self._judge(key, found)
            self._note(Seen(key, found))

    def _step(self, client: Client) -> None:
        choice = self._random.random()
        if choice < 0.15:
            key = self._random.choice(self._names)
            self._judge(key, found_state(client, key))
        elif choice < 0.30:
            self._change(client, [(self._random.choice(self._names), None)])
        elif choice < 0.80:
            self._change(client, [(self._random.choice(self._names), self._size(SIZES))])
        else:
            count = self._random.randint(2, BATCH_CHANGES_MAX)
            names = self._random.sample(self._names, count)
            small = SIZES[:3]
            self._change(
                client,
                [
                    (name, None if self._random.random() < 0.2 else self._size(small))
                    for name in names
                ],
            )

    def _size(self, sizes: tuple[tuple[int, int], ...]) -> int:
        weights = [weight for weight, _ in sizes]
        return self._random.randint(0, self._random.choices(sizes, weights)[0][1])

    def _change(self, client: Client, wanted: list[tuple[str, int | None]]) -> None:
        """Write values of these sizes (None: delete) in one request, and keep the ledger."""
        number = self._ledger.last_number + 1
        values = {key: None if size is None else content(key, number, size) for key, size in wanted}
        states = {
            key: ABSENT if value is None else state_of(value) for key, value in values.items()
        }
        self._note(Attempt(number, [Change(key, state) for key, state in states.items()]))
        results = send(client, values)
        self._note(Outcome(number, [_answer(result) for result in results]))
        for key, result in zip(values, results, strict=True):
            if isinstance(result, KeyNotFound):
                self._judge(key, ABSENT)
                self._note(Seen(key, ABSENT))
        for result in results:
            if isinstance(result, PulzarError) and not isinstance(result, KeyNotFound):
                raise result

    def _judge(self, key: str, found: str) -> None:
        verdict = self._ledger.expected(key).judge(found)
        if verdict is not Verdict.KEPT:
            self.problems.append(f"{key}: {verdict} (read while running)")

    def _note(self, line: Line) -> None:
        """Write a line to the ledger and make it durable before anything else is done."""
        self._file.write(encode(line))
        os.fdatasync(self._file.fileno())
        self._ledger.add(line)


class Compactor(threading.Thread):
    """Asks for a compaction every second."""

    def __init__(self, gate: Gate) -> None:
        super().__init__(name="compactor", daemon=True)
        self._gate = gate
        self._pause = threading.Event()

    def run(self) -> None:
        last = 0
        while server := self._gate.wait(last):
            last, url = server
            with Client(url, patience_s=0, timeout_s=ANSWER_S_MAX) as client:
                try:
                    while not self._gate.is_stopped:
                        client.compact()
                        self._pause.wait(COMPACT_EVERY_S)
                except PulzarError:
                    continue  # killed in the middle of it, which is what it is for


class Killer:
    """Ends the server at random moments and starts it again."""

    def __init__(self, server: Server, *, seed: int, clock: Clock) -> None:
        self._server = server
        self._random = random.Random(f"{seed} killer")
        self._clock = clock
        self._pause = threading.Event()

    def run(
        self, gate: Gate, report: Report, *, deadline_s: float, on_event: Callable[[str], None]
    ) -> None:
        """Kill until the deadline. Raises NotReady where the server does not come up again."""
        while True:
            self._server.start()
            gate.open(self._server.url)
            self._pause.wait(self._random.uniform(UPTIME_S_MIN, UPTIME_S_MAX))
            self._kill(report, on_event)
            if self._clock.monotonic_s() >= deadline_s:
                return
            while self._random.random() < 0.2:
                self._server.launch()
                self._pause.wait(self._random.uniform(0, OPENING_S_MAX))
                self._server.kill()
                report.kills += 1
                on_event(f"kill {report.kills}: while it was opening")

    def _kill(self, report: Report, on_event: Callable[[str], None]) -> None:
        report.kills += 1
        processes = self._server.processes()
        if not processes:
            report.add_problem(f"the server ended by itself: {self._server.log_tail()}")
        if len(processes) > 1 and self._random.random() < 0.5:
            chosen = self._random.choice(processes)
            on_event(f"kill {report.kills}: process {chosen.pid} of {len(processes)}")
            if left := self._server.kill_one(chosen):
                report.add_problem(f"processes {left} outlived the one that was killed")
        else:
            on_event(f"kill {report.kills}: all {len(processes)} processes")
            self._server.kill()


def torture(
    directory: str,
    *,
    seconds: float,
    writers: int,
    seed: int,
    clock: Clock | None = None,
    on_event: Callable[[str], None] = lambda _: None,
) -> Report:
    """Run it in `directory`, which must be empty or missing. Raises NotReady where the server
    does not start, FileExistsError where the directory was used before."""
    clock = clock or SystemClock()
    os.makedirs(os.path.join(directory, "ledger"), exist_ok=False)
    with open(os.path.join(directory, "server.conf"), "x") as file:
        file.write(SETTINGS)
    report = Report(seed=seed, directory=directory)
    gate = Gate()
    threads = [
        Writer(number, seed=seed, path=_ledger_path(directory, number), gate=gate)
        for number in range(writers)
    ]
    compactor = Compactor(gate)
    server = _server(directory, clock)
    try:
        for thread in (*threads, compactor):
            thread.start()
        deadline_s = clock.monotonic_s() + seconds
        Killer(server, seed=seed, clock=clock).run(
            gate, report, deadline_s=deadline_s, on_event=on_event
        )
    finally:
        gate.stop()
        server.kill()
        for thread in threads:
            thread.join(2 * ANSWER_S_MAX)
    for thread in threads:
        if thread.is_alive():
            report.add_problem(f"{thread.name} still waits for an answer")
        for problem in thread.problems:
            report.add_problem(problem)
    verify(directory, report, clock=clock)
    return report


def verify(directory: str, report: Report, *, clock: Clock | None = None) -> None:
    """Start the server once more and judge every key by the ledgers on disk."""
    with _server(directory, clock or SystemClock()) as server:
        with Client(server.url, patience_s=0, timeout_s=ANSWER_S_MAX) as client:
            listed = {item.key for item in client.list_keys(KEYS)}
            for path in sorted(os.listdir(os.path.join(directory, "ledger"))):
                with open(os.path.join(directory, "ledger", path), "rb") as file:
                    ledger = Ledger(decode(file))
                report.attempted += ledger.attempted
                report.acknowledged += ledger.acknowledged
                for key, sentence in _broken_promises(client, ledger, listed):
                    report.lost += 1
                    report.add_problem(f"{key}: {sentence}")
                report.keys += len(ledger.keys)
                listed.difference_update(ledger.keys)
            for key in listed:
                report.add_problem(f"{key}: is there and was never written")
        server.terminate()
    report.kept = report.acknowledged - report.lost


def send(client: Client, values: dict[str, bytes | None]) -> list[Result]:
    """Put values (None: delete) in one request: one result each, errors included."""
    try:
        if len(values) > 1:
            return client.batch([_operation(key, value) for key, value in values.items()])
        ((key, value),) = values.items()
        written = client.delete(key) if value is None else client.put(key, value)
        return [Done(key, written.version, written.copies, written.created)]
    except PulzarError as error:
        return [error] * len(values)


def found_state(client: Client, key: str) -> str:
    """The state of what a read finds. Raises Unavailable."""
    try:
        return state_of(client.get(key))
    except KeyNotFound:
        return ABSENT
    except Damage as error:
        return f"damaged: {error}"


def content(key: str, number: int, size: int) -> bytes:
    """The value of one attempt: nothing like it is written twice."""
    return random.Random(f"{key} {number}").randbytes(size)


def _operation(key: str, value: bytes | None) -> Operation:
    return Delete(key) if value is None else Put(key, value)


def _answer(result: Result) -> Answered:
    """What a result says of its change, for the ledger."""
    if isinstance(result, OutcomeUnknown | UnexpectedAnswer):
        return "unknown"
    return "no" if isinstance(result, PulzarError) else "yes"


def _broken_promises(client: Client, ledger: Ledger, listed: set[str]) -> Iterator[tuple[str, str]]:
    for key, expected in ledger.keys.items():
        found = found_state(client, key)
        verdict = expected.judge(found)
        if verdict is not Verdict.KEPT:
            yield key, f"{verdict}; expected {expected.certain or 'nothing'}, found {found}"
        elif (found != ABSENT) != (key in listed):
            yield key, "the listing and the key do not agree"


def _ledger_path(directory: str, number: int) -> str:
    return os.path.join(directory, "ledger", f"{number:03d}.jsonl")


def _server(directory: str, clock: Clock) -> Server:
    settings = os.path.join(directory, "server.conf")
    return Server(os.path.join(directory, "data"), options=["--config", settings], clock=clock)
