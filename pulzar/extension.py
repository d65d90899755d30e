"""What an extension may ask for: keys of the store that called it.

from pulzar import extension

def execute(arguments, params):
    value = extension.get("conf/limits.json")
    extension.put("seen/" + arguments[0], b"yes")
    return [extension.url(key) for key in extension.keys("seen/")]
"""

from collections.abc import Iterator

from pulzar.client.sync import Client
from pulzar.errors import UsageError
from pulzar.extensions import child
from pulzar.http.key_codec import key_path
from pulzar.pipes import Frame

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
