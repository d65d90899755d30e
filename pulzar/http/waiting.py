"""GET /get_key/{key}?wait=60s: an answer that waits until there is something new to say.

    the key is there, and If-None-Match names its version  -> wait
    the key is not there, and no ETag is named             -> wait
    else, or when something has happened to the key        -> look again

When the time is up, the answer is what it would have been without waiting: 304, or 404. `""`, which
curl sends with its first --etag-compare, names no ETag.
"""

import asyncio

from starlette.types import Receive

from pulzar.errors import NotReady
from pulzar.http.conditions import ReadConditions
from pulzar.http.sending import until_gone
from pulzar.varidb.entry import Values
from pulzar.varidb.feed import Feed


async def wait_for_news(
    store: Values, feed: Feed, receive: Receive, key: bytes, asked: ReadConditions, wait_s: int
) -> bool:
    """Return when there is something new to say of a key, or the time is up: whether the client is
    still there.

    Raises Unavailable, NotReady where the server stops, and what a look at the key raises.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    gone = asyncio.ensure_future(until_gone(receive))
    try:
        while True:
            news = feed.wait(key)
            try:
                if await _has_news(store, key, asked):
                    return True
                left_s = deadline - loop.time()
                await asyncio.wait(
                    (news, gone), timeout=left_s, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                feed.unwait(key, news)
            if feed.closed:
                raise NotReady("the server is stopping: ask again")
            if gone.done() or not news.done():
                return not gone.done()
    finally:
        gone.cancel()


async def _has_news(store: Values, key: bytes, asked: ReadConditions) -> bool:
    entry = store.lookup(key)
    if entry is not None and entry.expires_s:
        entry = await store.confirm(key, entry)
    if entry is None:
        tags = asked.tags
        return tags is not None and bool(tags.none_match or tags.none_match_any)
    return asked.status(entry.version, entry.created_ms) != 304
