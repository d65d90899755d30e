"""What users do to a data directory behind our back: copy it while it is in use, roll it back.

`copy_steps` reads as `tar` and `cp -r` do. The names of a directory are read when the copy gets
to it, each file is opened when its turn comes and read chunk by chunk, and files that have
vanished by then are skipped. So the copy is of no single moment. Like tar, some copies hold a
file to the size that it had when it was opened (cut, or padded with zeros); others, like cp,
read until its end. The order is that of the file system, which is any.
"""

from collections.abc import Iterator, Mapping
from random import Random
from typing import TypeAlias, Union

from pulzar.testing.content import Content
from pulzar.testing.names import Directory

Snapshot: TypeAlias = Mapping[str, Union[bytes, "Snapshot"]]


def copy_steps(
    source: Directory, target: Directory, rng: Random, *, chunk_bytes: int
) -> Iterator[str]:
    """Copy what `source` shows, durably, into `target`; yields before each file and chunk."""
    as_tar = rng.random() < 0.5
    names = sorted(source.shown)
    rng.shuffle(names)
    for name in names:
        yield name
        node = source.shown.get(name)
        if node is None:
            continue
        if isinstance(node, Directory):
            copied = Directory()
            target.put_durably(name, copied)
            for step in copy_steps(node, copied, rng, chunk_bytes=chunk_bytes):
                yield f"{name}/{step}"
            continue
        copy = Content()
        target.put_durably(name, copy)
        size_at_open = len(node.shown)
        for place in _chunks(node, chunk_bytes):
            copy.append_durably(node.shown[place : place + chunk_bytes])
            yield f"{name} @{place}"
        if as_tar:
            copy.resize(size_at_open)
            copy.sync()


def _chunks(node: Content, chunk_bytes: int) -> Iterator[int]:
    place = 0
    while place < len(node.shown):
        yield place
        place += chunk_bytes


def take_snapshot(directory: Directory) -> Snapshot:
    """Everything that a directory shows, at this moment."""
    return {
        name: bytes(node.shown) if isinstance(node, Content) else take_snapshot(node)
        for name, node in sorted(directory.shown.items())
    }


def from_snapshot(snapshot: Snapshot) -> Directory:
    """A new directory that holds a snapshot, durably."""
    directory = Directory()
    for name, content in snapshot.items():
        node = Content(content) if isinstance(content, bytes) else from_snapshot(content)
        directory.put_durably(name, node)
    return directory
