"""When a schedule launches its job. Pure; the times are arguments.

    {"interval": "minutes", "time_unit": 5, "repeat": 1}     every 5 minutes; weeks, days, hours
    {"cron": "30 6 * * mon-fri"}                             as cron does
    {"at": "2026-12-24 09:00"}                               once

A run is due at anchor + n x interval, never "some time after the last one", so a late run does not
delay those that follow. Minutes and hours are a length of time; days and weeks keep the wall clock
of their time zone, also where that is set forward or back. Runs that were missed are made up for by
one, unless the last of them is older than the grace. A schedule does not overlap with itself: a run
that is due while the one before has not ended is left out.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from cronsim import CronSim, CronSimError

from pulzar.errors import Damage, InvalidParameter
from pulzar.jobs.record import Policy
from pulzar.limits import JOB_GRACE_S, JOB_GRACE_S_MAX, JOB_TIME_UNIT_MAX

SCHEDULES_PREFIX = b"\0schedules/"
STEP_S = {"minutes": 60, "hours": 3600, "days": 86_400, "weeks": 7 * 86_400}

_KNOWN = ("interval", "time_unit", "repeat", "cron", "at", "timezone", "grace")
_YES = {0: False, 1: True, "0": False, "1": True}


class Timing(msgspec.Struct, frozen=True, omit_defaults=True):
    """When. `interval` is one of STEP_S, "cron" or "at"; `text` is the cron text or the time."""

    interval: str
    time_unit: int = 1
    repeat: bool = True
    text: str = ""
    timezone: str = "UTC"
    grace_s: int = JOB_GRACE_S


class Schedule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A schedule, as VariDB keeps it under 0x00 "schedules/" id (16 hex digits), as JSON. Times in
    milliseconds since 1970. `last` is the job of its last run, `error` why a run was left out."""

    id: int
    directory: str
    script: str
    arguments: str
    policy: Policy
    timing: Timing
    created_ms: int
    next_ms: int
    last: int = 0
    runs: int = 0
    error: str = ""


class Due(msgspec.Struct, frozen=True):
    """What is to be done about a schedule: whether to launch its job, why not, and when the next
    run is; None where that was the last one."""

    launch: bool
    reason: str
    next_ms: int | None


def schedule_key(number: int) -> bytes:
    """The key of a schedule."""
    return b"%b%016x" % (SCHEDULES_PREFIX, number)


def encode_schedule(schedule: Schedule) -> bytes:
    """The bytes of a schedule."""
    return msgspec.json.encode(schedule)


def decode_schedule(content: bytes) -> Schedule:
    """The schedule in some bytes. Raises Damage."""
    try:
        return msgspec.json.decode(content, type=Schedule)
    except (msgspec.DecodeError, ValueError) as error:
        raise Damage(f"the record of a schedule cannot be read: {error}") from None


def parse_timing(value: object, *, now_ms: int) -> Timing:
    """What the key `scheduled` of a launch says. Raises InvalidParameter."""
    if not isinstance(value, dict):
        raise InvalidParameter(
            'scheduled is an object: {"interval": "minutes", "time_unit": 5, "repeat": 1}'
        )
    for name in value:
        if name not in _KNOWN:
            raise InvalidParameter(f"scheduled has no {name!r}; there are {', '.join(_KNOWN)}")
    kinds = [name for name in ("interval", "cron", "at") if name in value]
    if len(kinds) != 1:
        raise InvalidParameter("scheduled has one of interval, cron and at")
    timing = Timing(
        interval=kinds[0],
        timezone=_timezone(value.get("timezone", "UTC")),
        grace_s=_number("grace", value.get("grace", JOB_GRACE_S), 0, JOB_GRACE_S_MAX),
        repeat=_repeat(value.get("repeat", kinds[0] != "at")),
    )
    if kinds[0] == "interval":
        if "time_unit" not in value:
            raise InvalidParameter("scheduled has an interval, and no time_unit: how many of them")
        unit = _number("time_unit", value["time_unit"], 1, JOB_TIME_UNIT_MAX)
        if value["interval"] not in STEP_S:
            raise InvalidParameter(f"interval is one of {', '.join(STEP_S)}")
        timing = msgspec.structs.replace(timing, interval=value["interval"], time_unit=unit)
    else:
        text = value[kinds[0]]
        if not isinstance(text, str) or "time_unit" in value:
            raise InvalidParameter(f"{kinds[0]} is a text, and has no time_unit")
        timing = msgspec.structs.replace(timing, text=text)
    if next_run(timing, anchor_ms=now_ms, after_ms=now_ms) is None:
        raise InvalidParameter(f"{timing.text!r} will never be: it is in the past, or no such date")
    return timing


def next_run(timing: Timing, *, anchor_ms: int, after_ms: int) -> int | None:
    """The first run after a time; None where there is none. Raises InvalidParameter for a cron text
    or a time that cannot be read."""
    zone = ZoneInfo(timing.timezone)
    if timing.interval == "at":
        at_ms = _at_ms(timing.text, zone)
        return at_ms if at_ms > after_ms else None
    if timing.interval == "cron":
        return _next_of_cron(timing.text, zone, after_ms)
    step_ms = STEP_S[timing.interval] * timing.time_unit * 1000
    passed = max(0, (after_ms - anchor_ms) // step_ms)
    if timing.interval in ("minutes", "hours"):
        return anchor_ms + (passed + 1) * step_ms
    n = max(1, passed - 1)  # the wall clock may be an hour ahead or behind
    while (run_ms := _by_wall_clock(anchor_ms, n * step_ms, zone)) <= after_ms:
        n += 1
    return run_ms


def due(schedule: Schedule, *, now_ms: int, is_running: bool) -> Due | None:
    """What is to be done now; None: nothing yet."""
    if now_ms < schedule.next_ms:
        return None
    timing = schedule.timing
    following = next_run(timing, anchor_ms=schedule.created_ms, after_ms=now_ms)
    if is_running:
        return Due(False, f"job {schedule.last} had not ended", _following(timing, following))
    if now_ms - schedule.next_ms > timing.grace_s * 1000:
        late_s = (now_ms - schedule.next_ms) // 1000
        recent = _last_before(schedule, now_ms)
        if now_ms - recent > timing.grace_s * 1000:
            return Due(False, f"it was {late_s} s late", _following(timing, following))
    return Due(True, "", following if timing.repeat else None)


def _following(timing: Timing, following: int | None) -> int | None:
    """The next run after one that was left out: one that is to be the only one is still to come,
    unless it has a time of its own."""
    return None if timing.interval == "at" else following


def _last_before(schedule: Schedule, now_ms: int) -> int:
    """The last of the runs that were missed."""
    run_ms = schedule.next_ms
    timing = schedule.timing
    window_ms = max(now_ms - timing.grace_s * 1000 - 1, run_ms)
    recent = next_run(timing, anchor_ms=schedule.created_ms, after_ms=window_ms)
    return run_ms if recent is None or recent > now_ms else recent


def _by_wall_clock(anchor_ms: int, length_ms: int, zone: ZoneInfo) -> int:
    anchor = datetime.fromtimestamp(anchor_ms / 1000, zone).replace(tzinfo=None)
    at = anchor + timedelta(milliseconds=length_ms)
    return _ms(at.replace(tzinfo=zone))


def _next_of_cron(text: str, zone: ZoneInfo, after_ms: int) -> int | None:
    after = datetime.fromtimestamp(after_ms // 1000, zone)
    try:
        return _ms(next(CronSim(text, after)))
    except StopIteration:
        return None
    except CronSimError as error:
        raise InvalidParameter(f"the cron text {text!r} cannot be read: {error}") from None


def _at_ms(text: str, zone: ZoneInfo) -> int:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidParameter(f"at is a time such as 2026-12-24T09:00, not {text!r}") from None
    return _ms(at if at.tzinfo is not None else at.replace(tzinfo=zone))


def _ms(at: datetime) -> int:
    """Milliseconds since 1970; a time that the clock skips is as much later as it is set forward
    (PEP 495, fold=0)."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return (at.astimezone(UTC) - epoch) // timedelta(milliseconds=1)


def _timezone(name: object) -> str:
    try:
        return ZoneInfo(str(name)).key
    except (ValueError, OSError, KeyError):
        raise InvalidParameter(f"there is no time zone {name!r}; one is Europe/Berlin") from None


def _number(what: str, value: Any, least: int, most: int) -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,12}", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidParameter(f"{what} is a whole number from {least} to {most}")
    return value


def _repeat(value: Any) -> bool:
    try:
        return _YES[value]
    except (KeyError, TypeError):
        raise InvalidParameter("repeat is 1, until it is cancelled, or 0, once") from None
