"""Times as text: HTTP dates for headers, RFC 3339 for JSON. All of them UTC."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@lru_cache(maxsize=8192)  # keys written within one second share it
def http_date(seconds: int) -> bytes:
    """Such as `Tue, 24 Nov 2026 04:39:54 GMT`."""
    at = datetime.fromtimestamp(seconds, UTC)
    day, month = _DAYS[at.weekday()], _MONTHS[at.month - 1]
    return f"{day}, {at.day:02} {month} {at.year:04} {at:%H:%M:%S} GMT".encode()


def parse_http_date(text: str) -> int | None:
    """Seconds since 1970, or None where `text` is no HTTP date."""
    try:
        at = parsedate_to_datetime(text)
        # The form of asctime names no zone; HTTP's dates are all UTC.
        return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return None


@lru_cache(maxsize=8192)
def rfc3339(seconds: int) -> str:
    """Such as `2026-11-24T04:39:54Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_ms(milliseconds: int) -> str:
    """Such as `2026-11-24T04:39:54.123Z`."""
    return f"{rfc3339(milliseconds // 1000)[:-1]}.{milliseconds % 1000:03}Z"
