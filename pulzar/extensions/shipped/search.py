"""Finds keys by a part of their name, and by the day on which they were written.

curl -L 'http://127.0.0.1:9000/third_party/search/report?gt=12-31-2025&lt=02-01-2026'

What stands behind /search/ is the part, further segments belong to it; it may be empty. Days are
mm-dd-yyyy and UTC: eq is on that day and goes before the others, lt and gt are before and after it,
lte and gte count the day in. Keys come in the order of their bytes, `limit` of them (1,000), behind
the key `after`; `next` is the last one where there may be more.

Where a part is given, the file of names is read, about 10 ms for a million keys. If too many of
them contain it, or none is given, the days decide, by the order of creation; where they hold too
much as well, keys are looked at one page after the other.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from itertools import chain, islice
from typing import Any

from pulzar import extension
from pulzar.limits import SEARCH_LIMIT_DEFAULT, SEARCH_LIMIT_MAX

NAMES_MAX = 5000  # found by their part, and all looked up
DAYS_MAX = 20_000  # keys of the days, of which the part is looked for in each
_PAGE = 1000
_DAYS = ("eq", "lt", "lte", "gt", "gte")
_KNOWN = (*_DAYS, "limit", "after")
_DAY = re.compile(r"([0-9]{2})-([0-9]{2})-([0-9]{4})")
_FIRST_MS, _LAST_MS = 0, 10**15 - 1
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def execute(arguments: list[str], params: dict[str, list[str]]) -> dict[str, Any]:
    """{"results": [{"key", "url", "size", "etag", ...}], "next"}."""
    text = "/".join(arguments)
    if _CONTROL.search(text):
        raise extension.BadInput("no key has a control character")
    given = _given(params)
    start_ms, end_ms = window(given)
    limit, after = _limit(given.get("limit")), given.get("after", "")
    results: list[dict[str, Any]] = []
    for page in _pages(_candidates(text, start_ms, end_ms, after)):
        for known in extension.stat(page):
            if start_ms <= _ms(known["created"]) < end_ms:
                results.append({"key": known["key"], "url": extension.url(known["key"]), **known})
                if len(results) == limit:
                    return {"results": results, "next": known["key"]}
    return {"results": results, "next": None}


def _candidates(text: str, start_ms: int, end_ms: int, after: str) -> Iterable[str]:
    """Keys behind `after` in their order, all that match among them."""
    names = extension.find(text, after=after)
    found = list(islice(names, NAMES_MAX)) if text else []
    if text and len(found) < NAMES_MAX:
        return found
    if (start_ms, end_ms) != (_FIRST_MS, _LAST_MS):
        rows = list(islice(extension.created(start_ms, end_ms), DAYS_MAX))
        if len(rows) < DAYS_MAX:
            keys = (key for _, key in rows if text in key)
            return sorted((k for k in keys if k.encode() > after.encode()), key=str.encode)
    return chain(found, names)


def _pages(keys: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(keys)
    while page := list(islice(rest, _PAGE)):
        yield page


def window(given: dict[str, str]) -> tuple[int, int]:
    """The time in which a key was written, in milliseconds: from the first to before the second.

    Raises BadInput.
    """
    days = {name: _day(name, given[name]) for name in _DAYS if name in given}
    one = timedelta(days=1)
    if "eq" in days:
        return _at(days["eq"]), _at(days["eq"] + one)
    for less in ("lt", "lte"):
        for more in ("gt", "gte"):
            if less in days and more in days and days[less] < days[more]:
                raise extension.BadInput(
                    f"{less} is before {more}: no day is before {given[less]} and after "
                    f"{given[more]}"
                )
    starts = [_at(days["gt"] + one)] if "gt" in days else []
    starts += [_at(days["gte"])] if "gte" in days else []
    ends = [_at(days["lt"])] if "lt" in days else []
    ends += [_at(days["lte"] + one)] if "lte" in days else []
    return max(starts, default=_FIRST_MS), min(ends, default=_LAST_MS)


def _day(name: str, text: str) -> datetime:
    found = _DAY.fullmatch(text)
    try:
        if found:
            month, day, year = map(int, found.groups())
            return datetime(year, month, day, tzinfo=UTC)
    except ValueError:
        pass
    raise extension.BadInput(f"{name} must be a day, mm-dd-yyyy, such as 12-31-2025, not {text!r}")


def _at(day: datetime) -> int:
    return max(_FIRST_MS, int(day.timestamp() * 1000))


def _ms(text: str) -> int:
    """When a key was created, of how it is shown: 2026-11-25T23:11:05.123Z."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def _limit(text: str | None) -> int:
    if text is None:
        return SEARCH_LIMIT_DEFAULT
    if not re.fullmatch("[0-9]{1,6}", text) or not 1 <= int(text) <= SEARCH_LIMIT_MAX:
        raise extension.BadInput(f"limit must be from 1 to {SEARCH_LIMIT_MAX}, not {text!r}")
    return int(text)


def _given(params: dict[str, list[str]]) -> dict[str, str]:
    for name, values in params.items():
        if name not in _KNOWN:
            near = get_close_matches(name, _KNOWN, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(_KNOWN)}"
            raise extension.BadInput(f"unknown query parameter {name!r}; {hint}")
        if len(values) > 1:
            raise extension.BadInput(f"the query parameter {name!r} is given twice")
    return {name: values[0] for name, values in params.items()}
