"""Keys in URLs: percent-decoded once, then checked; and back into a URL.

A key is 1 to KEY_BYTES_MAX bytes of UTF-8 without control characters (Unicode category Cc).
Nothing is folded: `a//b`, `a/../b` and `.` are keys as they stand, and `+` is a plus sign.
"""

import re
from urllib.parse import quote, unquote_to_bytes

from pulzar.errors import InvalidKey
from pulzar.limits import KEY_BYTES_MAX

# Printable ASCII that stands for itself in a URL's path and in a JSON string: no % " or \.
PLAIN_KEY = re.compile(rb"[!#$&-\[\]-~]{1,%d}" % KEY_BYTES_MAX)

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2}).{0,2}", re.DOTALL)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_DOTS = re.compile(r"(?<=/)\.{1,2}(?=/|$)")
_PATH_SAFE = "/!$&'()*+,;=:@"


def decode_key(raw: bytes) -> bytes:
    """The key in the path of a URL. Raises InvalidKey."""
    return check_key(_decode(raw)).encode()


def decode_prefix(raw: bytes) -> bytes:
    """The beginning of a key in the path of a URL; it may be empty. Raises InvalidKey."""
    return check_key(_decode(raw)).encode() if raw else b""


def check_key(key: str) -> str:
    """The key itself. Raises InvalidKey."""
    if not key:
        raise InvalidKey("the key is empty")
    control = _CONTROL.search(key)
    if control:
        raise InvalidKey(f"the key has a control character, U+{ord(control[0]):04X}")
    length = len(key.encode())
    if length > KEY_BYTES_MAX:
        raise InvalidKey(f"the key has {length} bytes; {KEY_BYTES_MAX} are allowed")
    return key


def check_keys(keys: list[str]) -> list[bytes]:
    """Many keys, encoded. Raises InvalidKey that tells the number of the first bad one."""
    encoded = [key.encode() for key in keys]
    short = all(encoded) and max(map(len, encoded), default=0) <= KEY_BYTES_MAX
    if short and not _CONTROL.search("".join(keys)):
        return encoded
    for number, key in enumerate(keys):
        try:
            check_key(key)
        except InvalidKey as error:
            raise InvalidKey(f"operation {number}: {error}") from None
    return encoded


def key_path(key: bytes) -> str:
    """The key for the path of a URL that a client may follow.

    Segments of dots are encoded too: HTTP libraries would fold them away.
    """
    encoded = quote(key, safe=_PATH_SAFE)
    return _DOTS.sub(lambda dots: "%2E" * len(dots[0]), "/" + encoded)[1:]


def _decode(raw: bytes) -> str:
    bad = _BAD_ESCAPE.search(raw)
    if bad:
        raise InvalidKey(
            f"{bad[0].decode('latin-1')!r} in the key is no percent-encoding; write % itself as %25"
        )
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError as error:
        raise InvalidKey(f"the key is not UTF-8: {error.reason}") from None
