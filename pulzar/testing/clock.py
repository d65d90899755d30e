"""A clock that moves only when a test says so."""


class ManualClock:
    """A `pulzar.clock.Clock`. Wall time may be stepped either way; monotonic time only grows."""

    def __init__(self, *, now_ms: int = 1_700_000_000_000, monotonic_s: float = 0.0) -> None:
        self._wall_ns = now_ms * 1_000_000  # whole nanoseconds: small advances add up exactly
        self._monotonic_ns = round(monotonic_s * 1e9)

    def now_ms(self) -> int:
        return self._wall_ns // 1_000_000

    def monotonic_s(self) -> float:
        return self._monotonic_ns / 1e9

    def advance(self, seconds: float) -> None:
        """Let time pass: both clocks move on."""
        if seconds < 0:
            raise ValueError("time does not go back; use step_wall() to set the wall clock")
        passed_ns = round(seconds * 1e9)
        self._wall_ns += passed_ns
        self._monotonic_ns += passed_ns

    def step_wall(self, seconds: float) -> None:
        """Somebody sets the wall clock, forward or back; monotonic time does not notice."""
        self._wall_ns += round(seconds * 1e9)

    def __repr__(self) -> str:
        return f"<ManualClock now_ms={self.now_ms()} monotonic_s={self.monotonic_s()}>"
