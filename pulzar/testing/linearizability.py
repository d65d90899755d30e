"""Could this recorded history have come from one register that takes one operation at a time?

A history is what concurrent clients saw: for each operation on a key when it was invoked, when its
answer came, and what the answer was. It is linearizable if every operation can be given one instant
between those two times so that, in that order, a plain register (a value and its version, or
nothing) would have answered the same.

How it works. Keys are independent, so each is checked alone. Invocations and returns are walked in
the order of time, keeping every *configuration* that explains what was seen so far: what the
register holds, and which of the operations still open have already had their effect. At a return,
open operations are given their effect one after the other until the returning one has had its own;
configurations that cannot reach that die. When none is left, the events up to that return are the
smallest failing prefix, and the report shows it. Equal configurations are merged, which is what
keeps the search small.

* Outcome unknown (the connection died, 503 `outcome_unknown`): the operation may have its effect at
  any time after its invocation, or never. It stays open for ever and nothing requires it. Of two
  configurations that differ only in unknown operations used, the one that used fewer is kept.
* An operation that leaves the register as it is has its effect at once: waiting gains nothing.
* Versions: a write that tells its version must find only smaller ones before it, so writes that
  tell them have one order only, and one that would go back is a violation. The version of a
  write whose answer was lost is learned from the first read that shows it.

Prior art: Wing and Gong, "Testing and verifying concurrent objects" (1993); Lowe, "Testing for
linearizability" (2017), whose just-in-time search with memoisation this is; Knossos and Porcupine,
which made such checks usual for databases.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple

# About 30 s of search on one core of 2020; a history of 10,000 operations by 8 clients that is
# linearizable needs a tenth of it.
CONFIGURATIONS_MAX = 1_000_000
REPORT_OPERATIONS_MAX = 16

Tag = int | Literal["*"]
"""What a condition names: a version, or any."""


class Kind(StrEnum):
    PUT = "put"
    GET = "get"
    DELETE = "delete"


class Outcome(StrEnum):
    """What the answer said. REFUSED is 412, or 304 for a read; FAILED is certain to have changed
    and told nothing; UNKNOWN may have happened at any time after the invocation, or never."""

    OK = "ok"
    MISSING = "missing"
    REFUSED = "refused"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation as its client saw it. Times are seconds of one monotonic clock.

    `value` is what was written or read. `version` is what the answer told: of a write its own, of
    a read that of the value; None where it was not told. At most one condition.
    """

    process: int
    kind: Kind
    key: str
    invoked_s: float
    returned_s: float
    outcome: Outcome
    value: str | None = None
    version: int | None = None
    if_match: Tag | None = None
    if_none_match: Tag | None = None

    def __post_init__(self) -> None:
        if self.returned_s < self.invoked_s:
            raise ValueError(f"an operation that returned before it was invoked: {self!r}")
        if self.if_match is not None and self.if_none_match is not None:
            raise ValueError(f"an operation with two conditions: {self!r}")
        if self.kind is Kind.PUT and self.value is None:
            raise ValueError(f"a put without a value: {self!r}")

    def __str__(self) -> str:
        words = [str(self.kind)]
        if self.kind is Kind.PUT:
            words.append(repr(self.value))
        if self.if_match is not None:
            words.append(f"if-match {_tag_text(self.if_match)}")
        if self.if_none_match is not None:
            words.append(f"if-none-match {_tag_text(self.if_none_match)}")
        words += ["->", str(self.outcome)]
        if self.kind is Kind.GET and self.outcome is Outcome.OK:
            words.append(repr(self.value))
        if self.version is not None:
            words.append(f"at {self.version:x}")
        return " ".join(words)


class Register(NamedTuple):
    """What one key holds. `value` None: nothing. `version` None: nothing, or not known yet.
    `newest` is the largest version that is known to be used."""

    value: str | None = None
    version: int | None = None
    newest: int = 0

    def __str__(self) -> str:
        if self.value is None:
            holds = "nothing"
        else:
            version = "a version not seen yet" if self.version is None else f"{self.version:x}"
            holds = f"{self.value!r} at {version}"
        return f"{holds} (newest version used: {self.newest:x})"


def step(operation: Operation, register: Register) -> Register | None:
    """The register after the operation has its effect; None if it would have answered otherwise."""
    holds = _condition_holds(operation, register)
    if operation.outcome is Outcome.REFUSED:
        return None if holds is True else register
    if operation.outcome is Outcome.MISSING:
        return register if register.value is None else None
    if holds is False:
        return None
    if operation.kind is Kind.GET:
        return _read(operation, register)
    if operation.kind is Kind.DELETE and register.value is None:
        return None
    version = operation.version
    if version is not None and version <= register.newest:
        return None
    newest = register.newest if version is None else version
    if operation.kind is Kind.DELETE:
        return Register(newest=newest)
    return Register(operation.value, version, newest)


def _read(operation: Operation, register: Register) -> Register | None:
    if register.value is None or operation.value != register.value:
        return None
    if operation.version is None or operation.version == register.version:
        return register
    if register.version is None and operation.version > register.newest:
        return Register(register.value, operation.version, operation.version)
    return None


def _condition_holds(operation: Operation, register: Register) -> bool | None:
    """None where the version of the register is not known yet and could be the one named."""
    tag = operation.if_none_match if operation.if_match is None else operation.if_match
    if tag is None:
        return True
    if register.value is None:
        same = False
    elif tag == "*":
        same = True
    elif register.version is None and tag > register.newest:
        return None
    else:
        same = register.version == tag
    return same if operation.if_match is not None else not same


@dataclass(frozen=True, slots=True)
class Violation:
    """Why a history is not linearizable.

    `operation` is the one whose return nothing explains, `prefix` all that were invoked before
    that return, in that order, `registers` what the key could have held just before.
    """

    operation: Operation
    prefix: tuple[Operation, ...]
    registers: tuple[Register, ...]

    def __str__(self) -> str:
        shown = self.prefix[-REPORT_OPERATIONS_MAX:]
        start_s = shown[0].invoked_s
        heading = (
            f"key {self.operation.key!r} is not linearizable: no order of these operations"
            f" explains the one marked with > ({len(self.prefix) - len(shown)} before them are"
            " not shown); milliseconds from the first:"
        )
        lines = [heading]
        for operation in shown:
            mark = ">" if operation is self.operation else " "
            times = f"{_ms(operation.invoked_s - start_s)}..{_ms(operation.returned_s - start_s)}"
            lines.append(f"{mark} {times:>21}  process {operation.process}  {operation}")
        lines.append("before it, the key could only hold one of:")
        lines += [f"  {register}" for register in self.registers]
        return "\n".join(lines)


class NotLinearizable(AssertionError):
    """The history cannot have come from one register. `violation` says why."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(str(violation))
        self.violation = violation


class SearchTooLarge(RuntimeError):
    """The history was neither explained nor refuted within the limit on configurations."""


def check(history: Iterable[Operation], *, configurations_max: int = CONFIGURATIONS_MAX) -> None:
    """Return if the history is linearizable, from keys that hold nothing.

    Raises NotLinearizable, or SearchTooLarge after `configurations_max` configurations of one key.
    """
    by_key: dict[str, list[Operation]] = {}
    for operation in history:
        if operation.outcome is Outcome.FAILED:
            continue
        if operation.kind is Kind.GET and operation.outcome is Outcome.UNKNOWN:
            continue
        by_key.setdefault(operation.key, []).append(operation)
    for operations in by_key.values():
        violation = _Search(operations, configurations_max).violation()
        if violation is not None:
            raise NotLinearizable(violation)


class _Configuration(NamedTuple):
    """`done`: open operations that had their effect; `used`: unknown ones that had it."""

    register: Register
    done: frozenset[int]
    used: frozenset[int]


class _Frontier:
    """Configurations without those that another one makes superfluous."""

    def __init__(self) -> None:
        self._used: dict[tuple[Register, frozenset[int]], list[frozenset[int]]] = {}

    def add(self, configuration: _Configuration) -> bool:
        """Take it in; False where one that used no more unknown operations is there already."""
        register, done, used = configuration
        others = self._used.setdefault((register, done), [])
        if any(other <= used for other in others):
            return False
        others[:] = [other for other in others if not used <= other]
        others.append(used)
        return True

    def __iter__(self) -> Iterator[_Configuration]:
        for (register, done), others in self._used.items():
            for used in others:
                yield _Configuration(register, done, used)


class _Search:
    """The walk over one key's events. Operations are named by their place in the list."""

    def __init__(self, operations: list[Operation], configurations_max: int) -> None:
        self._operations = sorted(operations, key=lambda operation: operation.invoked_s)
        self._configurations_max = configurations_max
        self._tried = 0
        self._open: set[int] = set()
        self._unknown: list[int] = []

    def violation(self) -> Violation | None:
        frontier = _Frontier()
        frontier.add(_Configuration(Register(), frozenset(), frozenset()))
        for is_return, number in self._events():
            if not is_return:
                frontier = self._invoke(number, frontier)
                continue
            after = self._complete(number, frontier)
            if not any(True for _ in after):
                return self._report(number, frontier)
            self._open.remove(number)
            frontier = after
        return None

    def _events(self) -> list[tuple[bool, int]]:
        """(is it a return, operation) by time; at one time invocations first: they overlap."""
        events = []
        for number, operation in enumerate(self._operations):
            events.append((operation.invoked_s, False, number))
            if operation.outcome is not Outcome.UNKNOWN:
                events.append((operation.returned_s, True, number))
        return [(is_return, number) for _, is_return, number in sorted(events)]

    def _invoke(self, number: int, frontier: _Frontier) -> _Frontier:
        operation = self._operations[number]
        if operation.outcome is Outcome.UNKNOWN:
            self._unknown.append(number)
            return frontier
        self._open.add(number)
        settled = _Frontier()
        for register, done, used in frontier:
            if step(operation, register) == register:
                done |= {number}
            settled.add(_Configuration(register, done, used))
        return settled

    def _complete(self, number: int, frontier: _Frontier) -> _Frontier:
        """Every configuration in which the operation has had its effect."""
        after, seen, stack = _Frontier(), _Frontier(), list(frontier)
        while stack:
            configuration = stack.pop()
            register, done, used = configuration
            if number in done:
                after.add(_Configuration(register, done - {number}, used))
                continue
            for following in self._successors(configuration):
                if seen.add(following):
                    stack.append(following)
                    self._count(number)
        return after

    def _successors(self, configuration: _Configuration) -> Iterator[_Configuration]:
        """What one more effect can lead to."""
        register, done, used = configuration
        waiting = self._open - done
        # The write with the smallest version must be next of those that tell theirs.
        bound = min((self._write_version(number) for number in waiting), default=math.inf)
        for number in waiting:
            following = step(self._operations[number], register)
            if following is not None and self._write_version(number) in (bound, math.inf):
                yield self._settled(following, done | {number}, used)
        for number in self._unknown:
            if number in used or bound < (self._operations[number].version or 0):
                continue
            following = step(self._operations[number], register)
            if following is not None and following != register:
                yield self._settled(following, done, used | {number})

    def _write_version(self, number: int) -> float:
        """The version of a write that tells it, else infinity."""
        operation = self._operations[number]
        if operation.kind is Kind.GET or operation.outcome is not Outcome.OK:
            return math.inf
        return math.inf if operation.version is None else operation.version

    def _settled(
        self, register: Register, done: frozenset[int], used: frozenset[int]
    ) -> _Configuration:
        """With the effect of every open operation that leaves the register as it is."""
        for number in self._open - done:
            if step(self._operations[number], register) == register:
                done |= {number}
        return _Configuration(register, done, used)

    def _count(self, number: int) -> None:
        self._tried += 1
        if self._tried > self._configurations_max:
            operation = self._operations[number]
            raise SearchTooLarge(
                f"key {operation.key!r}: {self._configurations_max} configurations were tried"
                f" up to operation {number + 1} of {len(self._operations)}"
            )

    def _report(self, number: int, frontier: _Frontier) -> Violation:
        failing = self._operations[number]
        return Violation(
            operation=failing,
            prefix=tuple(o for o in self._operations if o.invoked_s <= failing.returned_s),
            registers=tuple(sorted({c.register for c in frontier}, key=str)),
        )


def _tag_text(tag: Tag) -> str:
    return tag if isinstance(tag, str) else f"{tag:x}"


def _ms(seconds: float) -> str:
    return "never" if math.isinf(seconds) else f"{seconds * 1000:.3f}"
