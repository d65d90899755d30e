"""What an extension may ask for: keys of the store that called it.

from pulzar import extension

def execute(arguments, params):
    value = extension.get("conf/limits.json")
    extension.put("seen/" + arguments[0], b"yes")
    return [extension.url(key) for key in extension.keys("seen/")]
"""

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlencode

from pulzar.client.sync import Client
from pulzar.errors import UsageError
from pulzar.extensions import child
from pulzar.extensions.child import BadInput
from pulzar.extensions.scan import scan
from pulzar.http.key_codec import key_path
from pulzar.limits import LIST_LIMIT_MAX, STAT_KEYS_MAX
from pulzar.pipes import Frame

__all__ = ["BadInput", "client", "created", "delete", "find", "get", "keys", "put", "stat", "url"]

_clients: dict[str, Client] = {}


def get(key: str) -> bytes:
    """The value of a key. Raises KeyNotFound, and as every call the errors of the store."""
    return client().get(key)


def put(key: str, value: bytes | str) -> None:
    """Give a key a value. It is durable when this returns."""
    client().put(key, value.encode() if isinstance(value, str) else value)


def delete(key: str) -> None:
    """Delete a key. That is durable when this returns. Raises KeyNotFound."""
    client().delete(key)


def keys(prefix: str = "") -> Iterator[str]:
    """Every key under a prefix, in the order of their bytes."""
    return (listed.key for listed in client().list_keys(prefix))


def find(text: str, *, after: str = "") -> Iterator[str]:
    """Every key that contains a text, strictly behind `after`, in the order of their bytes. Keys
    that were deleted may be among them: `stat` knows. No write that was acknowledged is missed."""
    while True:
        names = client().ask("GET", "/admin/search")
        found = scan(
            names["path"],
            text.encode(),
            sorted_bytes=names["sorted_bytes"],
            size=names["bytes"],
            after=after.encode(),
        )
        try:
            first = next(found, None)
        except FileNotFoundError:  # it was made anew meanwhile
            continue
        break
    if first is not None:
        yield first.decode()
        for key in found:
            yield key.decode()


def created(from_ms: int, before_ms: int) -> Iterator[tuple[int, str]]:
    """Keys created in that time (milliseconds since 1970), as (ms, key) in that order."""
    query = {"from": from_ms, "before": before_ms, "limit": LIST_LIMIT_MAX}
    while True:
        page = client().ask("GET", f"/created_keys?{urlencode(query)}")
        yield from ((ms, key) for ms, key in page["keys"])
        if page["next"] is None:
            return
        query["after"] = page["next"]


def stat(keys: Sequence[str]) -> list[dict[str, Any]]:
    """What is known of those of some keys that are there, as /list_keys/ shows it."""
    found: list[dict[str, Any]] = []
    for start in range(0, len(keys), STAT_KEYS_MAX):
        part = list(keys[start : start + STAT_KEYS_MAX])
        found += client().ask("POST", "/stat_keys", {"keys": part})["keys"]
    return found


def url(key: str) -> str:
    """The URL at which whoever called this extension reads a key."""
    return f"{_call()['base']}/get_key/{key_path(key.encode())}"


def client() -> Client:
    """A client of the store, for everything else: conditions, large values, batches. It stays open
    from call to call; do not close it."""
    master = _call()["master"]
    if master not in _clients:
        _clients[master] = Client(master)
    return _clients[master]


def _call() -> Frame:
    if child.current is None:
        raise UsageError("this is no extension: call it by /third_party/NAME/")
    return child.current
