"""What an operator asks of a cluster over HTTP: /admin/network, /admin/cluster, /admin/health,
/admin/restore.

/admin/network shows exactly the fields of the specification; /admin/cluster everything.
"""

import re
from collections.abc import Callable

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from pulzar.cluster.operations import Operable
from pulzar.errors import InvalidParameter
from pulzar.http.application import Paths
from pulzar.http.body import body_length, read_all
from pulzar.http.key_codec import decode_key
from pulzar.http.patience import Patience
from pulzar.http.query import parse_query
from pulzar.limits import RESTORE_BODY_BYTES_MAX
from pulzar.setting_kinds import parse_url

PATHS: Paths = {
    "/admin/network": (("GET", "HEAD"), "admin"),
    "/admin/network/{node_id}": (("GET", "HEAD"), "admin"),
    "/admin/cluster": (("GET", "HEAD"), "admin"),
    "/admin/cluster/drain/{node_id}": (("POST",), "admin"),
    "/admin/cluster/remove/{node_id}": (("POST",), "admin"),
    "/admin/health": (("GET", "HEAD"), "admin"),
    "/admin/restore": (("GET", "HEAD", "POST"), "admin"),
}
VOLUME_PORT_DEFAULT = 9001


class Seen(msgspec.Struct, frozen=True):
    """A node as the specification shows it."""

    node: str
    percent: int
    synch: bool


class _Restore(msgspec.Struct, forbid_unknown_fields=True):
    volume: str


class ClusterAdmin:
    """The endpoints of one master."""

    def __init__(self, operations: Callable[[], Operable], *, patience: Patience) -> None:
        """`operations` gives what is operated on at that time."""
        self._find = operations
        self._patience = patience
        self.endpoints: dict[str, ASGIApp] = {
            "/admin/network": self._network,
            "/admin/network/{node_id}": self._node,
            "/admin/cluster": self._cluster,
            "/admin/cluster/drain/{node_id}": self._drain,
            "/admin/cluster/remove/{node_id}": self._remove,
            "/admin/health": self._health,
            "/admin/restore": self._restore,
        }

    @property
    def _operations(self) -> Operable:
        return self._find()

    async def _network(self, scope: Scope, _receive: Receive, send: Send) -> None:
        parse_query(scope["query_string"], ())
        nodes = self._operations.nodes()
        await _send(scope, send, [Seen(node.node, node.percent, node.synch) for node in nodes])

    async def _node(self, scope: Scope, _receive: Receive, send: Send) -> None:
        parse_query(scope["query_string"], ())
        node = self._operations.node(_name(scope, "/admin/network/"))
        await _send(scope, send, Seen(node.node, node.percent, node.synch))

    async def _cluster(self, scope: Scope, _receive: Receive, send: Send) -> None:
        parse_query(scope["query_string"], ())
        operations = self._operations
        await _send(scope, send, {"nodes": operations.nodes(), "health": operations.health()})

    async def _health(self, scope: Scope, _receive: Receive, send: Send) -> None:
        parse_query(scope["query_string"], ())
        await _send(scope, send, self._operations.health())

    async def _drain(self, scope: Scope, _receive: Receive, send: Send) -> None:
        asked = parse_query(scope["query_string"], ("dry_run", "stop"))
        name = _name(scope, "/admin/cluster/drain/")
        stop, dry_run = _flag(asked, "stop"), _flag(asked, "dry_run")
        done = await self._operations.drain(name, stop=stop, dry_run=dry_run)
        await _send(scope, send, done)

    async def _remove(self, scope: Scope, _receive: Receive, send: Send) -> None:
        asked = parse_query(scope["query_string"], ("dry_run", "lost"))
        name = _name(scope, "/admin/cluster/remove/")
        lost, dry_run = _flag(asked, "lost"), _flag(asked, "dry_run")
        await _send(scope, send, await self._operations.remove(name, lost=lost, dry_run=dry_run))

    async def _restore(self, scope: Scope, receive: Receive, send: Send) -> None:
        parse_query(scope["query_string"], ())
        if scope["method"] != "POST":
            await _send(scope, send, self._operations.progress())
            return
        length = body_length(dict(scope["headers"]))
        content = await read_all(
            scope, receive, length, bytes_max=RESTORE_BODY_BYTES_MAX, patience=self._patience
        )
        try:
            volume = msgspec.json.decode(content, type=_Restore).volume
            url = volume_url(volume)
        except (msgspec.DecodeError, ValueError) as error:
            raise InvalidParameter(
                f'the body is to be {{"volume": "host, host:port or URL"}}: {error}'
            ) from None
        await _send(scope, send, await self._operations.restore(url))


def volume_url(text: str) -> str:
    """The URL of a volume, of which the port may be missing. Raises ValueError."""
    if "://" not in text and not re.search(r":[0-9]+$", text):
        text = f"{text}:{VOLUME_PORT_DEFAULT}"
    url = parse_url(text)
    if not url:
        raise ValueError("give host, host:port or URL")
    return url


def _name(scope: Scope, path: str) -> str:
    return decode_key(scope["raw_path"][len(path) :]).decode()


def _flag(asked: dict[str, str], name: str) -> bool:
    value = asked.get(name, "0")
    if value not in ("0", "1"):
        raise InvalidParameter(f"{name} must be 0 or 1")
    return value == "1"


async def _send(scope: Scope, send: Send, value: object) -> None:
    body = msgspec.json.encode(value)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
