"""Query parameters: known ones only, each once, and what they mean.

The query is decoded as forms are: `+` is a space, and a plus sign is written %2B.
"""

import re
from difflib import get_close_matches
from urllib.parse import unquote_to_bytes

from pulzar.errors import InvalidParameter
from pulzar.http.problem import shown
from pulzar.limits import (
    EXPIRES_S_MAX,
    LIST_LIMIT_DEFAULT,
    LIST_LIMIT_MAX,
    REPLICAS_MAX,
    WATCH_WAIT_S_MAX,
)

DAY_S = 24 * 3600

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_DIGITS = re.compile(r"[0-9]+")
_U64 = re.compile(r"[0-9]{1,20}")
_TTL = re.compile(r"([0-9]+)([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": DAY_S}
_DIGITS_MAX = 12  # 10 ** 12 seconds are far beyond the year 9999


def parse_query(raw: bytes, known: tuple[str, ...]) -> dict[str, str]:
    """The parameters of a query. Raises InvalidParameter."""
    parameters: dict[str, str] = {}
    for item in raw.split(b"&"):
        if not item:
            continue
        name, _, value = (_decode(part) for part in item.partition(b"="))
        if name not in known:
            raise InvalidParameter(_unknown(name, known))
        if name in parameters:
            raise InvalidParameter(f"the query parameter {shown(name)} is given twice")
        parameters[name] = value
    redirect = parameters.get("redirect", "0")
    if redirect not in ("0", "1"):
        raise InvalidParameter(f"redirect must be 0 or 1, not {redirect!r}")
    return parameters


def query_lists(raw: bytes) -> dict[str, list[str]]:
    """Every parameter of a query with its values, in their order. Raises InvalidParameter."""
    lists: dict[str, list[str]] = {}
    for item in raw.split(b"&"):
        if item:
            name, _, value = (_decode(part) for part in item.partition(b"="))
            lists.setdefault(name, []).append(value)
    return lists


def decode_piece(piece: bytes, where: str) -> str:
    """A percent-encoded piece of a path, or of what is called `where`. Raises InvalidParameter."""
    if _BAD_ESCAPE.search(piece):
        raise InvalidParameter(f"the {where} has a % that is no percent-encoding; write it as %25")
    try:
        return unquote_to_bytes(piece).decode()
    except UnicodeDecodeError as error:
        raise InvalidParameter(f"the {where} is not UTF-8: {error.reason}") from None


def lifetime_s(parameters: dict[str, str]) -> int:
    """Seconds from the write until the value ends; 0 for never. Raises InvalidParameter."""
    temporal, ttl = parameters.get("temporal"), parameters.get("ttl")
    if temporal is None:
        return 0 if ttl is None else parse_ttl(ttl)
    if ttl is not None:
        raise InvalidParameter("temporal and ttl say the same thing: give one of them")
    days = _number(temporal)
    if not days:
        raise InvalidParameter(
            f"temporal must be a whole number of days, 1 or more, not {shown(temporal)}"
        )
    return days * DAY_S


def replicas_of(parameters: dict[str, str]) -> int:
    """How many volumes are to hold a key; 0: as many as the site says. Raises InvalidParameter."""
    text = parameters.get("replicas")
    if text is None:
        return 0
    replicas = _number(text)
    if not 1 <= replicas <= REPLICAS_MAX:
        raise InvalidParameter(
            f"replicas must be a number from 1 to {REPLICAS_MAX}, not {shown(text)}"
        )
    return replicas


def parse_ttl(text: str) -> int:
    """Seconds of a text such as 90s, 15m, 12h, 7d. Raises InvalidParameter."""
    found = _TTL.fullmatch(text)
    seconds = _number(found[1]) * _UNIT_S[found[2]] if found else 0
    if not seconds:
        raise InvalidParameter(
            f"ttl must be like 90s, 15m, 12h or 7d and not zero, not {shown(text)}"
        )
    return seconds


def number_between(asked: dict[str, str], name: str, least: int, most: int) -> int:
    """A parameter that must be there, and such a number. Raises InvalidParameter."""
    text = asked.get(name, "")
    if not _U64.fullmatch(text) or not least <= int(text) <= most:
        raise InvalidParameter(f"{name} is to be a number from {least} to {most}")
    return int(text)


def wait_of(parameters: dict[str, str]) -> int:
    """Seconds that an answer may wait for news; 0 for none. Raises InvalidParameter."""
    text = parameters.get("wait")
    if text is None:
        return 0
    found = _TTL.fullmatch(text)
    if not found:
        raise InvalidParameter(f"wait must be like 30s or 5m, not {shown(text)}")
    seconds = _number(found[1]) * _UNIT_S[found[2]]
    if seconds > WATCH_WAIT_S_MAX:
        raise InvalidParameter(
            f"wait may be {WATCH_WAIT_S_MAX // 60}m at most, not {shown(text)}: ask again then"
        )
    return seconds


def expires_at(lifetime: int, now_ms: int) -> int:
    """When a value written now ends, in whole seconds, never early; 0 for never.

    Raises InvalidParameter beyond the year 9999.
    """
    if not lifetime:
        return 0
    expires_s = -(-now_ms // 1000) + lifetime
    if expires_s > EXPIRES_S_MAX:
        raise InvalidParameter("the value would expire beyond the year 9999")
    return expires_s


def list_limit(parameters: dict[str, str]) -> int:
    """How many keys a page has. Raises InvalidParameter."""
    text = parameters.get("limit")
    if text is None:
        return LIST_LIMIT_DEFAULT
    limit = _number(text)
    if not 1 <= limit <= LIST_LIMIT_MAX:
        raise InvalidParameter(
            f"limit must be a number from 1 to {LIST_LIMIT_MAX}, not {shown(text)}"
        )
    return limit


def _number(text: str) -> int:
    """A number in ASCII digits; 0 where it is none. One that is too long is cut to a large one."""
    return int(text[:_DIGITS_MAX]) if _DIGITS.fullmatch(text) else 0


def _unknown(name: str, known: tuple[str, ...]) -> str:
    if not known:
        return f"unknown query parameter {shown(name)}; there are none here"
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(known)}"
    return f"unknown query parameter {shown(name)}; {hint}"


def _decode(part: bytes) -> str:
    return decode_piece(part.replace(b"+", b" "), "query")
