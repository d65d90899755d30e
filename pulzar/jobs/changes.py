"""What becomes of a job when something happens to it: from one record to the next. Pure.

Each function gives None where nothing is to change: a result of an attempt that is not the present
one, a start that is known.
"""

from collections.abc import Callable
from typing import TypeAlias

from msgspec.structs import replace

from pulzar.errors import Conflict
from pulzar.jobs.messages import Result
from pulzar.jobs.record import Job, Place, Stored
from pulzar.jobs.states import AT_WORK, FINISHED, Event, State, after
from pulzar.limits import JOB_ATTEMPTS_MAX, JOB_RETRY_S, JOB_RETRY_S_MAX

Change: TypeAlias = Callable[[Job], Stored | None]

_COUNTED = frozenset({Event.FAIL, Event.TIME_OUT})  # against the retries of a job


def claim(job: Job, place: Place) -> Stored | None:
    """A slot is to run the next attempt."""
    if job.state != State.PENDING:
        return None
    state = after(job.state, Event.CLAIM)
    return Stored(replace(job, state=state, attempt=job.attempt + 1, place=place, error=""))


def start(job: Job, *, attempt: int, now_ms: int) -> Stored | None:
    """Its agent says that it runs."""
    if job.state != State.DISPATCHED or job.attempt != attempt:
        return None
    return Stored(replace(job, state=after(job.state, Event.START), started_ms=now_ms))


def finish(job: Job, result: Result, *, agent: str, draw: Callable[[], float]) -> Stored | None:
    """An attempt has ended. A job that may be tried again waits for that: JOB_RETRY_S, twice as
    long each time, and up to half of that more, so that those that failed together do not come
    together again."""
    is_present = job.attempt == result.attempt and job.place.agent == agent
    if job.state not in AT_WORK or not is_present:
        return None
    event = Event(result.event)
    if event == Event.RETURN:
        return give_back(job, agent=agent, attempt=result.attempt)
    failures = job.failures + (event in _COUNTED)
    retries = failures <= job.policy.retries
    if event in _COUNTED and retries:
        wait_s = min(JOB_RETRY_S * 2 ** (failures - 1), JOB_RETRY_S_MAX) * (1 + draw() / 2)
        again = replace(
            job,
            state=after(job.state, Event.RETRY),
            failures=failures,
            place=Place(),
            not_before_ms=result.finished_ms + round(wait_s * 1000),
            error=result.error,
        )
        return Stored(again, traceback=result.traceback)
    ended = replace(
        job,
        state=after(job.state, event),
        failures=failures,
        started_ms=result.started_ms,
        finished_ms=result.finished_ms,
        error=result.error,
    )
    return Stored(ended, output=result.output, traceback=result.traceback)


def give_back(job: Job, *, agent: str, attempt: int) -> Stored | None:
    """Its agent has it and has not begun it."""
    is_present = job.attempt == attempt and job.place.agent == agent
    if job.state != State.DISPATCHED or not is_present:
        return None
    return Stored(replace(job, state=after(job.state, Event.RETURN), place=Place()))


def lose(job: Job, *, agent: str, attempt: int, now_ms: int) -> Stored | None:
    """Its agent has gone, and what it ran with it."""
    is_present = job.attempt == attempt and job.place.agent == agent
    if job.state not in AT_WORK or not is_present:
        return None
    error = f"{job.place.node} has gone while it ran"
    if job.policy.on_lost == "retry" and job.attempt < JOB_ATTEMPTS_MAX:
        state = after(job.state, Event.RETRY)
        return Stored(replace(job, state=state, place=Place(), error=error))
    state = after(job.state, Event.LOSE)
    return Stored(replace(job, state=state, finished_ms=now_ms, error=error))


def cancel_waiting(job: Job, *, now_ms: int) -> Stored | None:
    """A user wants it no more; nobody has it yet. Raises Conflict where it has ended."""
    if job.state in FINISHED:
        raise Conflict(f"job {job.id} has ended: it is {job.state}")
    if job.state != State.PENDING:
        return None
    return Stored(replace(job, state=after(job.state, Event.CANCEL), finished_ms=now_ms))


def give_up(job: Job, *, reason: str, now_ms: int) -> Stored | None:
    """It cannot be run."""
    if job.state != State.PENDING:
        return None
    state = after(job.state, Event.FAIL)
    return Stored(replace(job, state=state, finished_ms=now_ms, error=reason))


def retry(job: Job, *, digest: str) -> Stored:
    """A user wants it once more, with the script as it is now. Raises Conflict where it has not
    ended."""
    if job.state not in FINISHED:
        raise Conflict(f"job {job.id} has not ended: it is {job.state}")
    again = replace(
        job,
        state=after(job.state, Event.RETRY),
        digest=digest,
        failures=0,
        place=Place(),
        not_before_ms=0,
        started_ms=0,
        finished_ms=0,
        error="",
    )
    return Stored(again)
