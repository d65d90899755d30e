"""Watching a prefix from afar: every change, also over lost connections and restarts.

The connection is made again as often as it is lost, from the last event on. The server says
something at least every 15 seconds, so silence means that it has gone.
"""

import json
import threading
from collections.abc import Iterator
from typing import Any

from pulzar.client import requests
from pulzar.client.sync import Client
from pulzar.errors import Unavailable

AGAIN_S = 0.5  # before a lost connection is made again
LINES_TYPE = "application/x-ndjson"


def watch(client: Client, prefix: str, *, after: str = "") -> Iterator[dict[str, Any]]:
    """What happens to the keys under a prefix, as GET /watch/ tells it (docs/http-api.md), from the
    event with the id `after` on, or from now on. Never ends.

    Raises Unavailable where nothing answers at the beginning, InvalidKey, InvalidParameter.
    """
    pause = threading.Event()
    while True:
        try:
            for event in _events(client, prefix, after):
                after = event["id"]
                yield event
        except Unavailable:
            if not after:
                raise
        pause.wait(AGAIN_S)


def _events(client: Client, prefix: str, after: str) -> Iterator[dict[str, Any]]:
    """The events of one connection."""
    rest = b""
    path = requests.watch_path(prefix, after)
    for piece in client.text(path, accept=LINES_TYPE, patient=False):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line:
                event: dict[str, Any] = json.loads(line)
                yield event
