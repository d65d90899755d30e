"""The list of members as its master keeps it, and what else cluster.json remembers.

A new list holds at the master first: it is durable here before any volume is told of it, and it is
never taken back. So no two lists have one generation, and no number is given twice. Volumes are
told at once where that is possible, else when they are heard again.

    joins      a volume that only the master knows of is `unwitnessed`: it gets no data before one
               of those that were members already has the list, or a master without memory would
               not wait for it
    leaves     it is not used any more from that moment on; refused where no other member is known
               to have the list so far

The catalog names volumes by their numbers in the list, so it remembers which one that was. It is
told before cluster.json is written: a catalog that is ahead of it, or knows of a list where there
is no cluster.json any more, is thrown away (opening.py).
"""

import msgspec

from pulzar.cluster.identity import FORMAT, STATE_NAME, MasterState, write_state
from pulzar.cluster.membership import (
    Entry,
    Members,
    newest,
    renamed,
    with_draining,
    with_volume,
    without_volume,
    witnesses,
)
from pulzar.cluster.messages import Presence
from pulzar.disk import Disk
from pulzar.errors import MemberRefused, Unavailable
from pulzar.varidb.catalog import Catalog


class MemberList:
    """What one master remembers. Each change is durable when its call returns; all of them raise
    OSError, OutOfSpace or ViewBroken where that cannot be."""

    def __init__(self, directory: str, state: MasterState, *, disk: Disk, catalog: Catalog) -> None:
        self._directory = directory
        self._state = state
        self._disk = disk
        self._catalog = catalog

    @property
    def members(self) -> Members:
        """The list that holds."""
        return self._state.members

    @property
    def epoch(self) -> int:
        """The epoch that is promised to this master."""
        return self._state.epoch

    @property
    def founded(self) -> bool:
        """Whether the cluster began here."""
        return self._state.founded

    def url(self, volume_id: str) -> str:
        """Where a member was last; empty where that is not known."""
        return self._state.urls.get(volume_id, "")

    def urls(self) -> dict[str, str]:
        """Where the members were last, by id, as far as that is known."""
        found = {entry.id: self.url(entry.id) for entry in self.members.members}
        return {volume_id: url for volume_id, url in found.items() if url}

    def is_witnessed(self, volume_id: str) -> bool:
        """Whether some other member knows of this one."""
        return volume_id not in self._state.unwitnessed

    def _keep(self, state: MasterState) -> None:
        if state == self._state:
            return
        generation = state.members.generation
        if generation != self._state.members.generation:
            self._catalog.begin_generation(generation)
        state = msgspec.structs.replace(state, format=FORMAT)
        write_state(self._disk, self._directory, state)
        self._state = state

    def begin_epoch(self, epoch: int) -> None:
        """Take an epoch that was never used."""
        self._keep(msgspec.structs.replace(self._state, epoch=epoch))

    def met_at(self, volume_id: str, url: str) -> None:
        """A volume was heard from `url`."""
        self._keep(msgspec.structs.replace(self._state, urls={**self._state.urls, volume_id: url}))

    # The list.

    def adopt(self, members: Members | None) -> bool:
        """Take over a list if it is newer than the one that holds; whether it was. Raises
        MemberRefused where it is another one of the same generation."""
        best = newest((self.members, members), self.members.cluster)
        if best.generation > self.members.generation:
            self._keep(msgspec.structs.replace(self._state, members=best))
            return True
        if members is None or members == best or members.cluster != best.cluster:
            return False
        if members.generation == best.generation:
            raise MemberRefused(
                f"there are two lists of members of generation {best.generation}, and the master "
                "has another one than this volume: two masters were used with one key, or an old "
                f"copy of {STATE_NAME}"
            )
        return False

    def join(self, presence: Presence) -> Entry:
        """A volume becomes a member; its entry."""
        return self._hold(with_volume(self.members, presence), presence.id)

    def rename(self, volume_id: str, name: str) -> Entry:
        """A member has another name; its entry."""
        return self._hold(renamed(self.members, volume_id, name), volume_id)

    def drain(self, volume_id: str, *, draining: bool) -> Entry:
        """A member's copies are to go elsewhere, or may stay; its entry."""
        return self._hold(with_draining(self.members, volume_id, draining=draining), volume_id)

    def _hold(self, members: Members, volume_id: str) -> Entry:
        unwitnessed = set(self._state.unwitnessed)
        if witnesses(self.members, members):
            before = {entry.id for entry in self.members.members}
            unwitnessed |= {entry.id for entry in members.members} - before
        self._keep(
            msgspec.structs.replace(
                self._state, members=members, unwitnessed=tuple(sorted(unwitnessed))
            )
        )
        entry = members.by_id(volume_id)
        assert entry is not None
        return entry

    def remove(self, volume_id: str) -> None:
        """A member is one no more. Raises Unavailable."""
        unwitnessed = {one for one in self._state.unwitnessed if one != volume_id}
        others = {entry.id for entry in self.members.members} - {volume_id}
        if not others - unwitnessed:
            raise Unavailable(
                "no other volume is known to have the list of members, so it cannot change: start "
                "or add another one first"
            )
        self._keep(
            msgspec.structs.replace(
                self._state,
                members=without_volume(self.members, volume_id),
                unwitnessed=tuple(sorted(unwitnessed)),
                urls={known: url for known, url in self._state.urls.items() if known != volume_id},
            )
        )

    def told(self, volume_id: str) -> bool:
        """A member has the list that holds, durably; whether that was waited for."""
        if not self._state.unwitnessed or volume_id in self._state.unwitnessed:
            return False
        self._keep(msgspec.structs.replace(self._state, unwitnessed=()))
        return True
