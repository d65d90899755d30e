"""Conditional requests (RFC 9110, section 13): headers to pure values, and what they decide.

An ETag is a version, 16 hex digits in double quotes. A well-formed ETag of another shape names no
version: it matches nothing. So does `""`, which curl sends with its first --etag-compare.
"""

import re
from dataclasses import dataclass

from pulzar.errors import InvalidParameter
from pulzar.http.dates import parse_http_date
from pulzar.http.problem import shown
from pulzar.limits import ETAGS_MAX
from pulzar.varidb.condition import Condition

# One ETag with what stands around it in a list; the list may have empty places (RFC 9110, 5.6.1).
_ITEM = re.compile(r'[ \t]*(?:(W/)?"([!#-~\x80-\xff]*)"[ \t]*)?(?:,|$)')
_VERSION = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class ReadConditions:
    """What a GET or HEAD asks. The dates are seconds since 1970."""

    tags: Condition | None = None
    modified_since_s: int | None = None
    unmodified_since_s: int | None = None

    def status(self, version: int, created_ms: int) -> int:
        """200, 304 or 412 for a value, by the order of RFC 9110, 13.2.2."""
        tags = self.tags or Condition()
        modified_s = created_ms // 1000
        if tags.match is not None or tags.match_any:
            if not tags.match_holds(version):
                return 412
        elif self.unmodified_since_s is not None and modified_s > self.unmodified_since_s:
            return 412
        if tags.none_match is not None or tags.none_match_any:
            return 200 if tags.none_match_holds(version) else 304
        if self.modified_since_s is not None and modified_s <= self.modified_since_s:
            return 304
        return 200


def parse_condition(if_match: str | None, if_none_match: str | None) -> Condition | None:
    """The condition that the two headers state, or None. Raises InvalidParameter."""
    if if_match is None and if_none_match is None:
        return None
    match, match_any = _parse_tags("If-Match", if_match, weak=False)
    none_match, none_match_any = _parse_tags("If-None-Match", if_none_match, weak=True)
    return Condition(match, match_any, none_match, none_match_any)


def read_conditions(headers: dict[bytes, bytes]) -> ReadConditions:
    """The conditions of a read. Dates that are none are ignored, as RFC 9110 demands."""
    return ReadConditions(
        _tags(headers),
        _date(headers.get(b"if-modified-since")),
        _date(headers.get(b"if-unmodified-since")),
    )


def write_condition(headers: dict[bytes, bytes]) -> Condition | None:
    """The condition of a write. Raises InvalidParameter."""
    if b"if-unmodified-since" in headers:
        raise InvalidParameter("a date cannot guard a write: use If-Match with the ETag")
    return _tags(headers)


def _tags(headers: dict[bytes, bytes]) -> Condition | None:
    """If-Match and If-None-Match. Raises InvalidParameter."""
    return parse_condition(_text(headers.get(b"if-match")), _text(headers.get(b"if-none-match")))


def if_range_holds(text: str, version: int) -> bool:
    """Whether a Range header counts: If-Range names this ETag. A date names none: in its second
    the value may have been written twice, which makes it a weak validator (RFC 9110, 13.1.5)."""
    return text == f'"{version:016x}"'


def _parse_tags(
    header: str, text: str | None, *, weak: bool
) -> tuple[tuple[int, ...] | None, bool]:
    """The versions named, and whether it is `*`. Weak ETags count only where `weak`."""
    if text is None:
        return None, False
    if text.strip(" \t") == "*":
        return None, True
    versions: list[int] = []
    count = at = 0
    while at < len(text):
        item = _ITEM.match(text, at)
        if item is None:
            raise InvalidParameter(_malformed(header, text))
        at = item.end()
        if item[2] is None:
            continue
        count += 1
        if _VERSION.fullmatch(item[2]) and (weak or not item[1]):
            versions.append(int(item[2], 16))
    if not count:
        raise InvalidParameter(f"{header} is empty: give an ETag or *")
    if count > ETAGS_MAX:
        raise InvalidParameter(f"{header} has {count} ETags; {ETAGS_MAX} are allowed")
    return tuple(versions), False


def _malformed(header: str, text: str) -> str:
    example = '"000001000000002a"'
    return f"{header} must be *, or ETags in double quotes such as {example}, not {shown(text)}"


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _date(value: bytes | None) -> int | None:
    return None if value is None else parse_http_date(value.decode("latin-1"))
