"""A master looks for volumes itself, where it knows of an address, instead of waiting for a word.

at its start    every member, where it was last: so it need not wait for the next heartbeat
when it is told a volume that has the keys of a lost master (the users' "restauration")
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlsplit

from pulzar.cluster.link import Link
from pulzar.cluster.messages import Presence, Welcome
from pulzar.errors import PulzarError

_log = logging.getLogger(__name__)


async def look_at(
    url: str,
    *,
    connect: Callable[[str], Link],
    heartbeat: Callable[[Presence, str], Awaitable[Welcome]],
    wanted: str = "",
) -> None:
    """Take what a volume says of itself for a heartbeat, if it is the `wanted` one. Raises
    LinkBroken, MemberRefused, Forbidden."""
    presence = await connect(url).hello()
    if wanted in ("", presence.id):
        await heartbeat(presence, urlsplit(url).hostname or "")


async def greet(
    urls: Mapping[str, str],
    *,
    connect: Callable[[str], Link],
    heartbeat: Callable[[Presence, str], Awaitable[Welcome]],
) -> None:
    """Look at the volumes that were met at those URLs, by id. Who does not answer, or is not
    wanted, is waited for."""

    async def greet_one(volume_id: str, url: str) -> None:
        try:
            await look_at(url, connect=connect, heartbeat=heartbeat, wanted=volume_id)
        except PulzarError as error:
            _log.debug("volume %s at %s: %s", volume_id, url, error)

    await asyncio.gather(*(greet_one(volume_id, url) for volume_id, url in urls.items()))
