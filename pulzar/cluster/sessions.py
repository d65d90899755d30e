"""Which appends a volume takes. Pure.

A session is opened by a master with an epoch that the volume has promised; each append of it names
(epoch, session, number), and only the next number is taken. So an append that was held up on its
way, or comes twice, is refused for ever once a session was opened behind it.
"""

from pulzar.cluster.messages import Append
from pulzar.errors import StaleSession


class Session:
    """The one session that a volume has at a time; none at first."""

    def __init__(self) -> None:
        self._name: tuple[int, int] | None = None
        self._next = 0

    def begin(self, epoch: int, session: int) -> None:
        """From now on only appends of this session are taken."""
        self._name = (epoch, session)
        self._next = 0

    def end(self) -> None:
        """From now on none is taken."""
        self._name = None

    def require(self, append: Append) -> None:
        """Raise StaleSession where the session of an append has ended."""
        if self._name != (append.epoch, append.session):
            raise StaleSession("this session has ended: open another one")

    def take(self, append: Append) -> None:
        """Take the next append; whatever becomes of it, its number is used. Raises StaleSession."""
        self.require(append)
        if append.number != self._next:
            raise StaleSession(f"append {append.number} is not the next one, which is {self._next}")
        self._next += 1
