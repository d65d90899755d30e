"""What is around the master of the cluster model, and what it keeps: values without decisions.

A `Flaw` leaves out one rule of the design, to see that the model sees it.
"""

import random
from collections import deque
from enum import StrEnum

import msgspec

from pulzar.cluster.membership import Entry, Members
from pulzar.cluster.messages import Append, NewRecord
from pulzar.cluster.reconcile import Known
from pulzar.varidb.catalog_row import Change, Row
from pulzar.varidb.position import Cursor, Position
from tests.model.cluster_disk import Volume
from tests.model.cluster_truth import Truth

CLUSTER = "c1" * 16


class Flaw(StrEnum):
    """Rules that are left out, to see that the model sees it."""

    NO_FENCE = "a volume takes appends of any session"
    NO_WAIT = "a master without a catalog does not wait for all members"
    NO_FOLLOWING = "a member is used before its log was followed to the head"
    EARLY_CURSOR = "the catalog's cursor moves past what is not in the catalog"
    EPOCH_TWICE = "an epoch may be promised to two masters"
    EARLY_LOGS = "logs are followed before all members of the newest list were heard"
    EARLY_JOIN = "a volume joins while a master without memory has not heard all members"
    NO_WITNESS = "a new member gets data before a member of before knows the new list"
    REFUSED_LIST = "a list that no witness confirmed is refused, although it may be durable"
    DIGESTS_ONLY = "a volume that cannot be followed is compared by digests only"
    FORGOTTEN_BY_VERSION = "a copy that was made while a volume is compared is forgotten"
    OLD_STAMPS = "stamps of before a rollback count"
    EXTRA_UNASKED = "an extra copy is hidden without asking those that are to keep one"
    LAST_COPY = "a copy is extra if others are listed, wherever they are"
    UNNAMED_FETCH = "a volume is asked for a key, not for a version of it"
    EXPIRED_UNWRITTEN = "an expired key is answered 404 before its DELETE is durable"
    NEW_MOVED = "MOVED carries a version of its own"
    PURGED_BY_HOLDERS = "a DELETE is dropped when the volumes that the catalog lists have it"
    PURGED_ONCE = "with purge on, a purge that not all members heard of makes old copies of those"
    PLAIN_MERGE = "with purge on, an older copy of a directory is merged as any volume"


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """How a history goes."""

    volumes: int
    replicas: int
    steps: int
    purges: bool = False
    flaw: Flaw | None = None
    often: tuple[str, ...] = ()  # steps of a life, by name
    never: tuple[str, ...] = ()


class World:
    """What is around the master: volumes, the network between, chance and the clock."""

    def __init__(self, rng: random.Random, rules: Rules, truth: Truth) -> None:
        self.rng = rng
        self.rules = rules
        self.truth = truth
        self.volumes: dict[str, Volume] = {}
        self.cut_off: set[str] = set()
        self.wire: list[tuple[Volume, Append]] = []  # appends that may yet come, late or twice
        self.now_s = 1000
        self.trouble = 0.2
        self.tokens = 0

    def token(self) -> int:
        """A number that was not there before."""
        self.tokens += 1
        return self.tokens

    def reaches(self, volume: Volume) -> bool:
        """Whether a message gets to a volume and back."""
        return volume.is_up and volume.id not in self.cut_off


class Kept:
    """What a master has on its disk: its state, and the catalog."""

    def __init__(self, *, founded: bool) -> None:
        self.founded = founded
        self.epoch = 0
        self.members = Members(cluster=CLUSTER)
        self.unwitnessed: set[str] = set()  # new members of which only this master knows yet
        self.draining: set[str] = set()
        self.rows: dict[bytes, Known] = {}
        self.cursors: dict[int, Cursor] = {}
        self.met: dict[int, Cursor] = {}  # behind the last append that the rows know of
        self.purged = 0


class Flight:
    """One record on its way; see flight.py. `change` is what the catalog is told of a repair."""

    def __init__(
        self,
        record: NewRecord,
        *,
        wanted: int,
        is_write: bool = True,
        change: Change | None = None,
        replaces: Row | None = None,
    ) -> None:
        self.record = record
        self.wanted = wanted
        self.is_write = is_write
        self.change = change
        self.replaces = replaces
        self.waiting = 0
        self.holders: list[tuple[int, Cursor]] = []
        self.trackers: list[Tracker] = []
        self.tried: set[int] = set()
        self.unknown = False


class Tracker:
    """One acknowledged append, and how many of its records are not in the catalog yet."""

    def __init__(self, cursor: Cursor, missing: int) -> None:
        self.cursor = cursor
        self.missing = missing


class Member:
    """One member. `head` is where its log has to be followed to, while it is followed;
    `comparing` what is left to be compared: key, what the catalog had of it then."""

    def __init__(self, entry: Entry, volume: Volume) -> None:
        self.entry = entry
        self.volume = volume
        self.online = False
        self.followed = False
        self.head: Cursor | None = None
        self.is_lost = False  # silent for so long that its copies do not count
        self.unreadable = False  # its log cannot be followed from the cursor
        self.comparing: deque[bytes] | None = None
        self.rows_then: dict[bytes, Known] = {}
        self.positions: dict[bytes, Position] = {}
        self.opening = b""
        self.epoch = 0
        self.session = 0
        self.appends = 0
        self.queue: deque[Flight] = deque()
        self.sent: tuple[Append, list[Flight]] | None = None
        self.trackers: deque[Tracker] = deque()

    @property
    def number(self) -> int:
        """Its number in rows."""
        return self.entry.number
