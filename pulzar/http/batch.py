"""POST /batch: many puts, gets and deletes in one request. Not atomic; in order for each key.

The shape of requests and answers is drawn in `batch_wire.py`.
"""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from pulzar.clock import Clock
from pulzar.errors import ValueTooLarge
from pulzar.http import batch_wire
from pulzar.http.body import body_length, read_all
from pulzar.http.patience import Patience, Room
from pulzar.http.query import parse_query
from pulzar.limits import (
    BATCH_ANSWER_BYTES_MAX,
    BATCH_BODIES_BYTES_MAX,
    BATCH_BODY_BYTES_MAX,
    SEGMENT_VALUE_BYTES_MAX,
)
from pulzar.varidb.entry import Delete, Get, Got, Put, Store, Written


class Batches:
    """Runs batches over one store."""

    def __init__(self, store: Store, *, clock: Clock, patience: Patience) -> None:
        self._store = store
        self._clock = clock
        self._patience = patience
        self._room = Room(BATCH_BODIES_BYTES_MAX)

    async def post(self, request: Request) -> Response:
        """POST /batch. Raises UsageError: then nothing of the batch was done."""
        scope = request.scope
        encoding = batch_wire.media_type(request.headers.get("content-type", ""))
        parse_query(scope["query_string"], ())
        length = body_length(dict(scope["headers"]))
        if length is not None and length > BATCH_BODY_BYTES_MAX:
            raise ValueTooLarge(f"the batch has {length} bytes; {BATCH_BODY_BYTES_MAX} are allowed")
        async with self._room.taken(BATCH_BODY_BYTES_MAX if length is None else length):
            body = await read_all(
                scope,
                request.receive,
                length,
                bytes_max=BATCH_BODY_BYTES_MAX,
                patience=self._patience,
            )
            asked = batch_wire.decode(body, encoding)
            del body
            operations = batch_wire.store_operations(asked, now_ms=self._clock.now_ms())
            del asked
            results = batch_wire.results_of(operations, await self._run(operations))
            return Response(batch_wire.encode(results, encoding), media_type=encoding)

    async def _run(
        self, operations: Sequence[Put | Get | Delete]
    ) -> Sequence[Written | Got | Exception]:
        """The results of the store, gets that would make the answer too large left out."""
        left_out = self._left_out(operations)
        if not left_out:
            return await self._store.batch(operations)
        rest = [one for number, one in enumerate(operations) if number not in left_out]
        done = iter(await self._store.batch(rest))
        return [
            batch_wire.answer_too_large() if number in left_out else next(done)
            for number in range(len(operations))
        ]

    def _left_out(self, operations: Sequence[Put | Get | Delete]) -> set[int]:
        """The numbers of the gets behind the one that fills the answer, as far as sizes can be
        told before. So memory is bounded; the exact count is made when the answer is built."""
        gets = sum(1 for one in operations if isinstance(one, Get))
        if gets * SEGMENT_VALUE_BYTES_MAX <= BATCH_ANSWER_BYTES_MAX:
            return set()
        sizes: dict[bytes, int] = {}
        left_out: set[int] = set()
        total = 0
        for number, one in enumerate(operations):
            if isinstance(one, Put):
                sizes[one.key] = max(len(one.value), sizes.get(one.key, 0))
            elif isinstance(one, Get):
                entry = self._store.lookup(one.key)
                size = max(0 if entry is None else entry.size, sizes.get(one.key, 0))
                total += size if size <= SEGMENT_VALUE_BYTES_MAX else 0
                if total > BATCH_ANSWER_BYTES_MAX:
                    left_out.add(number)
        return left_out
