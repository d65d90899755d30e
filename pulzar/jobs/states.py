"""The states of a job, and what may follow what. Everything that decides this is here. Pure.

    pending -> dispatched -> running -> ready | failed | timeout | cancelled | lost

A job that is to be tried again goes back to pending; one that has finished does so when a user
retries it. `dispatched` is durable and names the attempt, the agent and its slot, so that an
attempt never starts twice; `running` is what the agent says of it.
"""

from collections.abc import Mapping
from enum import StrEnum


class State(StrEnum):
    """Where a job is."""

    PENDING = "pending"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    READY = "ready"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    LOST = "lost"


class Event(StrEnum):
    """What happens to it."""

    CLAIM = "claim"  # an agent's free slot is to run it
    START = "start"  # the agent says that it runs
    SUCCEED = "succeed"
    FAIL = "fail"
    TIME_OUT = "time_out"
    CANCEL = "cancel"
    LOSE = "lose"  # its agent has gone
    RETURN = "return"  # its agent has not begun it, and gives it back
    RETRY = "retry"  # it is tried again: by its policy, or because a user says so


class IllegalTransition(Exception):
    """A bug: what happened cannot happen to a job in that state."""


_ENDINGS: Mapping[Event, State] = {
    Event.SUCCEED: State.READY,
    Event.FAIL: State.FAILED,
    Event.TIME_OUT: State.TIMEOUT,
    Event.CANCEL: State.CANCELLED,
    Event.LOSE: State.LOST,
    Event.RETRY: State.PENDING,
}
_AGAIN: Mapping[Event, State] = {Event.RETRY: State.PENDING}

TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    State.PENDING: {
        Event.CLAIM: State.DISPATCHED,
        Event.CANCEL: State.CANCELLED,
        Event.FAIL: State.FAILED,  # its script has gone, or its data is on no node in time
    },
    State.DISPATCHED: {Event.START: State.RUNNING, Event.RETURN: State.PENDING, **_ENDINGS},
    State.RUNNING: _ENDINGS,
    State.READY: _AGAIN,
    State.FAILED: _AGAIN,
    State.TIMEOUT: _AGAIN,
    State.CANCELLED: _AGAIN,
    State.LOST: _AGAIN,
}

FINISHED = frozenset({State.READY, State.FAILED, State.TIMEOUT, State.CANCELLED, State.LOST})
AT_WORK = frozenset({State.DISPATCHED, State.RUNNING})


def after(state: State, event: Event) -> State:
    """The state that follows. Raises IllegalTransition."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransition(f"{event} of a job that is {state}") from None
