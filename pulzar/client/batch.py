"""`POST /batch` from the outside: operations to bytes, the answer to results. No I/O.

The shape is drawn in docs/http-api.md; MessagePack, one list per operation.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec

from pulzar.client.requests import ERRORS_BY_CODE, Answer, Request, check
from pulzar.errors import OutcomeUnknown, PulzarError, UnexpectedAnswer

MEDIA_TYPE = "application/msgpack"

_encoder = msgspec.msgpack.Encoder()


class Put(msgspec.Struct, frozen=True):
    """A value of at most 1 MiB to store. `ttl` is text such as "15m"."""

    key: str
    value: bytes
    content_type: str | None = None
    ttl: str | None = None
    if_match: str | None = None
    if_none_match: str | None = None


class Get(msgspec.Struct, frozen=True):
    """A value to read."""

    key: str
    if_match: str | None = None
    if_none_match: str | None = None


class Delete(msgspec.Struct, frozen=True):
    """A key to delete."""

    key: str
    if_match: str | None = None
    if_none_match: str | None = None


class Done(msgspec.Struct, frozen=True):
    """A put or a delete that is durable. `copies` is "durable/wanted"; `expires` RFC 3339 text."""

    key: str
    version: str
    copies: str
    created: bool = False
    expires: str | None = None


class Found(msgspec.Struct, frozen=True):
    """A value that was read."""

    key: str
    version: str
    value: bytes
    content_type: str = ""
    expires: str | None = None


Operation: TypeAlias = Put | Get | Delete
Result: TypeAlias = Done | Found | PulzarError

_DONE = tuple[str, str, str | None]
_FOUND = tuple[str, bytes, str, str | None]
_NAMES: dict[type[Operation], str] = {Put: "put", Get: "get", Delete: "delete"}


def request(operations: Sequence[Operation]) -> Request:
    """The request for these operations."""
    body = _encoder.encode([_encoded(operation) for operation in operations])
    headers = {"Content-Type": MEDIA_TYPE, "Accept": MEDIA_TYPE}
    return Request("POST", "/batch", headers, body)


def read_results(answer: Answer, operations: Sequence[Operation]) -> list[Result]:
    """One result for each operation; raises the error of a batch that was refused as a whole."""
    check(answer)
    try:
        rows = msgspec.msgpack.decode(answer.body, type=list[list[Any]])
        if len(rows) != len(operations):
            raise UnexpectedAnswer(f"{len(operations)} operations, but {len(rows)} results")
        return [_result(row, operation) for row, operation in zip(rows, operations, strict=True)]
    except (msgspec.MsgspecError, TypeError, ValueError, IndexError) as error:
        raise UnexpectedAnswer(f"the answer to the batch cannot be read: {error}") from error


def _encoded(operation: Operation) -> list[Any]:
    items = [_NAMES[type(operation)], *msgspec.structs.astuple(operation)]
    while items[-1] is None:
        items.pop()
    return items


def _result(row: list[Any], operation: Operation) -> Result:
    status = row[0]
    if not 200 <= status < 300:
        return _error(row)
    if isinstance(operation, Get):
        return Found(operation.key, *msgspec.convert(row[1:], _FOUND))
    version, copies, expires = msgspec.convert([*row[1:], None][:3], _DONE)
    return Done(operation.key, version, copies, status == 201, expires)


def _error(row: list[Any]) -> PulzarError:
    code, sentence = msgspec.convert(row[1:3], tuple[str, str])
    if code == OutcomeUnknown.code:
        return OutcomeUnknown(sentence, version=int(row[3], 16))
    return ERRORS_BY_CODE.get(code, UnexpectedAnswer)(sentence)
