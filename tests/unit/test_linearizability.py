"""The history checker, held against histories that are right by construction, against a brute
force search over all orders, and against the mistakes that databases make."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulzar.testing.linearizability import (
    Kind,
    NotLinearizable,
    Operation,
    Outcome,
    SearchTooLarge,
    Tag,
    check,
)


def put(
    value: str, start: float, end: float, outcome: Outcome = Outcome.OK, **more: object
) -> Operation:
    return _operation(Kind.PUT, start, end, outcome, value=value, **more)


def get(value: str | None, start: float, end: float, **more: object) -> Operation:
    outcome = Outcome.MISSING if value is None else Outcome.OK
    return _operation(Kind.GET, start, end, outcome, value=value, **more)


def delete(start: float, end: float, outcome: Outcome = Outcome.OK, **more: object) -> Operation:
    return _operation(Kind.DELETE, start, end, outcome, **more)


def _operation(kind: Kind, start: float, end: float, outcome: Outcome, **more: object) -> Operation:
    fields: dict[str, object] = {"process": 0, "key": "k", **more}
    return Operation(
        kind=kind,
        invoked_s=start,
        returned_s=end,
        outcome=outcome,
        **fields,  # type: ignore[arg-type]
    )


def is_linearizable(history: Sequence[Operation]) -> bool:
    try:
        check(history)
    except NotLinearizable:
        return False
    return True


# Histories that are right by construction.


class Plan(NamedTuple):
    """One operation of a generated history, which has its effect at its place in the list."""

    kind: Kind
    key: str
    condition: str
    before_s: float
    after_s: float
    fate: str


_PLANS = st.lists(
    st.builds(
        Plan,
        kind=st.sampled_from(Kind),
        key=st.sampled_from("ab"),
        condition=st.sampled_from(["", "", "match", "match stale", "match *", "none *", "none"]),
        before_s=st.floats(0, 4),
        after_s=st.floats(0, 4),
        fate=st.sampled_from(["told"] * 6 + ["lost", "never"]),
    ),
    max_size=30,
)


class Model:
    """One sequential dict of (value, version), and the history its clients would record."""

    def __init__(self, *, tells_versions: bool) -> None:
        self.holds: dict[str, tuple[str, int]] = {}
        self.history: list[Operation] = []
        self._versions = itertools.count(1)
        self._tells_versions = tells_versions

    def apply(self, number: int, plan: Plan) -> None:
        value, version = self.holds.get(plan.key, (None, None))
        match, none_match = self._condition(plan.condition, version)
        operation = Operation(
            process=number,
            kind=plan.kind,
            key=plan.key,
            invoked_s=number - plan.before_s,
            returned_s=number + plan.after_s,
            outcome=Outcome.UNKNOWN,
            value=f"v{number}" if plan.kind is Kind.PUT else None,
            if_match=match,
            if_none_match=none_match,
        )
        if plan.fate == "never":
            self.history.append(operation)
            return
        answer = self._answer(operation, value, version)
        if plan.fate == "told":
            operation = answer if self._tells_versions else replace(answer, version=None)
        self.history.append(operation)

    def _condition(self, condition: str, version: int | None) -> tuple[Tag | None, Tag | None]:
        """(If-Match, If-None-Match)"""
        named = 0 if version is None else version
        tags: dict[str, tuple[Tag | None, Tag | None]] = {
            "": (None, None),
            "match": (named, None),
            "match stale": (max(0, named - 1), None),
            "match *": ("*", None),
            "none": (None, named),
            "none *": (None, "*"),
        }
        return tags[condition]

    def _answer(self, operation: Operation, value: str | None, version: int | None) -> Operation:
        tag, exists = operation.if_match, value is not None
        if tag is not None and not (exists if tag == "*" else tag == version):
            return replace(operation, outcome=Outcome.REFUSED)
        tag = operation.if_none_match
        if tag is not None and (exists if tag == "*" else tag == version):
            return replace(operation, outcome=Outcome.REFUSED)
        if operation.kind is not Kind.PUT and not exists:
            return replace(operation, outcome=Outcome.MISSING)
        if operation.kind is Kind.GET:
            return replace(operation, outcome=Outcome.OK, value=value, version=version)
        new = next(self._versions)
        if operation.kind is Kind.DELETE:
            del self.holds[operation.key]
        else:
            assert operation.value is not None
            self.holds[operation.key] = (operation.value, new)
        return replace(operation, outcome=Outcome.OK, version=new)


def run(plans: Sequence[Plan], *, tells_versions: bool = True) -> Model:
    model = Model(tells_versions=tells_versions)
    for number, plan in enumerate(plans):
        model.apply(number, plan)
    return model


@given(plans=_PLANS, tells_versions=st.booleans())
def test_a_history_of_one_dict_is_accepted(plans: list[Plan], *, tells_versions: bool) -> None:
    check(run(plans, tells_versions=tells_versions).history)


@given(_PLANS)
def test_only_the_last_value_can_be_read_when_all_is_quiet(plans: list[Plan]) -> None:
    told = [plan._replace(fate="told") for plan in plans]
    model = run(told)
    quiet_s = len(told) + 10.0
    values = [o.value for o in model.history if o.kind is Kind.PUT and o.key == "a"]
    last = model.holds.get("a", (None, 0))[0]
    for value in [None, *values]:
        read = get(value, quiet_s, quiet_s + 1, key="a")
        assert is_linearizable([*model.history, read]) == (value == last)


@given(_PLANS, st.data())
def test_a_changed_read_among_sequential_operations_is_rejected(
    plans: list[Plan], data: st.DataObject
) -> None:
    apart = [plan._replace(fate="told", before_s=0.1, after_s=0.1) for plan in plans]
    history = run(apart).history
    reads = [o for o in history if o.kind is Kind.GET and o.outcome is not Outcome.REFUSED]
    values = [o.value for o in history if o.kind is Kind.PUT]
    if not reads or not values:
        return
    read = data.draw(st.sampled_from(reads))
    wrong = data.draw(st.sampled_from([None, *values]).filter(lambda v: v != read.value))
    changed = get(wrong, read.invoked_s, read.returned_s, key=read.key)
    with pytest.raises(NotLinearizable) as caught:
        check([changed if o is read else o for o in history])
    assert caught.value.violation.operation.invoked_s >= read.invoked_s


# Against all orders.


def all_orders_fail(history: Sequence[Operation]) -> bool:
    """Try every subset of the unknown operations in every order."""
    known = [o for o in history if o.outcome is not Outcome.UNKNOWN]
    unknown = [o for o in history if o.outcome is Outcome.UNKNOWN]
    subsets = itertools.chain.from_iterable(
        itertools.combinations(unknown, size) for size in range(len(unknown) + 1)
    )
    return not any(
        in_real_time(order) and answers_hold(order)
        for subset in subsets
        for order in itertools.permutations([*known, *subset])
    )


def in_real_time(order: Sequence[Operation]) -> bool:
    return not any(
        later.outcome is not Outcome.UNKNOWN and later.returned_s < earlier.invoked_s
        for earlier, later in itertools.combinations(order, 2)
    )


def answers_hold(order: Sequence[Operation]) -> bool:
    holds: tuple[str | None, int | None] = (None, None)
    newest = 0
    for operation in order:
        value, version = holds
        match, none_match = operation.if_match, operation.if_none_match
        refused = (match == "*" and value is None) or (none_match == "*" and value is not None)
        refused = refused or (isinstance(match, int) and match != version)
        refused = refused or (isinstance(none_match, int) and none_match == version)
        missing = value is None and operation.kind is not Kind.PUT
        said = operation.outcome
        if said is Outcome.REFUSED:
            if not refused:
                return False
            continue
        if said is Outcome.MISSING:
            if not missing:
                return False
            continue
        if refused or missing:
            return False
        if operation.kind is Kind.GET:
            if (operation.value, operation.version or version) != holds:
                return False
            continue
        if operation.version is not None and operation.version <= newest:
            return False
        newest = operation.version or newest
        holds = (None, None)
        if operation.kind is Kind.PUT:
            holds = (operation.value, operation.version)
    return True


@st.composite
def small_histories(draw: st.DrawFn) -> list[Operation]:
    tells_versions = draw(st.booleans())
    size = draw(st.integers(1, 5))
    return [_small_operation(draw, number, tells_versions=tells_versions) for number in range(size)]


def _small_operation(draw: st.DrawFn, number: int, *, tells_versions: bool) -> Operation:
    kind = draw(st.sampled_from(Kind))
    start = draw(st.integers(0, 6))
    any_version: st.SearchStrategy[Tag] = st.just("*")
    tags = any_version | st.integers(1, 3) if tells_versions else any_version
    match, none_match = draw(
        st.just((None, None)) | st.tuples(tags, st.none()) | st.tuples(st.none(), tags)
    )
    outcomes = [Outcome.OK] * 3
    outcomes += [Outcome.REFUSED] if match or none_match else []
    outcomes += [Outcome.MISSING] if kind is not Kind.PUT else []
    outcomes += [Outcome.UNKNOWN] if kind is not Kind.GET else []
    outcome = draw(st.sampled_from(outcomes))
    version = draw(st.integers(1, 4)) if tells_versions else None
    value = f"v{number}" if kind is Kind.PUT else None
    if kind is Kind.GET and outcome is Outcome.OK:
        value = f"v{draw(st.integers(0, 4))}"
    return Operation(
        process=number,
        kind=kind,
        key="k",
        invoked_s=start,
        returned_s=start + draw(st.integers(0, 4)),
        outcome=outcome,
        value=value,
        version=version if outcome in (Outcome.OK, Outcome.UNKNOWN) else None,
        if_match=match,
        if_none_match=none_match,
    )


@given(small_histories())
def test_the_search_agrees_with_all_orders(history: list[Operation]) -> None:
    assert is_linearizable(history) != all_orders_fail(history)


# The mistakes that databases make, one each; and their innocent neighbours.

WRONG = {
    "a stale read": [put("1", 0, 1), put("2", 2, 3), get("1", 4, 5)],
    "a read of nothing": [put("1", 0, 1), get(None, 2, 3)],
    "a read of what was never written": [put("1", 0, 1), get("2", 0, 1)],
    "a read from the future": [get("1", 0, 1), put("1", 2, 3)],
    "new, then old": [
        put("1", 0, 1),
        put("2", 2, 9),
        get("2", 3, 4),
        get("1", 5, 6),
    ],
    "a lost update": [
        put("1", 0, 1, version=1),
        put("2", 2, 4, version=2, if_match=1),
        put("3", 2, 4, version=3, if_match=1),
    ],
    "two winners of one creation": [
        put("1", 0, 5, if_none_match="*"),
        put("2", 0, 5, if_none_match="*"),
    ],
    "a deleted value that returns": [put("1", 0, 1), delete(2, 3), get("1", 4, 5)],
    "two deletes of one value": [put("1", 0, 1), delete(2, 5), delete(2, 5)],
    "a refusal without a reason": [
        put("1", 0, 1, version=1),
        put("2", 2, 3, Outcome.REFUSED, if_match=1),
    ],
    "a refused write that happened": [
        put("1", 0, 1),
        put("2", 2, 3, Outcome.REFUSED, if_none_match="*"),
        get("2", 4, 5),
    ],
    "a failed write that happened": [put("1", 0, 1, Outcome.FAILED), get("1", 2, 3)],
    "an unknown write that comes and goes": [
        put("1", 0, 1),
        put("2", 2, math.inf, Outcome.UNKNOWN),
        get("2", 3, 4),
        get("1", 5, 6),
    ],
    "an unknown write seen before it began": [
        get("1", 0, 1),
        put("1", 2, math.inf, Outcome.UNKNOWN),
    ],
    "an unknown write against its condition": [
        put("1", 0, 1, version=1),
        put("2", 2, math.inf, Outcome.UNKNOWN, if_none_match="*"),
        get("2", 3, 4),
    ],
    "versions that go back": [put("1", 0, 1, version=5), put("2", 2, 3, version=4)],
    "one version twice": [put("1", 0, 3, version=5), put("2", 0, 3, version=5)],
    "a version of another value": [put("1", 0, 1, version=5), get("1", 2, 3, version=6)],
    "a lost version that goes back": [
        put("1", 0, 1, version=5),
        put("2", 2, math.inf, Outcome.UNKNOWN),
        get("2", 3, 4, version=4),
    ],
    "one lost write with two versions": [
        put("1", 0, math.inf, Outcome.UNKNOWN),
        get("1", 1, 2, version=4),
        get("1", 3, 4, version=5),
    ],
}

RIGHT = {
    "nothing": [],
    "a read beside its write": [put("1", 0, 5), get("1", 0, 1), get("1", 2, 3)],
    "a read of the value before, beside a write": [
        put("1", 0, 1),
        put("2", 2, 9),
        get("1", 3, 4),
        get("2", 5, 6),
    ],
    "one winner of one creation": [
        put("1", 0, 5, if_none_match="*"),
        put("2", 0, 5, Outcome.REFUSED, if_none_match="*"),
    ],
    "two creations with a delete between": [
        put("1", 0, 5, if_none_match="*"),
        delete(0, 5),
        put("2", 0, 5, if_none_match="*"),
    ],
    "an unknown write that never was": [put("1", 0, math.inf, Outcome.UNKNOWN), get(None, 1, 2)],
    "an unknown write that came late": [
        put("1", 0, math.inf, Outcome.UNKNOWN),
        get(None, 1, 2),
        get("1", 3, 4),
    ],
    "an unknown delete": [
        put("1", 0, 1),
        delete(2, math.inf, Outcome.UNKNOWN),
        get("1", 3, 4),
        get(None, 5, 6),
    ],
    "an unknown write, replaced by its version": [
        put("1", 0, math.inf, Outcome.UNKNOWN),
        get("1", 1, 2, version=4),
        put("2", 3, 4, version=5, if_match=4),
    ],
    "an unknown write, read beside the next": [
        put("1", 0, math.inf, Outcome.UNKNOWN),
        get("1", 1, 9, version=4),
        put("2", 1, 3, version=5),
    ],
    "a read that was not modified": [
        put("1", 0, 1, version=1),
        _operation(Kind.GET, 2, 3, Outcome.REFUSED, if_none_match=1),
    ],
    "two keys": [put("1", 0, 1, key="a"), get(None, 2, 3, key="b")],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_rejected(name: str) -> None:
    with pytest.raises(NotLinearizable):
        check(WRONG[name])


@pytest.mark.parametrize("name", RIGHT)
def test_its_innocent_neighbour_is_accepted(name: str) -> None:
    check(RIGHT[name])


# The report, the limit, the shape of an operation.


def test_the_report_shows_the_smallest_failing_prefix() -> None:
    stale = get("1", 4, 5, process=7)
    history = [put("1", 0, 1, version=16), put("2", 2, 3, version=17), stale, get("2", 6, 7)]
    with pytest.raises(NotLinearizable) as caught:
        check(history)
    violation = caught.value.violation
    assert violation.operation is stale
    assert list(violation.prefix) == history[:3]
    assert "process 7  get -> ok '1'" in str(violation)
    assert "'2' at 11 (newest version used: 11)" in str(violation)


def test_a_search_that_grows_too_large_is_given_up() -> None:
    writes = [put(f"v{number}", 0, 9) for number in range(8)]
    with pytest.raises(SearchTooLarge, match="100 configurations"):
        check([*writes, get("never written", 10, 11)], configurations_max=100)


def test_a_long_history_with_versions_is_quick() -> None:
    plans = [
        Plan(list(Kind)[n % 3], "ab"[n % 2], ["", "match"][n % 5 == 0], 3.0, 3.0, "told")
        for n in range(4000)
    ]
    check(run(plans).history, configurations_max=40_000)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"invoked_s": 2.0, "returned_s": 1.0}, "returned before it was invoked"),
        ({"if_match": "*", "if_none_match": "*"}, "two conditions"),
        ({"value": None}, "without a value"),
    ],
)
def test_an_impossible_operation_is_refused(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replace(put("1", 0, 1), **fields)  # type: ignore[arg-type]
