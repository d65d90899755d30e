"""Copies one value from volume to volume, and sees whether a volume has it, byte for byte.

    small    fetched by the master, and appended to the target
    large    pulled by the target from the source; then the record is appended

A source that fails is passed over for the next one; a copy that is found damaged is told of. The
caller has the key's turn.
"""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence

from pulzar.cluster.flight import Flight
from pulzar.cluster.member import Member
from pulzar.cluster.messages import DAMAGED, FOUND, Found, NewRecord, Pull
from pulzar.cluster.replicator import Replicator
from pulzar.errors import Damage, LinkBroken, PulzarError, Unavailable
from pulzar.limits import INLINE_BYTES_MAX, SEGMENT_VALUE_BYTES_MAX
from pulzar.varidb.catalog_row import Change
from pulzar.varidb.entry import Entry
from pulzar.varidb.record import Type, decode_meta, encode_meta


class Copying:
    """The copies of one cluster. One event loop. `damaged(key, version, number)` is told of copies
    that are."""

    def __init__(
        self,
        members: Mapping[int, Member],
        replicator: Replicator,
        *,
        damaged: Callable[[bytes, int, int], None],
    ) -> None:
        self._members = members
        self._replicator = replicator
        self._damaged = damaged

    async def append(self, record: NewRecord, number: int, change: Change | None) -> None:
        """Make a record durable on one volume, and known to the catalog. Raises PulzarError."""
        landed = asyncio.Event()
        size = len(record.value)
        flight = Flight(record, wanted=1, size=size, change=change, landed=lambda _: landed.set())
        self._replicator.launch_to(flight, number)
        await landed.wait()
        if not flight.holders:
            raise flight.error or LinkBroken("it is not known whether the copy was written")

    async def has(self, key: bytes, entry: Entry, number: int) -> bool:
        """Whether a volume that should have a value does: every byte of it is read. What is
        damaged, or lacking in a directory that was put back, may not have been noticed yet.
        Raises LinkBroken."""
        member = self._members.get(number)
        if member is None:
            return False
        if entry.size > SEGMENT_VALUE_BYTES_MAX:
            found = await member.verify(key, entry.version)
        else:
            found = await member.fetch(key, entry.version)
        if found.status == DAMAGED:
            self._damaged(key, entry.version, number)
        elif found.status != FOUND:
            member.break_off(LinkBroken("it lacks a version that it had acknowledged"))
        return found.status == FOUND

    async def copy(self, key: bytes, entry: Entry, sources: Sequence[int], target: int) -> None:
        """Copy a value from one of `sources` to a volume. Raises PulzarError."""
        found, upload = await self._found(key, entry, sources, target)
        type_ = Type.BLOB if upload else Type.PUT
        value = found.value
        said = decode_meta(found.meta)
        record = NewRecord(
            type_,
            key,
            value,
            found.meta,
            entry.version,
            entry.created_ms,
            entry.expires_s,
            upload,
            said.replicas,
        )
        small = type_ == Type.PUT and len(value) <= INLINE_BYTES_MAX
        change = Change(
            key,
            type_,
            entry.version,
            entry.size,
            entry.created_ms,
            entry.expires_s,
            said.content_type,
            value if small else None,
            replicas=said.replicas,
        )
        await self.append(record, target, change)

    async def _found(
        self, key: bytes, entry: Entry, sources: Sequence[int], target: int
    ) -> tuple[Found, str]:
        """The value; or of a large one its meta, and the name of its bytes on the target. What is
        inline in the catalog is a copy, too."""
        failed: PulzarError | None = None
        for number in sources:
            member = self._members.get(number)
            if member is None or not member.online:
                continue
            try:
                found = await member.fetch(key, entry.version)
                if found.status == FOUND:
                    is_large = entry.size > SEGMENT_VALUE_BYTES_MAX
                    return found, await self._pulled(key, entry, member, target) if is_large else ""
                if found.status == DAMAGED:
                    self._damaged(key, entry.version, number)
            except Damage as error:
                failed = error
                self._damaged(key, entry.version, number)
            except LinkBroken as error:
                failed = error
        if entry.inline is not None and entry.complete:
            meta = encode_meta(entry.content_type, entry.replicas)
            return Found(FOUND, meta, entry.inline), ""
        raise failed or Unavailable("no copy of this value can be read now")

    async def _pulled(self, key: bytes, entry: Entry, source: Member, target: int) -> str:
        """Let the target get a large value from the source. Raises Damage, LinkBroken, OutOfSpace,
        Unavailable."""
        if source.presence is None:
            raise LinkBroken(f"volume {source.entry.name} was not heard yet")
        upload = os.urandom(16).hex()
        pull = Pull(source.presence.url, key, entry.version, entry.size, upload)
        await self._members[target].link.pull(pull)
        return upload
