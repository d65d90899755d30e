"""The seam to time: the only module that reads a clock.

Everything that needs the time is given a `Clock`; tests give `pulzar.testing.ManualClock`.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time for what users see, monotonic time for durations."""

    def now_ms(self) -> int:
        """Milliseconds since 1970, UTC. May step in either direction."""

    def monotonic_s(self) -> float:
        """Seconds that only grow, from an arbitrary origin."""


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()
