"""Work in a thread that is waited for to its end.

A thread cannot be cancelled. One that writes to a file goes on when whoever waits for it is
cancelled, and if the file were closed then, its number might be another file's by the time of the
next write.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def to_its_end(work: Callable[[], T]) -> T:
    """What `work` gives, in a thread. Who is cancelled meanwhile is so when the work has ended."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        running.exception()  # nobody else asks
        raise
