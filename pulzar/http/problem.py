"""The one place that maps errors to answers: problem documents (RFC 9457).

`status` and `code` come from the error's class and nothing else, so the mapping is total. The
sentence in `detail` is for people; `code` is for programs and does not change.
"""

from http import HTTPStatus

import msgspec

from pulzar.errors import MethodNotAllowed, OutcomeUnknown, PulzarError, RangeNotSatisfiable

MEDIA_TYPE = b"application/problem+json"
RETRY_AFTER_S = 1
_SHOWN_MAX = 100

_CONTENT_TYPE = (b"content-type", MEDIA_TYPE)
_RETRY_AFTER = (b"retry-after", b"%d" % RETRY_AFTER_S)


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """The document. `version` is told by `outcome_unknown` only."""

    title: str
    status: int
    code: str
    detail: str
    version: str = ""


class Refusal(msgspec.Struct, frozen=True):
    """An answer that is no success, ready to be sent."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def refusal(error: PulzarError) -> Refusal:
    """The answer to an error."""
    status = error.status
    problem = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        code=error.code,
        detail=str(error),
        version=f"{error.version:016x}" if isinstance(error, OutcomeUnknown) else "",
    )
    body = msgspec.json.encode(problem)
    headers = [_CONTENT_TYPE, (b"content-length", b"%d" % len(body))]
    if status == 503:
        headers.append(_RETRY_AFTER)
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", ", ".join(error.allow).encode()))
    elif isinstance(error, RangeNotSatisfiable):
        headers.append((b"content-range", b"bytes */%d" % error.size))
    return Refusal(status, headers, body)


class Elsewhere(Exception):
    """What was asked for is at `url`: there, the same request is to be made."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url


def redirect(elsewhere: Elsewhere) -> Refusal:
    """307: method and body stay what they are."""
    headers = [(b"location", elsewhere.url.encode()), (b"content-length", b"0")]
    return Refusal(307, headers, b"")


def shown(text: str) -> str:
    """`text` as a message may show it: quoted, escaped and cut."""
    return repr(text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}...")


def bug() -> Refusal:
    """The answer to an exception that nobody meant to raise."""
    return refusal(PulzarError("the server met a bug; its log has the details"))
