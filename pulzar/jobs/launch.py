"""What a client asks for when it launches a job: the body of the request, checked. Pure.

    {"arg1": "value1", "pulzar_retries": 2, ...}

The keys that begin with `pulzar_` are ours, and so is `scheduled`; all others are the script's.
"""

import json
import math
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import msgspec

from pulzar.errors import InvalidParameter
from pulzar.jobs.record import Policy
from pulzar.limits import (
    JOB_PRIORITY_MAX,
    JOB_RETRIES_MAX,
    JOB_TIMEOUT_S_MAX,
    JOB_TOKEN_CHARACTERS_MAX,
    KEY_BYTES_MAX,
)

OURS = "pulzar_"


class Wanted(msgspec.Struct, frozen=True):
    """A job that is asked for: the script's arguments, a JSON object as text, and how to run it;
    `scheduled` is what was said of when, as it came (schedule.py)."""

    arguments: str
    policy: Policy
    scheduled: object = None


def parse_launch(body: bytes) -> Wanted:
    """What a body asks for; nothing at all is no arguments. Raises InvalidParameter."""
    members = _object(body)
    scheduled = members.pop("scheduled", None)
    ours = {name: members.pop(name) for name in list(members) if name.startswith(OURS)}
    for name in ours:
        if name not in _READERS:
            near = get_close_matches(name, _READERS, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(_READERS)}"
            raise InvalidParameter(f"{name} is none of the keys that Pulzar reads{hint}")
    fields: dict[str, Any] = {}
    for name, value in ours.items():
        field, read = _READERS[name]
        try:
            fields[field] = read(value)
        except ValueError as error:
            raise InvalidParameter(f"{name}: {error}") from None
    if fields.get("requires_data") is not None and not fields.get("data"):
        raise InvalidParameter("pulzar_data_policy says nothing without pulzar_data")
    return Wanted(json.dumps(members), Policy(**fields), scheduled)


def check_token(text: str) -> str:
    """An Idempotency-Key. Raises InvalidParameter."""
    if not text.isprintable() or len(text) > JOB_TOKEN_CHARACTERS_MAX:
        raise InvalidParameter(
            f"an Idempotency-Key is up to {JOB_TOKEN_CHARACTERS_MAX} printable characters"
        )
    return text


def _object(body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    try:
        members = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"the body is no JSON: {error}") from None
    if not isinstance(members, dict):
        raise InvalidParameter('the body is to be a JSON object, such as {"arg1": "value1"}')
    return members


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


def _whole(least: int, most: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"give a whole number from {least} to {most}")
        return value

    return read


def _timeout(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not 0 < value <= JOB_TIMEOUT_S_MAX:
        raise ValueError(f"give seconds, more than 0 and at most {JOB_TIMEOUT_S_MAX}")
    return float(value)


def _key(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value.encode()) <= KEY_BYTES_MAX:
        raise ValueError("give a key")
    return value


def _one_of(words: tuple[str, ...]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in words:
            raise ValueError(f"give {' or '.join(words)}")
        return str(value)

    return read


def _requires(value: Any) -> bool:
    return _one_of(("prefer", "require"))(value) == "require"


_READERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "pulzar_data": ("data", _key),
    "pulzar_data_policy": ("requires_data", _requires),
    "pulzar_retries": ("retries", _whole(0, JOB_RETRIES_MAX)),
    "pulzar_timeout": ("timeout_s", _timeout),
    "pulzar_priority": ("priority", _whole(-JOB_PRIORITY_MAX, JOB_PRIORITY_MAX)),
    "pulzar_on_lost": ("on_lost", _one_of(("retry", "fail"))),
}
