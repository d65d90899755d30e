"""The messages between a master and its volumes, and their bytes. No I/O.

A message is one msgpack array: its fields in the order in which they stand here. A field may be
added at the end, with a default; none may be moved or taken away without a new PROTOCOL.
tests/golden/ pins the bytes. Keys, values and openings are bytes, ids are hex text, times are
milliseconds since 1970, sizes are bytes.

    volume -> master   POST /skynet/heartbeat          Presence      -> Welcome
                       POST /skynet/upload             UploadWanted  -> UploadPlan
                       POST /skynet/commit             UploadDone    -> Committed
    master -> volume   GET  /autodiscovery/hello                     -> Presence
                       GET  /autodiscovery/alive                     -> Presence
                       POST /autodiscovery/session     SessionWanted -> SessionOpened
                       POST /autodiscovery/append      Append        -> Appended
                       POST /autodiscovery/fetch       Fetch         -> Fetched
                       GET  /autodiscovery/log                       -> LogPage
                       GET  /autodiscovery/snapshot                  -> SnapshotPage
                       GET  /autodiscovery/digests                   -> DigestPage
                       GET  /autodiscovery/value                     the bytes
                       POST /autodiscovery/pull        Pull          -> Staged
                       POST /autodiscovery/compact                   -> Compacted
                       PUT  /autodiscovery/upload/{id} the bytes     -> Staged
"""

from typing import Any, TypeVar

import msgspec

from pulzar.errors import InvalidParameter

T = TypeVar("T", bound="Message")

PROTOCOL = 1
MEDIA_TYPE = "application/vnd.pulzar.msgpack"


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The base of all messages."""


class Presence(Message, frozen=True, kw_only=True):
    """A volume, as it says of itself.

    `instance` is another one at each start of its program. `cluster` is "" while it was never a
    member of one. `generation` is that of the newest list of members it knows, `epoch` the largest
    it promised, `entries` how many keys its index has, deletes included. (`opening`, `seq`) is the
    head of its log. `room_bytes` is what values may still take, `failed` why it takes no writes.
    `members` is the value of its newest MEMBERS record, where the master may not know it. `damaged`
    are some of the copies, by key and version, that its scrub found damaged.
    """

    protocol: int
    id: str
    instance: str
    name: str
    url: str
    cluster: str
    generation: int
    epoch: int
    entries: int
    opening: bytes
    seq: int
    total_bytes: int
    used_bytes: int
    room_bytes: int
    now_ms: int
    failed: str = ""
    members: bytes = b""
    damaged: list[tuple[bytes, int]] = []


class Welcome(Message, frozen=True, kw_only=True):
    """A master's answer to a heartbeat."""

    protocol: int
    cluster: str
    generation: int
    epoch: int
    now_ms: int
    state: str


class SessionWanted(Message, frozen=True):
    """From now on only appends of this session count. `master` (16 bytes) is another one at each
    start of a master's program: an epoch is promised to one of them, and to nobody else."""

    epoch: int
    session: int
    master: bytes


class SessionOpened(Message, frozen=True):
    """The head of the log behind everything that earlier sessions wrote; `members` is the value of
    the newest MEMBERS record, empty where there is none. `failed` says why nothing was promised and
    no append will be taken: then it is not known what became of the last ones."""

    opening: bytes
    seq: int
    members: bytes
    failed: str = ""


class NewRecord(Message, frozen=True):
    """A record to append. `upload` names bytes that the volume has already, in place of `value`;
    `flags` are those of the record (record.py)."""

    type: int
    key: bytes
    value: bytes
    meta: bytes
    version: int
    created_ms: int
    expires_s: int
    upload: str = ""
    flags: int = 0


class Append(Message, frozen=True):
    """Append number `number` of a session, counted from 0: all of its records, in their order.
    `superseded_bytes` is what they replace on that volume."""

    epoch: int
    session: int
    number: int
    records: list[NewRecord]
    superseded_bytes: int = 0


class Appended(Message, frozen=True):
    """They are durable, and the log's head is at or behind this place."""

    opening: bytes
    seq: int


class Fetch(Message, frozen=True):
    """Keys at their versions. `verify`: answer FOUND only when every byte was read; else large
    values are not read."""

    wanted: list[tuple[bytes, int]]
    verify: bool = False


FOUND, NOT_HERE, DAMAGED = 0, 1, 2


class Found(Message, frozen=True):
    """What a volume has of a key at a version. `status` is FOUND, NOT_HERE or DAMAGED; of a value
    over SEGMENT_VALUE_BYTES_MAX there is only the meta."""

    status: int
    meta: bytes = b""
    value: bytes = b""


class Fetched(Message, frozen=True):
    """An answer for each of what was wanted, in that order."""

    found: list[Found]


class LogRecord(Message, frozen=True):
    """A keyed record of a log. `inline`: the value where it is small, else None. `complete` is
    False where the record's body is damaged: then `meta` and `inline` are not known."""

    key: bytes
    type: int
    version: int
    seq: int
    size: int
    created_ms: int
    expires_s: int
    meta: bytes = b""
    inline: bytes | None = None
    complete: bool = True
    flags: int = 0


class LogPage(Message, frozen=True):
    """Records behind a cursor, and the cursor behind them; `head` is the seq of the log's head."""

    opening: bytes
    seq: int
    head: int
    records: list[LogRecord]


class SnapshotPage(Message, frozen=True):
    """Rows of a volume's index in the order of their keys; `entries` are those of position.py, one
    behind the other. (`opening`, `seq`) was the head before the page was read. None is the last."""

    opening: bytes
    seq: int
    total: int
    keys: list[bytes]
    entries: bytes


class Digest(Message, frozen=True):
    """What a volume holds up to `last`, from behind the range before: live keys, and the sum over
    them of a hash of key and version."""

    last: bytes
    count: int
    sum: int


class DigestPage(Message, frozen=True):
    """Ranges in the order of their keys; none behind the last key."""

    ranges: list[Digest]


class Pull(Message, frozen=True):
    """Get the value of a key at a version from another volume, and keep it as an upload."""

    url: str
    key: bytes
    version: int
    size: int
    upload: str


class Staged(Message, frozen=True):
    """The bytes of an upload are durable on these volumes (ids), which give them no key yet."""

    upload: str
    size: int
    volumes: list[str]


class Compacted(Message, frozen=True):
    """What a compaction did; see `Store.compact`."""

    counts: dict[str, int]


class UploadWanted(Message, frozen=True):
    """A volume was asked to take a large value. `size` is -1 where it was not announced."""

    volume: str
    size: int
    replicas: int


class UploadPlan(Message, frozen=True):
    """The upload's id, and the URLs of the volumes that are to have the other copies."""

    upload: str
    peers: list[str]


class UploadDone(Message, frozen=True, kw_only=True):
    """Give an upload its key. The condition is that of condition.py, None where there is none."""

    upload: str
    key: bytes
    size: int
    volumes: list[str]
    content_type: str
    expires_s: int
    replicas: int
    match: tuple[int, ...] | None = None
    match_any: bool = False
    none_match: tuple[int, ...] | None = None
    none_match_any: bool = False


class Committed(Message, frozen=True):
    """What the write did; see `entry.Written`."""

    version: int
    size: int
    expires_s: int
    copies: int
    wanted: int
    created: bool


_encoder = msgspec.msgpack.Encoder()
_decoders: dict[type[Message], Any] = {}


def encode(message: Message) -> bytes:
    """The bytes of a message."""
    return _encoder.encode(message)


def decode(kind: type[T], content: bytes) -> T:
    """The message of that kind in `content`. Raises InvalidParameter."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    try:
        message: T = decoder.decode(content)
    except (msgspec.DecodeError, ValueError) as error:
        raise InvalidParameter(f"this is no {kind.__name__}: {error}") from None
    return message
