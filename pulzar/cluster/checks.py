"""What a message must keep to beyond its types, before a volume or a master acts on it. Pure.

Everything here raises InvalidParameter, and nothing was changed.
"""

from collections.abc import Sequence

import msgspec

from pulzar.cluster.messages import Append, Fetch, NewRecord, Presence, Pull, UploadDone
from pulzar.errors import InvalidParameter
from pulzar.limits import (
    BATCH_RECORDS_MAX,
    BLOB_BYTES_MAX,
    EPOCH_BITS,
    EXPIRES_S_MAX,
    FETCH_KEYS_MAX,
    KEY_BYTES_MAX,
    MESSAGE_TEXT_MAX,
    META_BYTES_MAX,
    PRESENCE_DAMAGED_MAX,
    REPLICAS_MAX,
    SEGMENT_VALUE_BYTES_MAX,
    URL_BYTES_MAX,
)
from pulzar.varidb.following import FIRST_NOTE_BYTE
from pulzar.varidb.record import Type, decode_meta

FLAGS_MAX = 255
U64_MAX = (1 << 64) - 1

_KEYED = frozenset({Type.PUT, Type.BLOB, Type.DELETE, Type.MOVED})
_NOTES = frozenset({Type.EPOCH, Type.MEMBERS})
_EMPTY = frozenset({Type.DELETE, Type.MOVED})


def check_append(append: Append) -> None:
    """An append that a volume may write."""
    _check_u64("an append", append.session, append.number, append.superseded_bytes)
    check_epoch(append.epoch)
    if not 1 <= len(append.records) <= BATCH_RECORDS_MAX:
        raise InvalidParameter(f"an append has 1 to {BATCH_RECORDS_MAX} records")
    for record in append.records:
        _check_record(record)


def _check_record(record: NewRecord) -> None:
    if record.type in _KEYED:
        check_key(record.key)
    elif record.type in _NOTES:
        if record.key:
            raise InvalidParameter("a note of the log has no key")
    else:
        raise InvalidParameter(f"record type {record.type} cannot be appended")
    _check_u64("a record", record.version, record.created_ms)
    if not record.version:
        raise InvalidParameter("a record has a version")
    if not 0 <= record.expires_s <= EXPIRES_S_MAX:
        raise InvalidParameter("a record expires before the year 10000, or never")
    if len(record.value) > SEGMENT_VALUE_BYTES_MAX or len(record.meta) > META_BYTES_MAX:
        raise InvalidParameter("a record's value or meta is too large")
    if not 0 <= record.flags <= FLAGS_MAX:
        raise InvalidParameter("a record's flags are one byte")
    if record.type in _EMPTY and (record.value or record.upload):
        raise InvalidParameter("such a record has no value")
    if record.type == Type.BLOB and not record.upload:
        raise InvalidParameter("a value in a file of its own comes as an upload")
    check_text("the name of an upload", record.upload)
    if record.meta:
        try:
            decode_meta(record.meta)
        except msgspec.DecodeError as error:
            raise InvalidParameter(f"a record's meta cannot be read: {error}") from None


def check_key(key: bytes) -> None:
    """A key of users, or one of Pulzar's own."""
    if not key or len(key) > KEY_BYTES_MAX or key[0] >= FIRST_NOTE_BYTE:
        raise InvalidParameter(f"a key has 1 to {KEY_BYTES_MAX} bytes of UTF-8")
    try:
        key.decode()
    except UnicodeDecodeError:
        raise InvalidParameter("a key is UTF-8") from None


def check_epoch(epoch: int) -> None:
    """An epoch that can be promised."""
    if not 1 <= epoch < 1 << EPOCH_BITS:
        raise InvalidParameter(f"an epoch is from 1 to {(1 << EPOCH_BITS) - 1}")


def check_fetch(fetch: Fetch) -> None:
    """A fetch of a bounded number of keys."""
    if len(fetch.wanted) > FETCH_KEYS_MAX:
        raise InvalidParameter(f"a fetch is of at most {FETCH_KEYS_MAX} keys")
    for key, version in fetch.wanted:
        check_key(key)
        _check_u64("a fetch", version)


def check_pull(pull: Pull) -> None:
    """A value to be copied from another volume."""
    check_key(pull.key)
    check_url(pull.url)
    check_text("the name of an upload", pull.upload)
    _check_u64("a pull", pull.version)
    check_size(pull.size)


def check_upload_done(done: UploadDone) -> None:
    """An upload that is to get its key."""
    check_key(done.key)
    check_size(done.size)
    check_text("the name of an upload", done.upload)
    check_text("a content type", done.content_type)
    for volume in done.volumes:
        check_text("a volume's id", volume)
    if not 0 <= done.expires_s <= EXPIRES_S_MAX or not 0 <= done.replicas <= REPLICAS_MAX:
        raise InvalidParameter("an upload expires before the year 10000, and has some replicas")
    _check_u64("a condition", *(done.match or ()), *(done.none_match or ()))


def check_presence_fields(presence: Presence) -> None:
    """A volume as it may say of itself."""
    for volume_id in (presence.id, presence.cluster):
        if volume_id and not _is_id(volume_id):
            raise InvalidParameter("an id has 32 hex digits")
    if not presence.id:
        raise InvalidParameter("a volume has an id")
    for text in (presence.instance, presence.name):
        check_text("a name", text)
    check_url(presence.url)
    check_text("the reason why a volume takes no writes", presence.failed[:MESSAGE_TEXT_MAX])
    if len(presence.opening) not in (0, 16):
        raise InvalidParameter("an opening has 16 bytes")
    _check_u64(
        "a heartbeat",
        presence.generation,
        presence.entries,
        presence.seq,
        presence.total_bytes,
        presence.used_bytes,
        presence.room_bytes,
        presence.now_ms,
    )
    if not 0 <= presence.epoch < 1 << EPOCH_BITS:
        raise InvalidParameter("an epoch has 24 bits")
    if len(presence.damaged) > PRESENCE_DAMAGED_MAX:
        raise InvalidParameter(f"a heartbeat names at most {PRESENCE_DAMAGED_MAX} damaged copies")
    for key, version in presence.damaged:
        check_key(key)
        _check_u64("a version", version)


def check_size(size: int) -> None:
    """The size of a value."""
    if not 0 <= size <= BLOB_BYTES_MAX:
        raise InvalidParameter(f"a value has at most {BLOB_BYTES_MAX} bytes")


def check_url(url: str) -> None:
    """The URL of a volume."""
    if (
        len(url) > URL_BYTES_MAX
        or not url.isprintable()
        or not url.startswith(("http://", "https://"))
    ):
        raise InvalidParameter("the URL of a volume begins with http:// or https://")


def check_urls(urls: Sequence[str]) -> None:
    """The URLs of volumes."""
    for url in urls:
        check_url(url)


def check_text(what: str, text: str) -> None:
    """A short text that can be printed."""
    if len(text) > MESSAGE_TEXT_MAX or not text.isprintable():
        raise InvalidParameter(
            f"{what} has at most {MESSAGE_TEXT_MAX} characters that can be printed"
        )


def _check_u64(what: str, *numbers: int) -> None:
    for number in numbers:
        if not 0 <= number <= U64_MAX:
            raise InvalidParameter(f"{what} has a number that is out of range")


def _is_id(text: str) -> bool:
    return len(text) == 32 and all(character in "0123456789abcdef" for character in text)
