"""The Content-Type of a value: kept as it came, "" standing for the default."""

import re

from pulzar.errors import InvalidParameter
from pulzar.limits import CONTENT_TYPE_BYTES_MAX, CONTENT_TYPE_DEFAULT

_PRINTABLE = re.compile(r"[\t -~]*")


def check_content_type(text: str) -> str:
    """What to keep. Raises InvalidParameter for what no header can hold."""
    if text == CONTENT_TYPE_DEFAULT:
        return ""
    if len(text) > CONTENT_TYPE_BYTES_MAX:
        raise InvalidParameter(f"Content-Type is longer than {CONTENT_TYPE_BYTES_MAX} bytes")
    if not _PRINTABLE.fullmatch(text):
        raise InvalidParameter("Content-Type must be printable ASCII")
    return text
