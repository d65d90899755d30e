"""Jobs over HTTP: launch, show, cancel, retry, and the log while it grows.

/admin/jobs shows the fields of the specification, in its types, and `status`.
"""

import re
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from pulzar.errors import InvalidParameter, JobNotFound
from pulzar.http.application import Paths
from pulzar.http.body import body_length, read_all
from pulzar.http.dates import rfc3339
from pulzar.http.key_codec import decode_key
from pulzar.http.patience import Patience
from pulzar.http.query import parse_query
from pulzar.jobs.launch import check_token
from pulzar.jobs.maps import Map, state_of
from pulzar.jobs.record import Job
from pulzar.jobs.schedule import Schedule
from pulzar.jobs.states import AT_WORK, FINISHED, State
from pulzar.jobs.system import JobSystem
from pulzar.limits import JOB_BODY_BYTES_MAX, JOBS_LIST_DEFAULT, JOBS_LIST_MAX, MAP_BODY_BYTES_MAX

PATHS: Paths = {
    "/launch_job/{directory}/{script}": (("POST",), "job"),
    "/launch_jobs/{directory}/{script}": (("POST",), "job"),
    "/cancel_job/{job_id}": (("POST",), "job"),
    "/retry_job/{job_id}": (("POST",), "job"),
    "/admin/jobs": (("GET", "HEAD"), "admin"),
    "/admin/jobs/{job_id}": (("GET", "HEAD"), "admin"),
}

_JSON = (b"content-type", b"application/json")
_LINES = (b"content-type", b"application/x-ndjson")
_TEXT = (b"content-type", b"text/plain; charset=utf-8")
_NUMBER = re.compile(r"[0-9]{1,15}")
_SCHEDULED = "scheduled"  # beside the states of jobs
_FOLLOW_S = 5.0  # an answer that is followed looks again after so long, also without news
GROUPS: dict[str, tuple[State, ...]] = {
    "pendings": (State.PENDING, *sorted(AT_WORK)),
    "ready": (State.READY,),
    "failed": tuple(sorted(FINISHED - {State.READY})),
}


class Shown(msgspec.Struct, frozen=True):
    """A job in /admin/jobs, as the specification has it. `creation_time` in seconds since 1970."""

    job_id: int
    job_name: str
    parameters: str
    node: str
    creation_time: int
    status: str


class ShownMap(Shown, frozen=True):
    """A map among the jobs: how many it has, and how many of them in each state."""

    count: int
    states: dict[str, int]


class Scheduled(msgspec.Struct, frozen=True):
    """A schedule in /admin/jobs, as the specification has it. Times as text, in the schedule's time
    zone."""

    job_id: int
    job_name: str
    parameters: str
    creation_time: str
    interval: str
    time_unit: str
    repeat: int
    next_execution: str
    status: str = "scheduled"


class Jobs:
    """The endpoints of one site."""

    def __init__(self, system: JobSystem, *, patience: Patience) -> None:
        self._system = system
        self._patience = patience
        self.endpoints: dict[str, ASGIApp] = {
            "/launch_job/{directory}/{script}": self._launch,
            "/launch_jobs/{directory}/{script}": self._launch_many,
            "/cancel_job/{job_id}": self._cancel,
            "/retry_job/{job_id}": self._retry,
            "/admin/jobs": self._list,
            "/admin/jobs/{job_id}": self._job,
        }

    async def _launch(self, scope: Scope, receive: Receive, send: Send) -> None:
        parse_query(scope["query_string"], ())
        directory, _, script = _rest(scope, "/launch_job/").partition("/")
        headers = dict(scope["headers"])
        token = check_token(headers.get(b"idempotency-key", b"").decode("latin-1"))
        body = await read_all(
            scope,
            receive,
            body_length(headers),
            bytes_max=JOB_BODY_BYTES_MAX,
            patience=self._patience,
        )
        job = await self._system.launch(directory, script.removesuffix(".py"), body, token)
        location = (b"location", b"/admin/jobs/%d" % job.id)
        await _send(scope, send, _shown(job), status=201, headers=[location])

    async def _launch_many(self, scope: Scope, receive: Receive, send: Send) -> None:
        parse_query(scope["query_string"], ())
        directory, _, script = _rest(scope, "/launch_jobs/").partition("/")
        body = await read_all(
            scope,
            receive,
            body_length(dict(scope["headers"])),
            bytes_max=MAP_BODY_BYTES_MAX,
            patience=self._patience,
        )
        one = await self._system.launch_many(directory, script.removesuffix(".py"), body)
        location = (b"location", b"/admin/jobs/%d" % one.id)
        await _send(scope, send, self._shown_map(one), status=201, headers=[location])

    async def _cancel(self, scope: Scope, _receive: Receive, send: Send) -> None:
        parse_query(scope["query_string"], ())
        job = await self._system.cancel(_number(_rest(scope, "/cancel_job/")))
        shown = self._any(job)
        if isinstance(shown, Scheduled):
            shown = msgspec.structs.replace(shown, status=str(State.CANCELLED))
        await _send(scope, send, shown)

    async def _retry(self, scope: Scope, _receive: Receive, send: Send) -> None:
        parse_query(scope["query_string"], ())
        job = await self._system.retry(_number(_rest(scope, "/retry_job/")))
        await _send(scope, send, self._any(job))

    async def _list(self, scope: Scope, _receive: Receive, send: Send) -> None:
        asked = parse_query(scope["query_string"], ("limit", "after", "status", "name"))
        limit = _asked_number(asked, "limit", JOBS_LIST_DEFAULT)
        if not 1 <= limit <= JOBS_LIST_MAX:
            raise InvalidParameter(f"limit is a number from 1 to {JOBS_LIST_MAX}")
        after = _asked_number(asked, "after", None)
        status = asked.get("status")
        if status is not None and status not in (*State, _SCHEDULED):
            raise InvalidParameter(f"status is one of {', '.join((*State, _SCHEDULED))}")
        ledger, name = self._system.ledger, asked.get("name")
        answer: dict[str, list[Any]] = {}
        for group, states in GROUPS.items():
            wanted = [state for state in states if status in (None, state)]
            jobs = ledger.newest(wanted, limit=limit, after=after, name=name)
            maps = [
                shown
                for shown in map(self._shown_map, self._system.maps.newest(after=after, name=name))
                if shown.status in wanted
            ]
            shown = sorted([*map(_shown, jobs), *maps], key=lambda one: -one.job_id)
            answer[group] = shown[:limit]
        wants_schedules = status in (None, _SCHEDULED)
        schedules = self._system.timetable.newest(
            limit=limit if wants_schedules else 0, after=after, name=name
        )
        answer["scheduled"] = [_shown(schedule) for schedule in schedules]
        await _send(scope, send, answer)

    async def _job(self, scope: Scope, receive: Receive, send: Send) -> None:
        number, _, below = _rest(scope, "/admin/jobs/").partition("/")
        one = self._system.maps.get(_number(number))
        if one is not None:
            await self._map(scope, send, one, below)
            return
        if below == "log":
            await self._log(scope, receive, send, _number(number))
            return
        if below:
            raise JobNotFound(f"a job has a log, and no {below!r}")
        parse_query(scope["query_string"], ())
        schedule = self._system.timetable.get(_number(number))
        if schedule is not None:
            await _send(scope, send, _whole(schedule))
            return
        stored = await self._system.ledger.stored(_number(number))
        job, dispatcher = stored.job, self._system.dispatcher
        live = dispatcher.live(job)
        answer: dict[str, Any] = {
            **msgspec.structs.asdict(_shown(job)),
            "job_id": job.id,
            "directory": job.directory,
            "attempts": job.attempt,
            "reason": dispatcher.reason(job),
            "created": _time(job.created_ms),
            "started": _time(job.started_ms),
            "finished": _time(job.finished_ms),
            "progress": live.progress if live is not None and live.progress >= 0 else None,
            "note": live.note if live is not None else "",
            "output": msgspec.Raw(stored.output.encode()) if stored.output else None,
            "error": job.error or None,
            "traceback": stored.traceback or None,
            "policy": job.policy,
        }
        await _send(scope, send, answer)

    async def _map(self, scope: Scope, send: Send, one: Map, below: str) -> None:
        """A map; or, below it, what its jobs gave: a line of JSON for each, in their order."""
        parse_query(scope["query_string"], ())
        maps, ledger = self._system.maps, self._system.ledger
        if not below:
            shown = msgspec.structs.asdict(self._shown_map(one))
            whole = {"directory": one.directory, "created": _time(one.created_ms)}
            await _send(scope, send, {**shown, **whole, "first_job": one.first})
            return
        if below != "results":
            raise JobNotFound(f"a map of jobs has results, and no {below!r}")
        await send({"type": "http.response.start", "status": 200, "headers": [_LINES]})
        for job in maps.jobs(one) if scope["method"] != "HEAD" else ():
            stored = await ledger.stored(job.id)
            line = {
                "job_id": job.id,
                "status": str(stored.job.state),
                "output": msgspec.Raw(stored.output.encode()) if stored.output else None,
                "error": stored.job.error or None,
            }
            content = msgspec.json.encode(line) + b"\n"
            await send({"type": "http.response.body", "body": content, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def _shown_map(self, one: Map) -> ShownMap:
        counts = self._system.maps.counts(one.id)
        return ShownMap(
            one.id,
            one.script,
            one.parameters,
            "",
            one.created_ms // 1000,
            str(state_of(counts)),
            one.count,
            {str(state): count for state, count in counts.items()},
        )

    def _any(self, job: Job | Schedule | Map) -> Shown | Scheduled | ShownMap:
        return self._shown_map(job) if isinstance(job, Map) else _shown(job)

    async def _log(self, scope: Scope, receive: Receive, send: Send, number: int) -> None:
        """GET /admin/jobs/{job_id}/log[?follow=1]: what it wrote; to its end, if that is wanted."""
        asked = parse_query(scope["query_string"], ("follow",))
        if asked.get("follow", "0") not in ("0", "1"):
            raise InvalidParameter("follow is 0 or 1")
        follows = asked.get("follow") == "1" and scope["method"] != "HEAD"
        system = self._system
        job = system.ledger.get(number)
        await send({"type": "http.response.start", "status": 200, "headers": [_TEXT]})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        sent, attempt = 0, job.attempt
        while True:
            job = system.ledger.get(number)
            if job.attempt != attempt:
                sent, attempt = 0, job.attempt
            live = system.dispatcher.live(job)
            if live is not None:
                log = bytes(live.log)
            else:
                log = await system.ledger.log(number) if job.state not in AT_WORK else b""
            if log[sent:] and follows:
                await send({"type": "http.response.body", "body": log[sent:], "more_body": True})
                sent = len(log)
            if not follows or job.state in FINISHED or not system.dispatcher.is_open:
                await send({"type": "http.response.body", "body": log[sent:]})
                return
            await system.dispatcher.until_news(number, _FOLLOW_S)


def _shown(job: Job | Schedule) -> Shown | Scheduled:
    if isinstance(job, Job):
        return Shown(
            job.id,
            job.script,
            job.arguments,
            job.place.node,
            job.created_ms // 1000,
            str(job.state),
        )
    timing = job.timing
    return Scheduled(
        job.id,
        job.script,
        job.arguments,
        _local(job.created_ms, timing.timezone),
        timing.interval,
        timing.text or str(timing.time_unit),
        int(timing.repeat),
        _local(job.next_ms, timing.timezone),
    )


def _whole(schedule: Schedule) -> dict[str, Any]:
    """A schedule, with what /admin/jobs leaves out."""
    return {
        **msgspec.structs.asdict(_shown(schedule)),
        "directory": schedule.directory,
        "timezone": schedule.timing.timezone,
        "grace": schedule.timing.grace_s,
        "runs": schedule.runs,
        "last_job": schedule.last or None,
        "error": schedule.error or None,
        "policy": schedule.policy,
    }


def _local(ms: int, timezone: str) -> str:
    at = datetime.fromtimestamp(ms / 1000, ZoneInfo(timezone)).replace(tzinfo=None)
    return at.isoformat(sep=" ", timespec="microseconds")


def _rest(scope: Scope, front: str) -> str:
    """What stands behind the front of a path."""
    raw: bytes = scope["raw_path"]
    return decode_key(raw[len(front) :]).decode()


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise JobNotFound(f"there is no job {text!r}: an id is a number")
    return int(text)


def _asked_number(asked: dict[str, str], name: str, default: Any) -> Any:
    text = asked.get(name)
    if text is None:
        return default
    if not _NUMBER.fullmatch(text):
        raise InvalidParameter(f"{name} is a whole number")
    return int(text)


def _time(ms: int) -> str | None:
    return rfc3339(ms // 1000) if ms else None


async def _send(
    scope: Scope,
    send: Send,
    answer: object,
    *,
    status: int = 200,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> None:
    content = msgspec.json.encode(answer)
    whole = [_JSON, (b"content-length", b"%d" % len(content)), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": whole})
    body = b"" if scope["method"] == "HEAD" else content
    await send({"type": "http.response.body", "body": body})
