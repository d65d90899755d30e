"""Many operations in one: runs of writes go to the writer together, runs of reads are read at once.

The order of the operations is kept between the runs: a read sees the writes before it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby

from pulzar.errors import ConditionFailed, KeyNotFound, PulzarError, ValueTooLarge
from pulzar.limits import SEGMENT_VALUE_BYTES_MAX
from pulzar.varidb.entry import Delete, Get, Got, Put, Store, Written

Many = Callable[[Sequence[Put | Delete]], Awaitable[list[Written | PulzarError]]]


async def run_batch(
    store: Store, many: Many, operations: Sequence[Put | Delete | Get]
) -> list[Written | Got | Exception]:
    """The results of the operations, in their order; errors are results. See `Store.batch`."""
    results: list[Written | Got | Exception] = []
    for _, run in groupby(operations, key=lambda operation: isinstance(operation, Get)):
        gets: list[Get] = []
        writes: list[Put | Delete] = []
        for operation in run:
            if isinstance(operation, Get):
                gets.append(operation)
            else:
                writes.append(operation)
        if writes:
            results.extend(await many(writes))
        else:
            results.extend(await asyncio.gather(*(_result(store, get) for get in gets)))
    return results


async def _result(store: Store, get: Get) -> Got | PulzarError:
    try:
        return await _got(store, get)
    except PulzarError as error:
        return error


async def _got(store: Store, get: Get) -> Got:
    entry = store.lookup(get.key)
    if entry is not None and entry.expires_s:
        entry = await store.confirm(get.key, entry)
    if entry is None:
        raise KeyNotFound("there is no such key")
    if get.condition is not None and not get.condition.holds(entry.version):
        raise ConditionFailed(f'the key is at version "{entry.version:016x}"')
    if entry.size > SEGMENT_VALUE_BYTES_MAX:
        raise ValueTooLarge("the value is too large for a batch: read it by GET")
    entry = await store.complete(get.key, entry)
    return Got(entry, await store.read(get.key, entry))
