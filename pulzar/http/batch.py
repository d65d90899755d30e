"""POST /batch: many puts, gets and deletes in one request. Not atomic; in order for each key.

The shape of requests and answers is drawn in `batch_wire.py`.

The memory of all batches is bounded: a body has its room before it is read, an answer before
anything is done, and until the client took it. How large an answer can be is told from the sizes of
the values. They are read a few at a time and encoded at once, so they are held only once.
"""

from bisect import bisect_left
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from pulzar.clock import Clock
from pulzar.errors import Unavailable, ValueTooLarge
from pulzar.http import batch_wire
from pulzar.http.body import body_length, read_all
from pulzar.http.patience import Patience, Room
from pulzar.http.query import parse_query
from pulzar.http.sending import send_whole
from pulzar.limits import (
    ANSWER_SMALL_BYTES,
    BATCH_ANSWER_BYTES_MAX,
    BATCH_BODIES_BYTES_MAX,
    BATCH_BODY_BYTES_MAX,
    SEGMENT_VALUE_BYTES_MAX,
)
from pulzar.varidb.entry import Delete, Get, Got, Put, Store, Written

Operations = Sequence[Put | Get | Delete]

_GETS_AT_ONCE = 16  # values held before they are encoded


class Batches:
    """Runs batches over one store. `answers` is room for answers."""

    def __init__(self, store: Store, *, clock: Clock, patience: Patience, answers: Room) -> None:
        self._store = store
        self._clock = clock
        self._patience = patience
        self._bodies = Room(BATCH_BODIES_BYTES_MAX, patience)
        self._answers = answers

    async def post(self, scope: Scope, receive: Receive, send: Send) -> None:
        """POST /batch. Raises UsageError: then nothing of the batch was done."""
        encoding = batch_wire.media_type(Request(scope).headers.get("content-type", ""))
        parse_query(scope["query_string"], ())
        length = body_length(dict(scope["headers"]))
        if length is not None and length > BATCH_BODY_BYTES_MAX:
            raise ValueTooLarge(f"the batch has {length} bytes; {BATCH_BODY_BYTES_MAX} are allowed")
        async with AsyncExitStack() as held:
            # Who holds room for a body may wait for that of its answer, never the other way.
            async with self._bodies.taken(BATCH_BODY_BYTES_MAX if length is None else length):
                body = await read_all(
                    scope,
                    receive,
                    length,
                    bytes_max=BATCH_BODY_BYTES_MAX,
                    patience=self._patience,
                )
                asked = batch_wire.decode(body, encoding)
                del body
                operations = batch_wire.store_operations(asked, now_ms=self._clock.now_ms())
                del asked
                values_bytes, left_out = self._measure(operations)
                answer_bytes = batch_wire.answer_bytes(len(operations), values_bytes, encoding)
                if answer_bytes > ANSWER_SMALL_BYTES:
                    await held.enter_async_context(self._answers.taken(answer_bytes))
                parts = [
                    batch_wire.encode(batch_wire.results_of(group, done), encoding)
                    async for group, done in self._run(operations, values_bytes, left_out)
                ]
                count = len(operations)
                del operations
            pieces = batch_wire.framed(parts, count, encoding)
            del parts
            await send_whole(receive, send, encoding, pieces, self._patience)

    def _measure(self, operations: Operations) -> tuple[int, list[int]]:
        """How many bytes the values of the answer have, at most; and the numbers, ascending, of
        the gets that find no room in it. Others may make a value larger before it is read."""
        lookup = self._store.lookup
        sizes: dict[bytes, int] = {}
        left_out: list[int] = []
        total = 0
        for number, one in enumerate(operations):
            if isinstance(one, Put):
                sizes[one.key] = max(len(one.value), sizes.get(one.key, 0))
            elif isinstance(one, Get):
                entry = lookup(one.key)
                size = 0 if entry is None else entry.size
                if sizes:
                    size = max(size, sizes.get(one.key, 0))
                if size > SEGMENT_VALUE_BYTES_MAX:
                    continue  # is refused
                if total + size > BATCH_ANSWER_BYTES_MAX:
                    left_out.append(number)
                else:
                    total += size
        return total, left_out

    async def _run(
        self, operations: Operations, values_bytes: int, left_out: list[int]
    ) -> AsyncIterator[tuple[Operations, list[Written | Got | Exception]]]:
        """The operations in groups, with their results; values of `values_bytes` at most."""
        left = values_bytes
        for begin, end in _groups(operations):
            group = operations[begin:end]
            out = left_out[bisect_left(left_out, begin) : bisect_left(left_out, end)]
            asked = [one for at, one in enumerate(group, begin) if at not in out] if out else group
            results = list(await self._store.batch(asked))
            for number in out:
                results.insert(number - begin, batch_wire.answer_too_large())
            for at, result in enumerate(results):
                if isinstance(result, Got):
                    left -= len(result.value)
                    if left < 0:
                        left += len(result.value)
                        results[at] = Unavailable("other values came meanwhile: get it again")
            yield group, results


def _groups(operations: Operations) -> Iterator[tuple[int, int]]:
    """Where groups of operations begin and end: each has _GETS_AT_ONCE gets at most. A group ends
    before a get, where writes are committed anyway."""
    begin = gets = 0
    for number, one in enumerate(operations):
        if isinstance(one, Get):
            if gets == _GETS_AT_ONCE:
                yield begin, number
                begin, gets = number, 0
            gets += 1
    if begin < len(operations):
        yield begin, len(operations)
