"""What a job may be asked for, and what may become of it: pure decisions."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulzar.errors import Conflict, InvalidParameter
from pulzar.jobs import changes
from pulzar.jobs.launch import check_token, parse_launch
from pulzar.jobs.messages import Result
from pulzar.jobs.record import (
    Job,
    Place,
    Policy,
    Stored,
    decode_stored,
    encode_stored,
    job_key,
    log_key,
    output_key,
    scripts_key,
)
from pulzar.jobs.states import (
    AT_WORK,
    FINISHED,
    TRANSITIONS,
    Event,
    IllegalTransition,
    State,
    after,
)
from pulzar.limits import JOB_RETRY_S, JOB_RETRY_S_MAX

PLACE = Place("node", "agent", 7)


def job(state: State = State.PENDING, **fields: Any) -> Job:
    given = {"id": 5, "directory": "d", "script": "s", "digest": "0" * 64, "arguments": "{}"}
    return Job(**{**given, "created_ms": 1000, "state": state, **fields})


def result(event: Event, attempt: int = 1) -> Result:
    return Result(job=5, attempt=attempt, event=str(event), started_ms=2000, finished_ms=3000)


def test_every_state_has_its_row_and_nothing_else_is_allowed() -> None:
    assert set(TRANSITIONS) == set(State)
    for state in State:
        for event in Event:
            if event in TRANSITIONS[state]:
                assert after(state, event) in State
            else:
                with pytest.raises(IllegalTransition):
                    after(state, event)


def test_what_has_ended_is_only_begun_again() -> None:
    for state in FINISHED:
        assert dict(TRANSITIONS[state]) == {Event.RETRY: State.PENDING}


def test_arguments_are_what_is_not_ours() -> None:
    wanted = parse_launch(
        b'{"arg1": "12", "pulzar_retries": 2, "pulzar_timeout": 1.5, "pulzar_priority": -3,'
        b' "pulzar_data": "a/b", "pulzar_data_policy": "require", "pulzar_on_lost": "retry"}'
    )
    assert wanted.arguments == '{"arg1": "12"}'
    assert wanted.policy == Policy(2, 1.5, -3, "retry", "a/b", requires_data=True)
    assert parse_launch(b"").arguments == "{}"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"[1]", "JSON object"),
        (b"{", "no JSON"),
        (b'{"a": NaN}', "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'{"pulzar_retry": 1}', "did you mean pulzar_retries"),
        (b'{"pulzar_retries": true}', "whole number"),
        (b'{"pulzar_retries": -1}', "whole number"),
        (b'{"pulzar_timeout": 0}', "seconds"),
        (b'{"pulzar_timeout": "5"}', "seconds"),
        (b'{"pulzar_timeout": 1e400}', "seconds"),
        (b'{"pulzar_priority": 1.5}', "whole number"),
        (b'{"pulzar_on_lost": "wait"}', "retry or fail"),
        (b'{"pulzar_data": ""}', "a key"),
        (b'{"pulzar_data_policy": "require"}', "without pulzar_data"),
    ],
)
def test_what_cannot_be_meant_is_refused(body: bytes, told: str) -> None:
    with pytest.raises(InvalidParameter, match=told):
        parse_launch(body)


@given(
    arguments=st.dictionaries(
        st.text().filter(lambda name: not name.startswith("pulzar_") and name != "scheduled"),
        st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists),
    )
)
def test_any_arguments_arrive(arguments: dict[str, Any]) -> None:
    assert json.loads(parse_launch(json.dumps(arguments).encode()).arguments) == arguments


def test_a_token_can_be_printed() -> None:
    assert check_token("") == ""
    for bad in ("a\nb", "x" * 256):
        with pytest.raises(InvalidParameter):
            check_token(bad)


def test_an_attempt_ends_once() -> None:
    claimed = changes.claim(job(), PLACE)
    assert claimed is not None
    assert (claimed.job.state, claimed.job.attempt, claimed.job.place) == ("dispatched", 1, PLACE)
    assert changes.claim(claimed.job, PLACE) is None
    done = changes.finish(claimed.job, result(Event.SUCCEED), agent="agent", draw=float)
    assert done is not None
    assert (done.job.state, done.job.finished_ms) == (State.READY, 3000)
    for late in (done.job, claimed.job):
        other = result(Event.FAIL, attempt=2 if late is claimed.job else 1)
        assert changes.finish(late, other, agent="agent", draw=float) is None
    assert changes.finish(claimed.job, result(Event.FAIL), agent="other", draw=float) is None


def test_a_failure_is_tried_again_later_and_later() -> None:
    now = job(policy=Policy(retries=12))
    waits = []
    for attempt in range(1, 13):
        claimed = changes.claim(now, PLACE)
        assert claimed is not None
        ended = changes.finish(
            claimed.job, result(Event.FAIL, attempt), agent="agent", draw=lambda: 0.5
        )
        assert ended is not None
        now = ended.job
        assert (now.state, now.place) == (State.PENDING, Place())
        waits.append((now.not_before_ms - 3000) / 1000)
    assert waits[:3] == [JOB_RETRY_S * 1.25, JOB_RETRY_S * 2.5, JOB_RETRY_S * 5]
    assert waits[-1] == JOB_RETRY_S_MAX * 1.25
    claimed = changes.claim(now, PLACE)
    assert claimed is not None
    last = changes.finish(claimed.job, result(Event.FAIL, 13), agent="agent", draw=float)
    assert last is not None
    assert (last.job.state, last.job.failures) == (State.FAILED, 13)


def test_a_cancelled_job_is_not_tried_again() -> None:
    running = job(State.RUNNING, attempt=1, place=PLACE, policy=Policy(retries=5))
    ended = changes.finish(running, result(Event.CANCEL), agent="agent", draw=float)
    assert ended is not None
    assert ended.job.state == State.CANCELLED


@pytest.mark.parametrize(("policy", "state"), [("fail", State.LOST), ("retry", State.PENDING)])
def test_what_is_lost_follows_its_policy(policy: str, state: State) -> None:
    running = job(State.RUNNING, attempt=3, place=PLACE, policy=Policy(on_lost=policy))
    lost = changes.lose(running, agent="agent", attempt=3, now_ms=9000)
    assert lost is not None
    assert lost.job.state == state
    assert changes.lose(running, agent="agent", attempt=2, now_ms=9000) is None
    assert changes.lose(running, agent="other", attempt=3, now_ms=9000) is None


def test_what_was_not_begun_is_given_back() -> None:
    claimed = changes.claim(job(), PLACE)
    assert claimed is not None
    given = changes.finish(claimed.job, result(Event.RETURN), agent="agent", draw=float)
    assert given is not None
    assert (given.job.state, given.job.attempt, given.job.failures) == (State.PENDING, 1, 0)
    again = changes.claim(given.job, PLACE)
    assert again is not None
    assert again.job.attempt == 2  # a late result of the first one is still told from it
    running = job(State.RUNNING, attempt=1, place=PLACE)
    assert changes.finish(running, result(Event.RETURN), agent="agent", draw=float) is None
    assert changes.give_back(claimed.job, agent="other", attempt=1) is None


def test_who_has_ended_is_not_cancelled_and_who_has_not_is_not_retried() -> None:
    for state in FINISHED:
        with pytest.raises(Conflict):
            changes.cancel_waiting(job(state), now_ms=1)
        again = changes.retry(job(state, attempt=4, failures=2), digest="1" * 64).job
        assert (again.state, again.attempt, again.failures) == (State.PENDING, 4, 0)
    for state in (State.PENDING, *AT_WORK):
        with pytest.raises(Conflict):
            changes.retry(job(state), digest="")
    for state in AT_WORK:
        assert changes.cancel_waiting(job(state), now_ms=1) is None


def test_the_bytes_of_a_job() -> None:
    """They stand in the logs of volumes: a field may be added, none may change."""
    small = job()
    text = (
        b'{"job":{"id":5,"directory":"d","script":"s","digest":"' + b"0" * 64 + b'",'
        b'"arguments":"{}","created_ms":1000}}'
    )
    assert encode_stored(Stored(small)) == text
    whole = job(
        State.FAILED,
        policy=Policy(1, 2.5, 3, "retry", "k", requires_data=True),
        token="t",
        attempt=2,
        failures=1,
        place=PLACE,
        not_before_ms=4,
        started_ms=5,
        finished_ms=6,
        error="e",
    )
    more = (
        b',"policy":{"retries":1,"timeout_s":2.5,"priority":3,"on_lost":"retry","data":"k",'
        b'"requires_data":true},"token":"t","state":"failed","attempt":2,"failures":1,'
        b'"place":{"node":"node","agent":"agent","turn":7},"not_before_ms":4,'
        b'"started_ms":5,"finished_ms":6,"error":"e"},"output":"[1]","traceback":"x"}'
    )
    assert encode_stored(Stored(whole, "[1]", "x")) == text[:-2] + more
    assert decode_stored(text[:-2] + more) == Stored(whole, "[1]", "x")
    assert job_key(255) == b"\0jobs/00000000000000ff"
    assert output_key(1) == b"\0output/0000000000000001"
    assert log_key(1) == b"\0log/0000000000000001"
    assert scripts_key("ab") == b"\0scripts/ab"
