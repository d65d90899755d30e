"""Requests and answers as plain values: how Pulzar's HTTP looks from the outside.

Nothing here talks to a network. A function named after a verb builds the `Request`; one named
`read_...` turns the `Answer` into a value, or raises the same error of `pulzar.errors` that the
server raised, found by the `code` of the problem document. So a client over any HTTP library is a
loop of send and receive around this file.

What does not answer as Pulzar does raises UnexpectedAnswer: any other server says 404 too, and some
say 200 to everything. So an error counts with its problem document only, and a value with its ETag.

Keys are text of any characters but control characters, at most 480 bytes of UTF-8; the server
is the judge of that. An ETag is a version, 16 hex digits in double quotes.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from pulzar.errors import (
    ConditionFailed,
    KeyNotFound,
    OutcomeUnknown,
    PulzarError,
    RangeNotSatisfiable,
    Unavailable,
    UnexpectedAnswer,
    UsageError,
)

Kind = TypeVar("Kind")

# Left as they are in a URL's path, beside letters, digits and "_.-~" (RFC 3986, pchar and "/").
_PATH_SAFE = "/!$&'()*+,;=:@"
_DOTS = {".": "%2E", "..": "%2E%2E"}

_ETAG = re.compile(r'"[0-9a-f]{16}"')
_PRINTABLE = re.compile(r"[\t -~]*")
_PROBLEM = "application/problem+json"


class Request(msgspec.Struct, frozen=True):
    """One request. `path` begins with a slash and is percent-encoded, query included."""

    method: str
    path: str
    headers: dict[str, str] = {}
    body: bytes = b""


class Answer(msgspec.Struct, frozen=True):
    """One answer. Header names are in lower case; `body` is empty for HEAD."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


class Written(msgspec.Struct, frozen=True):
    """A durable write. `size` in bytes; `copies` as "durable/wanted"; `expires` is the time when
    the value ends, ISO 8601, or None for never. `created` tells a new key from a replaced one."""

    key: str
    etag: str
    version: str
    size: int = 0
    url: str = ""
    copies: str = ""
    expires: str | None = None
    created: bool = False


class Stat(msgspec.Struct, frozen=True):
    """What a HEAD or GET says of a value without its bytes. `size` is that of the whole value in
    bytes."""

    key: str
    size: int
    etag: str
    content_type: str
    modified: datetime | None = None
    expires: str | None = None


class Listed(msgspec.Struct, frozen=True):
    """One live key of a listing; `is_prefix` is a group of keys that a delimiter folded."""

    key: str
    size: int = 0
    etag: str = ""
    content_type: str = ""
    created: str = ""
    expires: str | None = None
    is_prefix: bool = False


class Page(msgspec.Struct, frozen=True):
    """One page of a listing; `next` is the `after` of the page behind it, None at the end."""

    items: list[Listed]
    next: str | None


def key_path(key: str) -> str:
    """The key, percent-encoded for a URL's path.

    Segments of dots are encoded too: HTTP libraries would fold them away. A file name that is no
    UTF-8 raises UsageError.
    """
    try:
        encoded = quote(key, safe=_PATH_SAFE, encoding="utf-8", errors="strict")
    except UnicodeEncodeError as error:
        raise UsageError(f"the key {key!r} is not valid UTF-8") from error
    return "/".join(_DOTS.get(segment, segment) for segment in encoded.split("/"))


def put(
    key: str,
    *,
    content_type: str = "",
    ttl: str | int | None = None,
    temporal: int | None = None,
    if_match: str | None = None,
    if_none_match: str | None = None,
) -> Request:
    """Store a value; the body is the caller's to add.

    `ttl` is seconds, or text such as "90s", "15m", "12h", "7d"; `temporal` is whole days.
    Conditions are ETags or "*".
    """
    query: dict[str, str] = {}
    if ttl is not None:
        query["ttl"] = f"{ttl}s" if isinstance(ttl, int) else ttl
    if temporal is not None:
        query["temporal"] = str(temporal)
    headers = conditions(if_match=if_match, if_none_match=if_none_match)
    if content_type:
        headers["Content-Type"] = _header("the content type", content_type)
    return Request("PUT", _path("/add_key/", key, query), headers)


def get(
    key: str,
    *,
    start: int = 0,
    end: int | None = None,
    if_match: str | None = None,
    if_none_match: str | None = None,
) -> Request:
    """Read a value, or its bytes `start`..`end` (exclusive; None is the end of the value)."""
    headers = conditions(if_match=if_match, if_none_match=if_none_match)
    if start or end is not None:
        headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
    return Request("GET", _path("/get_key/", key), headers)


def stat(key: str) -> Request:
    """Ask what a key holds without its bytes."""
    return Request("HEAD", _path("/get_key/", key))


def delete(key: str, *, if_match: str | None = None, if_none_match: str | None = None) -> Request:
    """Delete a key."""
    headers = conditions(if_match=if_match, if_none_match=if_none_match)
    return Request("DELETE", _path("/delete_key/", key), headers)


def watch_path(prefix: str, after: str) -> str:
    """The path at which a prefix is watched, from an event on. Raises InvalidKey."""
    return _path("/watch/", prefix, {"after": after} if after else {})


def list_keys(
    prefix: str = "",
    *,
    after: str | None = None,
    limit: int | None = None,
    delimiter: str | None = None,
) -> Request:
    """One page of the live keys under `prefix`, strictly behind `after`, at most `limit`."""
    query: dict[str, str] = {}
    if after is not None:
        query["after"] = after
    if limit is not None:
        query["limit"] = str(limit)
    if delimiter is not None:
        query["delimiter"] = delimiter
    return Request("GET", _path("/list_keys/", prefix, query), {"Accept": "application/json"})


def status() -> Request:
    """The counts of /admin/status."""
    return Request("GET", "/admin/status")


def compact() -> Request:
    """Rewrite segments that hold superseded records."""
    return Request("POST", "/admin/compact")


def ask(method: str, path: str, body: object = None) -> Request:
    """Something that is answered with JSON."""
    content = msgspec.json.encode(body) if body is not None else b""
    return Request(method, path, {"Accept": "application/json"}, content)


def ready() -> Request:
    """Whether the server can serve now."""
    return Request("GET", "/readyz")


def conditions(*, if_match: str | None, if_none_match: str | None) -> dict[str, str]:
    """The headers of the conditions; an ETag may come with or without its quotes. Raises
    UsageError for what no header can hold."""
    headers: dict[str, str] = {}
    if if_match is not None:
        headers["If-Match"] = _header("an ETag", _quoted(if_match))
    if if_none_match is not None:
        headers["If-None-Match"] = _header("an ETag", _quoted(if_none_match))
    return headers


def read_written(answer: Answer) -> Written:
    """The answer to PUT or DELETE."""
    check(answer)
    members = _json(answer, dict[str, Any])
    members["created"] = answer.status == 201
    written = _convert(members, Written)
    _check_etag(written.etag)
    return written


def read_stat(key: str, answer: Answer) -> Stat:
    """The answer to HEAD, or the head of the answer to GET."""
    check(answer)
    headers = answer.headers
    _check_etag(headers.get("etag", ""))
    total = headers.get("content-range", "").rpartition("/")[2] or headers.get("content-length", "")
    if not total.isdecimal():
        raise UnexpectedAnswer("the answer does not say how long the value is")
    return Stat(
        key=key,
        size=int(total),
        etag=headers["etag"],
        content_type=headers.get("content-type", ""),
        modified=_date(headers.get("last-modified")),
        expires=headers.get("pulzar-expires"),
    )


def read_page(answer: Answer) -> Page:
    """The answer to a listing: keys and folded prefixes together, in order."""
    check(answer)
    listing = _json(answer, _ListingJson)
    folded = [Listed(prefix, is_prefix=True) for prefix in listing.prefixes]
    items = sorted([*listing.keys, *folded], key=lambda item: item.key.encode())
    return Page(items, listing.next)


def read_status(answer: Answer) -> dict[str, int]:
    """The answer to /admin/status: the numbers of the key table; `entries` counts live keys."""
    check(answer)
    return _json(answer, dict[str, int])


def read_compacted(answer: Answer) -> dict[str, int]:
    """The answer to a compaction: what was done, by name."""
    check(answer)
    done = _json(answer, dict[str, int])
    if "segments" not in done:
        raise UnexpectedAnswer("the answer is not what Pulzar answers: no segments")
    return done


def read_json(answer: Answer) -> dict[str, Any]:
    """The JSON of an answer."""
    check(answer)
    return _json(answer, dict[str, Any])


def read_ready(answer: Answer) -> None:
    """The answer to /readyz; raises NotReady with the reason where the server cannot serve."""
    check(answer)
    if _json(answer, dict[str, str]).get("status") != "ready":
        raise UnexpectedAnswer("the answer is not what Pulzar answers: no status")


def check(answer: Answer) -> None:
    """Raise the error that `answer` stands for; return where it is a success."""
    if not 200 <= answer.status < 300:
        raise error_of(answer)


def error_of(answer: Answer) -> PulzarError:
    """The error of an answer that is no success.

    By the problem's `code`; by the status where Pulzar's answer has no body, as to HEAD. 503 is
    Unavailable whoever says so, and anything else is not Pulzar's: UnexpectedAnswer.
    """
    is_problem = answer.headers.get("content-type", "").startswith(_PROBLEM)
    if not is_problem or not answer.body:
        is_ours = is_problem or _ETAG.fullmatch(answer.headers.get("etag", ""))
        return _error_of_status(answer) if is_ours or answer.status == 503 else _stranger(answer)
    try:
        problem = msgspec.json.decode(answer.body, type=_ProblemJson)
    except msgspec.MsgspecError:
        return _stranger(answer)
    message = problem.detail or problem.title or f"the server answered {answer.status}"
    if problem.code == OutcomeUnknown.code:
        return OutcomeUnknown(message, version=_hex(problem.version) or 0)
    kind = ERRORS_BY_CODE.get(problem.code)
    return kind(message) if kind else _error_of_status(answer, message)


class _ListingJson(msgspec.Struct, frozen=True):
    keys: list[Listed]
    prefixes: list[str]
    next: str | None


class _ProblemJson(msgspec.Struct, frozen=True):
    code: str
    title: str = ""
    detail: str = ""
    version: str = ""


_BY_STATUS: dict[int, tuple[type[PulzarError], str]] = {
    304: (ConditionFailed, "the value has not changed"),
    404: (KeyNotFound, "no such key"),
    412: (ConditionFailed, "the condition does not hold; nothing was changed"),
    416: (RangeNotSatisfiable, "the range begins behind the end of the value"),
    503: (Unavailable, "the server cannot answer now"),
}


def _subclasses(kind: type[PulzarError]) -> Iterator[type[PulzarError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)


ERRORS_BY_CODE: Mapping[str, type[PulzarError]] = {
    kind.code: kind for kind in _subclasses(PulzarError)
}


def _error_of_status(answer: Answer, message: str = "") -> PulzarError:
    if answer.status in _BY_STATUS:
        kind, sentence = _BY_STATUS[answer.status]
        return kind(message or sentence)
    sentence = message or f"the server answered {answer.status}"
    if 400 <= answer.status < 500:
        return UsageError(sentence)
    return UnexpectedAnswer(sentence)


def _stranger(answer: Answer) -> UnexpectedAnswer:
    return UnexpectedAnswer(
        f"the answer is not what Pulzar answers: {answer.status} without a reason;"
        " is this the right address?"
    )


def _check_etag(text: str) -> None:
    """Every answer about a value has the ETag of a version."""
    if not _ETAG.fullmatch(text):
        raise UnexpectedAnswer(
            "the answer is not what Pulzar answers: it has no ETag of a version;"
            " is this the right address?"
        )


def _json(answer: Answer, kind: type[Kind]) -> Kind:
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except msgspec.MsgspecError as error:
        raise UnexpectedAnswer(f"the answer is not what Pulzar answers: {error}") from error


def _convert(members: dict[str, Any], kind: type[Kind]) -> Kind:
    try:
        return msgspec.convert(members, kind)
    except msgspec.MsgspecError as error:
        raise UnexpectedAnswer(f"the answer is not what Pulzar answers: {error}") from error


def _path(verb: str, key: str, query: Mapping[str, str] | None = None) -> str:
    return verb + key_path(key) + (f"?{urlencode(query)}" if query else "")


def _quoted(etag: str) -> str:
    return etag if etag == "*" or '"' in etag else f'"{etag}"'


def _header(what: str, text: str) -> str:
    if not _PRINTABLE.fullmatch(text):
        raise UsageError(f"{what} must be printable ASCII, not {text!r}")
    return text


def _date(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        return parsedate_to_datetime(text).astimezone(UTC)
    except ValueError:
        return None


def _hex(text: str | None) -> int | None:
    try:
        return int(text, 16) if text else None
    except ValueError:
        return None
