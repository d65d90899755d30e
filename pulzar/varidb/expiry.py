"""Makes the DELETE of what has expired durable, also where nobody reads it.

A key is gone for readers at the second when it expires (`Store.confirm`); this is what gives the
space back. A DELETE is written by the master like any other.
"""

import asyncio
import logging

from pulzar.clock import Clock
from pulzar.errors import PulzarError, ViewBroken
from pulzar.limits import EXPIRE_KEYS_MAX
from pulzar.varidb.catalog import Catalog
from pulzar.varidb.writer import Writer

_log = logging.getLogger(__name__)


async def expire(catalog: Catalog, writer: Writer, clock: Clock) -> None:
    """Delete what has expired, until it is cancelled."""
    while True:
        now_s = clock.now_ms() // 1000
        try:
            expired = catalog.expired(now_s, EXPIRE_KEYS_MAX)
        except ViewBroken as error:  # whoever reads next makes it anew
            _log.warning("the expired keys are not known: %s", error)
            expired = []
        writes = [writer.expire(key, version) for key, version in expired]
        results = await asyncio.gather(*writes, return_exceptions=True)
        failed = next((one for one in results if isinstance(one, PulzarError)), None)
        if failed is not None:
            _log.warning("an expired key could not be deleted: %s", failed)
        if failed is not None or len(expired) < EXPIRE_KEYS_MAX:
            await asyncio.sleep(1)
