"""How keys and cursors are written in the URLs between machines. Pure."""

import base64
import binascii
import re

from pulzar.errors import InvalidParameter
from pulzar.limits import KEY_BYTES_MAX
from pulzar.varidb.position import NOWHERE, Cursor

_BASE64 = re.compile(r"[A-Za-z0-9_-]*={0,2}")
_CURSOR = re.compile(r"([0-9a-f]{32})\.([0-9]{1,20})")


def cursor_text(cursor: Cursor) -> str:
    """A cursor: the hex of its opening, a dot, its seq; empty for NOWHERE."""
    return "" if cursor == NOWHERE else f"{cursor.opening.hex()}.{cursor.seq}"


def parse_cursor(text: str) -> Cursor:
    """The cursor in a text. Raises InvalidParameter."""
    if not text:
        return NOWHERE
    found = _CURSOR.fullmatch(text)
    if not found or int(found[2]) >= 1 << 64:
        raise InvalidParameter("a cursor is the hex of an opening, a dot, and a seq")
    return Cursor(bytes.fromhex(found[1]), int(found[2]))


def key_text(key: bytes) -> str:
    """A key in URL-safe base64."""
    return base64.urlsafe_b64encode(key).decode()


def parse_key(text: str) -> bytes:
    """The key in a text; it may be empty. Raises InvalidParameter."""
    if not _BASE64.fullmatch(text):
        raise InvalidParameter("a key is URL-safe base64")
    try:
        key = base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
    except binascii.Error:
        raise InvalidParameter("a key is URL-safe base64") from None
    if len(key) > KEY_BYTES_MAX + 1:
        raise InvalidParameter(f"a key has at most {KEY_BYTES_MAX} bytes")
    return key
