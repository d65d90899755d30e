"""The ledger of a torture: what was attempted, what was answered, and what may be there now.

A writer alone writes its keys, one request after the other, and keeps an append-only file of
lines, each fsynced before the next step:

    attempt   before the request: its number, and for each change the key and the state it wants
    outcome   after the answer: for each change of the attempt yes (acknowledged), no (refused:
              nothing was changed) or unknown (no answer, or 503 outcome_unknown)
    seen      what a read found behind an unknown outcome, once the server was there again

An attempt without an outcome is unknown. Folding the lines gives for each key what may be found:
its certain state, or one of the states attempted since without a definite answer. Anything else is
a broken promise. No I/O in this file.

A state is the text "size:digest" of a value, or ABSENT. So a value that is torn by one byte is
another state.
"""

import hashlib
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Literal, TypeAlias

import msgspec

ABSENT = ""

Answered: TypeAlias = Literal["yes", "no", "unknown"]


class Change(msgspec.Struct, frozen=True, array_like=True):
    """One key and the state that it is to have."""

    key: str
    state: str


class Attempt(msgspec.Struct, frozen=True, tag="attempt"):
    """Changes about to be sent in one request."""

    number: int
    changes: list[Change]


class Outcome(msgspec.Struct, frozen=True, tag="outcome"):
    """What the answer said of each change of an attempt, in their order."""

    number: int
    answers: list[Answered]


class Seen(msgspec.Struct, frozen=True, tag="seen"):
    """The state that a read found."""

    key: str
    state: str


Line: TypeAlias = Attempt | Outcome | Seen

_decoder = msgspec.json.Decoder(Line)


class Verdict(StrEnum):
    """What a found state means against what was expected."""

    KEPT = "kept"
    MISSING = "an acknowledged value is not there"
    RETURNED = "a deleted value is there again"
    OTHER = "the value is neither the acknowledged nor an attempted one"


class Expected(msgspec.Struct):
    """What one key may hold: `certain`, or one of `possible`, attempted since and unanswered."""

    certain: str = ABSENT
    possible: list[str] = msgspec.field(default_factory=list)

    @property
    def is_certain(self) -> bool:
        return not self.possible

    def judge(self, found: str) -> Verdict:
        """Whether `found` keeps the promise."""
        if found == self.certain or found in self.possible:
            return Verdict.KEPT
        if found == ABSENT:
            return Verdict.MISSING
        return Verdict.RETURNED if self.certain == ABSENT else Verdict.OTHER


class Ledger:
    """The lines so far, folded. One per writer."""

    def __init__(self, lines: Iterable[Line] = ()) -> None:
        self.keys: dict[str, Expected] = {}
        self.attempted = 0
        self.acknowledged = 0
        self.last_number = 0
        self._open: Attempt | None = None
        for line in lines:
            self.add(line)

    def add(self, line: Line) -> None:
        """Fold one more line. Raises ValueError for an outcome of no open attempt."""
        if isinstance(line, Attempt):
            self._attempt(line)
        elif isinstance(line, Outcome):
            self._outcome(line)
        else:
            self.keys[line.key] = Expected(line.state)

    def expected(self, key: str) -> Expected:
        """What `key` may hold; a key never written is absent."""
        return self.keys.setdefault(key, Expected())

    def uncertain(self) -> list[str]:
        """The keys whose last attempt had no definite answer."""
        return [key for key, expected in self.keys.items() if not expected.is_certain]

    def _attempt(self, attempt: Attempt) -> None:
        self._open = attempt
        self.last_number = attempt.number
        self.attempted += len(attempt.changes)
        for change in attempt.changes:
            self.expected(change.key).possible.append(change.state)

    def _outcome(self, outcome: Outcome) -> None:
        attempt, self._open = self._open, None
        if attempt is None or attempt.number != outcome.number:
            raise ValueError(f"an outcome of attempt {outcome.number}, which is not open")
        for change, answer in zip(attempt.changes, outcome.answers, strict=True):
            if answer == "yes":
                self.acknowledged += 1
                self.keys[change.key] = Expected(change.state)
            elif answer == "no":
                self.expected(change.key).possible.remove(change.state)


def encode(line: Line) -> bytes:
    """The line as it stands in the file."""
    return msgspec.json.encode(line) + b"\n"


def decode(file: Iterable[bytes]) -> Iterator[Line]:
    """The lines of a file. One without its newline was cut by a crash and counts as not written:
    its request was not sent, or its answer not used. Raises ValueError for anything else."""
    for line in file:
        if line.endswith(b"\n"):
            yield _decoder.decode(line)


def state_of(value: bytes) -> str:
    """The state of a value."""
    return f"{len(value)}:{hashlib.sha256(value).hexdigest()[:16]}"
