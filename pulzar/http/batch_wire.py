"""The shape of a batch: one shape in two encodings, MessagePack and JSON.

A request is a list of operations, each a list whose first item names it:

    ["put", key, value, content_type, ttl, if_match, if_none_match]
    ["get", key, if_match, if_none_match]
    ["delete", key, if_match, if_none_match]

Items at the end may be left out, and null stands for "not given". `key` is text. `value` is bytes
in MessagePack ("bin") and base64 text in JSON. `ttl` is text such as "90s", "15m", "12h", "7d";
the conditions are text as in the headers of the same name.

An answer is a list of results, one for each operation, in the same order and encoding:

    [201, version, copies, expires]                    a put that created the key
    [200, version, copies, expires]                    a put that replaced a value
    [200, version, copies]                             a delete
    [200, version, value, content_type, expires]       a get
    [status, code, sentence]                           an error, with the status and code of
                                                       the same request on its own
    [503, "outcome_unknown", sentence, version]        a write that may have happened

`version` is 16 hex digits (the ETag without its quotes), `copies` is text, durable/wanted, and
`expires` is RFC 3339 text or null.

A batch that is malformed anywhere is refused as a whole, before any of it is done.
"""

import re
from collections.abc import Sequence
from itertools import islice
from typing import Any, TypeAlias

import msgspec

from pulzar.errors import (
    InvalidParameter,
    OutcomeUnknown,
    PulzarError,
    UnsupportedMediaType,
    ValueTooLarge,
)
from pulzar.http.conditions import parse_condition
from pulzar.http.content_type import check_content_type
from pulzar.http.dates import rfc3339
from pulzar.http.key_codec import check_keys
from pulzar.http.problem import shown
from pulzar.http.query import expires_at, parse_ttl
from pulzar.limits import (
    BATCH_ANSWER_BYTES_MAX,
    BATCH_OPERATIONS_MAX,
    CONTENT_TYPE_DEFAULT,
    SEGMENT_VALUE_BYTES_MAX,
)
from pulzar.varidb.condition import Condition
from pulzar.varidb.entry import Delete, Get, Got, Put, Written

MSGPACK = "application/msgpack"
JSON = "application/json"


class PutOperation(
    msgspec.Struct, frozen=True, array_like=True, tag="put", forbid_unknown_fields=True, gc=False
):
    """Store a value."""

    key: str
    value: bytes
    content_type: str | None = None
    ttl: str | None = None
    if_match: str | None = None
    if_none_match: str | None = None


class GetOperation(
    msgspec.Struct, frozen=True, array_like=True, tag="get", forbid_unknown_fields=True, gc=False
):
    """Read a value."""

    key: str
    if_match: str | None = None
    if_none_match: str | None = None


class DeleteOperation(
    msgspec.Struct, frozen=True, array_like=True, tag="delete", forbid_unknown_fields=True, gc=False
):
    """Delete a key."""

    key: str
    if_match: str | None = None
    if_none_match: str | None = None


Operation: TypeAlias = PutOperation | GetOperation | DeleteOperation
Result: TypeAlias = tuple[Any, ...]

_REQUEST = list[Operation]
_FORMATS: dict[str, tuple[Any, Any]] = {
    MSGPACK: (msgspec.msgpack.Decoder(_REQUEST), msgspec.msgpack.Encoder()),
    JSON: (msgspec.json.Decoder(_REQUEST), msgspec.json.Encoder()),
}

# In JSON every operation begins with one of these; a text may end with the bracket, and then its
# own quote looks the same. An operation has at most five texts.
_OPENING = re.compile(rb'\[\s*"')
_OPENINGS_MAX = 8 * BATCH_OPERATIONS_MAX

_MOST_ITEMS = re.compile(r"(of at most length )([0-9]+)")
_RESULT_BYTES = 400  # of a result but for its value: a type of 255 bytes, a version, two times


def media_type(content_type: str) -> str:
    """The encoding that a Content-Type names. Raises UnsupportedMediaType."""
    named = content_type.partition(";")[0].strip().lower()
    if named not in _FORMATS:
        raise UnsupportedMediaType(
            f"a batch is sent as {MSGPACK} or {JSON}, not {shown(content_type)}"
        )
    return named


def decode(body: bytes, encoding: str) -> list[Operation]:
    """The operations. Raises InvalidParameter, ValueTooLarge."""
    if _count(body, encoding) > BATCH_OPERATIONS_MAX:
        raise _too_many()
    try:
        operations: list[Operation] = _FORMATS[encoding][0].decode(body)
    except RecursionError:
        raise InvalidParameter("the batch is malformed: too many lists inside each other") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidParameter(f"the batch is malformed: {_as_counted(str(error))}") from None
    if len(operations) > BATCH_OPERATIONS_MAX:
        raise _too_many()
    return operations


def answer_bytes(count: int, values_bytes: int, encoding: str) -> int:
    """How large an answer of so many results with so many bytes of values can be."""
    return _RESULT_BYTES * count + (-(-values_bytes // 3) * 4 if encoding == JSON else values_bytes)


def encode(results: list[Result], encoding: str) -> bytes:
    """Results that follow each other in an answer."""
    encoded = bytes(_FORMATS[encoding][1].encode(results))
    return encoded[1:-1] if encoding == JSON else encoded[_list_head_bytes(len(results)) :]


def framed(parts: list[bytes], count: int, encoding: str) -> list[bytes]:
    """The whole answer, of parts with `count` results together, in pieces."""
    if encoding == JSON:
        commas = [piece for part in parts for piece in (b",", part)][1:]
        return [b"[", *commas, b"]"]
    empty: list[None] = [None] * count
    return [bytes(_FORMATS[encoding][1].encode(empty))[: _list_head_bytes(count)], *parts]


def store_operations(operations: Sequence[Operation], *, now_ms: int) -> list[Put | Get | Delete]:
    """What the store is to do. Raises UsageError that names the number of the bad operation."""
    keys = check_keys([operation.key for operation in operations])
    made: list[Put | Get | Delete] = []
    for number, (operation, key) in enumerate(zip(operations, keys, strict=True)):
        condition = None
        if operation.if_match is not None or operation.if_none_match is not None:
            condition = _condition(operation, number)
        if isinstance(operation, PutOperation):
            if len(operation.value) > SEGMENT_VALUE_BYTES_MAX:
                raise ValueTooLarge(
                    f"operation {number}: a batch takes values of {SEGMENT_VALUE_BYTES_MAX} "
                    "bytes at most; use PUT"
                )
            if operation.content_type is None and operation.ttl is None:
                made.append(Put(key, operation.value, "", 0, condition))
            else:
                made.append(_put(operation, key, condition, number, now_ms))
        elif isinstance(operation, GetOperation):
            made.append(Get(key, condition))
        else:
            made.append(Delete(key, condition))
    return made


def results_of(
    operations: Sequence[Put | Get | Delete], done: Sequence[Written | Got | Exception]
) -> list[Result]:
    """One result for each operation. What is no PulzarError is raised: it is a bug."""
    results: list[Result] = []
    for operation, one in zip(operations, done, strict=True):
        if isinstance(one, Written):
            version = f"{one.version:016x}"
            copies = f"{one.copies}/{one.wanted}"
            if isinstance(operation, Delete):
                results.append((200, version, copies))
            else:
                expires = rfc3339(one.expires_s) if one.expires_s else None
                results.append((201 if one.created else 200, version, copies, expires))
        elif isinstance(one, Got):
            results.append(_got(one))
        elif isinstance(one, PulzarError):
            results.append(_error(one))
        else:
            raise one
    return results


def answer_too_large() -> ValueTooLarge:
    """The result of a get for which there is no more room in the answer."""
    return ValueTooLarge(
        f"the values of one batch are {BATCH_ANSWER_BYTES_MAX} bytes at most: get it in another"
    )


def _got(got: Got) -> Result:
    entry = got.entry
    expires = rfc3339(entry.expires_s) if entry.expires_s else None
    content_type = entry.content_type or CONTENT_TYPE_DEFAULT
    return (200, f"{entry.version:016x}", got.value, content_type, expires)


def _error(error: PulzarError) -> Result:
    if isinstance(error, OutcomeUnknown):
        return (error.status, error.code, str(error), f"{error.version:016x}")
    return (error.status, error.code, str(error))


def _put(
    operation: PutOperation, key: bytes, condition: Condition | None, number: int, now_ms: int
) -> Put:
    try:
        lifetime = 0 if operation.ttl is None else parse_ttl(operation.ttl)
        content_type = check_content_type(operation.content_type or "")
        return Put(key, operation.value, content_type, expires_at(lifetime, now_ms), condition)
    except InvalidParameter as error:
        raise InvalidParameter(f"operation {number}: {error}") from None


def _condition(operation: Operation, number: int) -> Condition | None:
    try:
        return parse_condition(operation.if_match, operation.if_none_match)
    except InvalidParameter as error:
        raise InvalidParameter(f"operation {number}: {error}") from None


def _count(body: bytes, encoding: str) -> int:
    """About how many operations there are, before memory is spent on them."""
    if encoding == JSON:
        openings = sum(1 for _ in islice(_OPENING.finditer(body), _OPENINGS_MAX + 1))
        return 0 if openings <= _OPENINGS_MAX else openings
    if body[:1] == b"\xdc":
        return int.from_bytes(body[1:3])
    if body[:1] == b"\xdd":
        return int.from_bytes(body[1:5])
    return 0


def _list_head_bytes(count: int) -> int:
    """The bytes of MessagePack in front of the items of a list."""
    return 1 if count < 16 else 3 if count < 65_536 else 5


def _as_counted(sentence: str) -> str:
    """What msgspec says of a list that is too long, but counting the name of the operation too."""
    return _MOST_ITEMS.sub(lambda found: f"{found[1]}{int(found[2]) + 1}", sentence)


def _too_many() -> ValueTooLarge:
    return ValueTooLarge(f"a batch has {BATCH_OPERATIONS_MAX} operations at most")
