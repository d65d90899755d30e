"""Turns: at most one write of a key is on its way; the others wait in the order they came.

await turns.take(key)        # at once where nobody writes the key
try: ...
finally: turns.give(key)
"""

import asyncio
from collections import deque

from pulzar.errors import Unavailable
from pulzar.limits import KEY_WAITERS_MAX


class Turns:
    """The keys that are being written, and who waits for each."""

    def __init__(self) -> None:
        self._busy: dict[bytes, deque[asyncio.Future[None]] | None] = {}

    @property
    def busy(self) -> bool:
        """Whether any key is being written."""
        return bool(self._busy)

    def is_free(self, key: bytes) -> bool:
        """Whether `try_take` would succeed."""
        return key not in self._busy

    def try_take(self, key: bytes) -> bool:
        """Take the turn if nobody has it."""
        if key in self._busy:
            return False
        self._busy[key] = None
        return True

    async def take(self, key: bytes) -> None:
        """Take the turn, after everyone who came before. Raises Unavailable."""
        if self.try_take(key):
            return
        waiting = self._busy[key]
        if waiting is None:
            waiting = self._busy[key] = deque()
        if len(waiting) >= KEY_WAITERS_MAX:
            raise Unavailable(f"more than {KEY_WAITERS_MAX} writes wait for this key: try again")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # Cancelled while waiting, or just when the turn came: then it must go on.
            if turn.done() and not turn.cancelled():
                self.give(key)
            raise

    def give(self, key: bytes) -> None:
        """Give the turn to the next one that still waits."""
        waiting = self._busy[key]
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._busy[key]
