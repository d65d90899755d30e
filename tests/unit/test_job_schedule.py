"""When schedules launch their jobs: over a year, with both changes of the clock."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pulzar.errors import InvalidParameter
from pulzar.jobs.record import Policy
from pulzar.jobs.schedule import (
    STEP_S,
    Schedule,
    Timing,
    decode_schedule,
    due,
    encode_schedule,
    next_run,
    parse_timing,
    schedule_key,
)
from pulzar.limits import JOB_GRACE_S

BERLIN = ZoneInfo("Europe/Berlin")
NOW_MS = 1_700_000_000_000


def ms(
    year: int, month: int, day: int, hour: int = 0, minute: int = 0, *, zone: Any = BERLIN
) -> int:
    return int(datetime(year, month, day, hour, minute, tzinfo=zone).timestamp() * 1000)


def local(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, BERLIN).strftime("%m-%d %H:%M:%S %z")


def runs(timing: Timing, anchor_ms: int, end_ms: int) -> list[int]:
    found = []
    after = anchor_ms
    while (run := next_run(timing, anchor_ms=anchor_ms, after_ms=after)) is not None:
        if run > end_ms:
            break
        found.append(run)
        after = run
    return found


def schedule(timing: Timing, created_ms: int) -> Schedule:
    first = next_run(timing, anchor_ms=created_ms, after_ms=created_ms)
    assert first is not None
    return Schedule(
        id=7,
        directory="d",
        script="s",
        arguments="{}",
        policy=Policy(),
        timing=timing,
        created_ms=created_ms,
        next_ms=first,
    )


def test_what_the_specification_says_is_read() -> None:
    timing = parse_timing({"interval": "minutes", "time_unit": 5, "repeat": 1}, now_ms=NOW_MS)
    assert timing == Timing("minutes", 5)
    assert next_run(timing, anchor_ms=NOW_MS, after_ms=NOW_MS) == NOW_MS + 300_000
    once = {"interval": "weeks", "time_unit": "2", "repeat": 0}
    assert parse_timing(once, now_ms=NOW_MS) == Timing("weeks", 2, repeat=False)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([], "an object"),
        ({}, "one of interval, cron and at"),
        ({"interval": "minutes", "cron": "* * * * *"}, "one of interval, cron and at"),
        ({"interval": "minutes"}, "no time_unit"),
        ({"interval": "seconds", "time_unit": 5}, "minutes, hours, days, weeks"),
        ({"interval": 5, "time_unit": 5}, "minutes, hours, days, weeks"),
        ({"interval": "minutes", "time_unit": 0}, "time_unit"),
        ({"interval": "minutes", "time_unit": -5}, "time_unit"),
        ({"interval": "minutes", "time_unit": 1.5}, "time_unit"),
        ({"interval": "minutes", "time_unit": "five"}, "time_unit"),
        ({"interval": "minutes", "time_unit": 10**9}, "time_unit"),
        ({"interval": "minutes", "time_unit": 5, "repeat": 2}, "repeat"),
        ({"interval": "minutes", "time_unit": 5, "repeat": []}, "repeat"),
        ({"interval": "minutes", "time_unit": 5, "grace": -1}, "grace"),
        ({"interval": "minutes", "time_unit": 5, "every": 1}, "no 'every'"),
        ({"interval": "minutes", "time_unit": 5, "timezone": "Berlin"}, "time zone"),
        ({"interval": "minutes", "time_unit": 5, "timezone": "../../etc/passwd"}, "time zone"),
        ({"cron": "61 * * * *"}, "cannot be read"),
        ({"cron": "0 0 31 2 *"}, "cannot be read"),
        ({"cron": "* * * * *", "time_unit": 5}, "no time_unit"),
        ({"cron": 5}, "a text"),
        ({"at": "2020-01-01"}, "never"),
        ({"at": "tomorrow"}, "a time such as"),
    ],
)
def test_what_cannot_be_meant_is_refused(value: Any, told: str) -> None:
    with pytest.raises(InvalidParameter, match=told):
        parse_timing(value, now_ms=NOW_MS)


def test_days_keep_the_wall_clock_over_a_year() -> None:
    anchor = ms(2026, 1, 1, 9, 0)
    daily = runs(Timing("days", timezone="Europe/Berlin"), anchor, ms(2027, 1, 1, 9, 0))
    assert len(daily) == 365
    assert {local(run)[6:14] for run in daily} == {"09:00:00"}
    weekly = runs(Timing("weeks", timezone="Europe/Berlin"), anchor, ms(2027, 1, 1, 9, 0))
    assert list(daily[6::7]) == weekly


def test_a_time_that_the_clock_skips_or_has_twice_is_there_once_a_day() -> None:
    for hour, minute in ((2, 30), (2, 0), (3, 0)):
        anchor = ms(2026, 3, 1, hour, minute)
        daily = runs(Timing("days", timezone="Europe/Berlin"), anchor, ms(2026, 11, 30))
        days = [local(run)[:5] for run in daily]
        assert len(days) == len(set(days)) == 273
    skipped = next_run(
        Timing("days", timezone="Europe/Berlin"),
        anchor_ms=ms(2026, 3, 28, 2, 30),
        after_ms=ms(2026, 3, 28, 2, 30),
    )
    assert skipped is not None
    assert local(skipped) == "03-29 03:30:00 +0200"


def test_hours_are_a_length_of_time() -> None:
    anchor = ms(2026, 3, 28, 9, 0)
    hourly = runs(Timing("hours", 24, timezone="Europe/Berlin"), anchor, ms(2026, 3, 31))
    assert [local(run)[6:14] for run in hourly] == ["10:00:00", "10:00:00"]


def test_cron_fires_once_at_the_changes_of_the_clock() -> None:
    timing = parse_timing(
        {"cron": "30 2 * * *", "timezone": "Europe/Berlin"}, now_ms=ms(2026, 1, 1)
    )
    days = [local(run)[:5] for run in runs(timing, ms(2026, 1, 1), ms(2026, 12, 31))]
    assert len(days) == len(set(days)) == 364


def test_at_is_once() -> None:
    timing = parse_timing({"at": "2026-12-24 09:00", "timezone": "Europe/Berlin"}, now_ms=NOW_MS)
    assert runs(timing, NOW_MS, ms(2030, 1, 1)) == [ms(2026, 12, 24, 9, 0)]
    zoned = parse_timing({"at": "2026-12-24T09:00:00-05:00"}, now_ms=NOW_MS)
    assert runs(zoned, NOW_MS, ms(2030, 1, 1)) == [ms(2026, 12, 24, 14, 0, zone=UTC)]


@given(
    interval=st.sampled_from(sorted(STEP_S)),
    unit=st.integers(1, 50),
    anchor_s=st.integers(1_577_836_800, 1_893_456_000),
    passed_s=st.integers(0, 3 * 366 * 86_400),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
)
def test_the_next_run_is_the_first_behind_a_time(
    interval: str, unit: int, anchor_s: int, passed_s: int, zone: str
) -> None:
    timing = Timing(interval, unit, timezone=zone)
    anchor_ms = anchor_s * 1000
    after_ms = anchor_ms + passed_s * 1000
    run = next_run(timing, anchor_ms=anchor_ms, after_ms=after_ms)
    assert run is not None
    assert after_ms < run <= after_ms + (STEP_S[interval] * unit + 7200) * 1000
    before = next_run(timing, anchor_ms=anchor_ms, after_ms=run - 1)
    assert before == run


def test_runs_that_were_missed_are_made_up_for_by_one() -> None:
    now = schedule(Timing("minutes", 5), NOW_MS)
    assert due(now, now_ms=now.next_ms - 1, is_running=False) is None
    found = due(now, now_ms=NOW_MS + 3 * 86_400_000 + 1, is_running=False)
    assert found is not None
    assert (found.launch, found.next_ms) == (True, NOW_MS + 3 * 86_400_000 + 300_000)


def test_a_run_that_is_older_than_the_grace_is_left_out() -> None:
    now = schedule(Timing("days", 1), NOW_MS)
    late = now.next_ms + JOB_GRACE_S * 1000
    on_time = due(now, now_ms=late, is_running=False)
    too_late = due(now, now_ms=late + 1, is_running=False)
    assert on_time is not None
    assert too_late is not None
    assert (on_time.launch, too_late.launch) == (True, False)
    assert on_time.next_ms == too_late.next_ms == NOW_MS + 2 * 86_400_000
    one_shot = schedule(Timing("at", text="2026-12-24 09:00", repeat=False), NOW_MS)
    gone = due(one_shot, now_ms=one_shot.next_ms + JOB_GRACE_S * 1001, is_running=False)
    assert gone is not None
    assert (gone.launch, gone.next_ms) == (False, None)


def test_a_schedule_does_not_overlap_with_itself() -> None:
    now = replace(schedule(Timing("minutes", 5), NOW_MS), last=9)
    found = due(now, now_ms=now.next_ms, is_running=True)
    assert found is not None
    assert (found.launch, found.reason) == (False, "job 9 had not ended")
    assert found.next_ms == NOW_MS + 600_000


def test_a_schedule_that_does_not_repeat_runs_once() -> None:
    now = schedule(Timing("hours", 1, repeat=False), NOW_MS)
    waits = due(now, now_ms=now.next_ms, is_running=True)
    assert waits is not None
    assert waits.next_ms is not None  # it has not run yet
    found = due(now, now_ms=now.next_ms, is_running=False)
    assert found is not None
    assert (found.launch, found.next_ms) == (True, None)


def test_a_clock_that_is_set_back_doubles_no_run() -> None:
    now = schedule(Timing("minutes", 5), NOW_MS)
    first = due(now, now_ms=now.next_ms, is_running=False)
    assert first is not None
    assert first.next_ms is not None
    moved = replace(now, next_ms=first.next_ms)
    back = moved.next_ms - timedelta(hours=2) // timedelta(milliseconds=1)
    assert due(moved, now_ms=back, is_running=False) is None


def test_the_bytes_of_a_schedule() -> None:
    now = schedule(Timing("minutes", 5), 0)
    content = (
        b'{"id":7,"directory":"d","script":"s","arguments":"{}","policy":{},'
        b'"timing":{"interval":"minutes","time_unit":5},"created_ms":0,"next_ms":300000}'
    )
    assert encode_schedule(now) == content
    assert decode_schedule(content) == now
    assert schedule_key(255) == b"\0schedules/00000000000000ff"
