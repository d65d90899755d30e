"""The names of a simulated disk: what each directory shows and what of it is on the platter.

A change of names (create, unlink, rename, make a directory) is atomic, and pending until one of
its directories is synced. A rename between two directories is durable when either is synced.

A power loss keeps any subset of the pending changes that respects the order per name: a change
may survive only if every earlier change of the same names did. A directory whose own name was
not durable takes everything in it along.

A failed sync of a directory leaves its changes pending but marks it clean: the next sync
reports success and makes nothing durable, until another change of that directory writes its
block again.
"""

from collections.abc import Iterator
from random import Random
from typing import NamedTuple, TypeAlias, Union

from pulzar.testing.content import Content

Node: TypeAlias = Union["Directory", Content]


class Directory:
    """One directory. `dirty` says whether its next sync will write anything."""

    __slots__ = ("dirty", "durable", "shown")

    def __init__(self) -> None:
        self.shown: dict[str, Node] = {}
        self.durable: dict[str, Node] = {}
        self.dirty = False

    def put_durably(self, name: str, node: Node) -> None:
        """A name from outside of the simulation: shown and durable at once."""
        self.shown[name] = node
        self.durable[name] = node


class Assignment(NamedTuple):
    """A name's new meaning; None where the name is gone."""

    directory: Directory
    name: str
    node: Node | None


Change: TypeAlias = tuple[Assignment, ...]


class Names:
    """The tree of names, and the changes of it that are not durable yet, oldest first."""

    def __init__(self, root: Directory) -> None:
        self.root = root
        self.pending: list[Change] = []

    def find(self, parts: list[str]) -> Node:
        """What is shown under a path. FileNotFoundError, NotADirectoryError."""
        node: Node = self.root
        for part in parts:
            if not isinstance(node, Directory):
                raise NotADirectoryError
            found = node.shown.get(part)
            if found is None:
                raise FileNotFoundError
            node = found
        return node

    def directory(self, parts: list[str]) -> Directory:
        """The directory under a path."""
        node = self.find(parts)
        if not isinstance(node, Directory):
            raise NotADirectoryError
        return node

    def change(self, *change: Assignment) -> None:
        """Change what is shown; pending until a directory of it is synced."""
        for directory, name, node in change:
            _assign(directory.shown, name, node)
            directory.dirty = True
        self.pending.append(change)

    def sync(self, directory: Directory) -> None:
        """Make the names in `directory` durable, and what they depend on elsewhere."""
        if not directory.dirty:
            return
        directory.dirty = False
        needed: set[tuple[Directory, str]] = set()
        settled: list[Change] = []
        remaining: list[Change] = []
        for change in reversed(self.pending):
            names = [(each.directory, each.name) for each in change]
            if any(each.directory is directory for each in change) or not needed.isdisjoint(names):
                needed.update(names)
                settled.append(change)
            else:
                remaining.append(change)
        for change in reversed(settled):
            for parent, name, node in change:
                _assign(parent.durable, name, node)
        self.pending = remaining[::-1]

    def fail_sync(self, directory: Directory) -> None:
        """A sync that meets an I/O error."""
        directory.dirty = False

    def after_power_loss(self, rng: Random, *, torn_sectors: bool) -> "Names":
        """A possible tree after the power came back; this one is left as it is."""
        entries: dict[Directory, dict[str, Node]] = {}
        for change in _what_survives(self.pending, rng):
            for directory, name, node in change:
                known = entries.setdefault(directory, dict(directory.durable))
                _assign(known, name, node)

        def survivor(node: Node) -> Node:
            if isinstance(node, Content):
                return node.after_power_loss(rng, torn_sectors=torn_sectors)
            return survivors(node)

        def survivors(old: Directory) -> Directory:
            new = Directory()
            for name, node in sorted(entries.get(old, old.durable).items()):
                new.put_durably(name, survivor(node))
            return new

        return Names(survivors(self.root))

    def contents(self) -> Iterator[Content]:
        """Every file that is shown."""
        waiting = [self.root]
        while waiting:
            for node in waiting.pop().shown.values():
                if isinstance(node, Content):
                    yield node
                else:
                    waiting.append(node)


def _assign(entries: dict[str, Node], name: str, node: Node | None) -> None:
    if node is None:
        entries.pop(name, None)
    else:
        entries[name] = node


def _what_survives(pending: list[Change], rng: Random) -> list[Change]:
    mode = rng.randrange(8)
    if mode == 0 or not pending:
        return []
    if mode == 1:
        return pending
    if mode <= 3:
        return pending[: rng.randint(0, len(pending))]
    keep = rng.choice((0.2, 0.5, 0.8))
    surviving: list[Change] = []
    blocked: set[tuple[Directory, str]] = set()
    for change in pending:
        names = [(each.directory, each.name) for each in change]
        if blocked.isdisjoint(names) and rng.random() < keep:
            surviving.append(change)
        else:
            blocked.update(names)
    return surviving
