"""The master's side of a cluster: who is there, and a session with each of them.

    a heartbeat -> a member, or may join -> a session -> its log followed to the head -> online

Each member has a task of its own that opens a session whenever there is none: the epoch is
promised, the list of members is brought up to date, the log is followed. `not_ready` says why data
cannot be served: while the catalog has no cursor of a member that was not followed, an answer could
be older than what that member holds.

What is decided here is decided by membership.py and placement.py; this file keeps the clocks, the
tasks and the connections.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

import msgspec

from pulzar.clock import Clock
from pulzar.cluster.flight import Flight
from pulzar.cluster.follower import Follower, Progress
from pulzar.cluster.greeting import greet, look_at
from pulzar.cluster.identity import MasterState
from pulzar.cluster.link import Link
from pulzar.cluster.member import Member
from pulzar.cluster.member_list import MemberList
from pulzar.cluster.membership import (
    Entry,
    Members,
    State,
    check_presence,
    decode_members,
    encode_members,
    may_join,
    state_of,
)
from pulzar.cluster.messages import PROTOCOL, Append, NewRecord, Presence, SessionWanted, Welcome
from pulzar.cluster.placement import Placement
from pulzar.cluster.replicator import Replicator
from pulzar.cluster.served import ServedVolume
from pulzar.disk import Disk
from pulzar.errors import MemberRefused, NotReady, PulzarError, StaleSession, Unavailable
from pulzar.limits import CLOCK_OFF_MS, HEARTBEAT_S, OFFLINE_S
from pulzar.varidb.catalog import Catalog
from pulzar.varidb.position import NOWHERE, Cursor
from pulzar.varidb.record import Type
from pulzar.varidb.writer import Writer

_log = logging.getLogger(__name__)


class Master:
    """All members. One event loop.

    `connect(url)` gives the link to a volume; `changed` is called when a member's state may
    have changed, and now and then; `returned` when a member is online again.
    """

    def __init__(
        self,
        directory: str,
        state: MasterState,
        *,
        disk: Disk,
        clock: Clock,
        catalog: Catalog,
        writer: Writer,
        replicator: Replicator,
        follower: Follower,
        members: dict[int, Member],
        lost_after_s: float,
        connect: Callable[[str], Link],
        token: Callable[[int], bytes],
        changed: Callable[[], None],
        returned: Callable[[Member], None],
        local: ServedVolume | None = None,
    ) -> None:
        self.members = members
        self.list = MemberList(directory, state, disk=disk, catalog=catalog)
        self._clock = clock
        self._catalog = catalog
        self._writer = writer
        self._replicator = replicator
        self._follower = follower
        self._lost_after_s = lost_after_s
        self._connect = connect
        self._token = token
        self._changed = changed
        self._returned = returned
        self._started_s = clock.monotonic_s()
        self._id = replicator.master = token(16)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._heard: dict[int, asyncio.Event] = {}
        self._ticking: asyncio.Task[None] | None = None
        self._greeting: asyncio.Task[None] | None = None
        self.progress: dict[int, Progress] = {}
        self.remarks: dict[int, str] = {}  # by number: why a member is not online
        self._local = local

    # Its start and its end.

    def start(self) -> None:
        """Take an epoch that was never used; look for the members that are known."""
        self.list.begin_epoch(self.epoch + 1)
        self._writer.begin_epoch(self.epoch)
        self._writer.keep_epoch = self._keep_epoch
        for entry in self.list.members.members:
            self._add(entry)
        self._greeting = asyncio.create_task(
            greet(self.list.urls(), connect=self._connect, heartbeat=self.heartbeat)
        )
        self._ticking = asyncio.create_task(self._tick())

    def _keep_epoch(self, epoch: int) -> None:
        """An epoch that has no more versions is followed by the next. Raises Unavailable."""
        try:
            self.list.begin_epoch(epoch)
        except OSError as error:
            raise Unavailable(f"the next epoch could not be kept: {error}") from None

    async def close(self) -> None:
        """Let go of all members."""
        own = [task for task in (self._ticking, self._greeting) if task is not None]
        tasks = [*self._tasks.values(), *own]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for member in self.members.values():
            await member.close()

    @property
    def epoch(self) -> int:
        """The epoch that is promised to this master."""
        return self.list.epoch

    # What volumes say.

    async def heartbeat(self, presence: Presence, host: str) -> Welcome:
        """A volume is there; it becomes a member where it may. Raises MemberRefused, NotReady."""
        check_presence(presence)
        known = self.list.members.by_id(presence.id)
        if known is not None:
            await self._check_instance(self.members[known.number], presence)
        self._adopt(decode_members(presence.members))
        if self._member(presence.id) is None:
            self._join(presence)
            await self._tell_all()  # before it is used
        member = self._member(presence.id)
        if member is None:
            raise MemberRefused(f"volume {presence.name} was removed from the cluster")
        self._rename(member, presence.name)
        self._hear(member, presence, host)
        await self._tell_all()
        return Welcome(
            protocol=PROTOCOL,
            cluster=self.list.members.cluster,
            generation=self.list.members.generation,
            epoch=self.epoch,
            now_ms=self._clock.now_ms(),
            state=member.state,
        )

    def _member(self, volume_id: str) -> Member | None:
        entry = self.list.members.by_id(volume_id)
        return None if entry is None else self.members[entry.number]

    def _hear(self, member: Member, presence: Presence, host: str) -> None:
        news = member.presence is None or member.presence.instance != presence.instance
        if news or self.list.url(presence.id) != presence.url:
            member.break_off(Unavailable("the volume was started again"))
            member.link = self._link(presence.url, presence.id)
            self.list.met_at(presence.id, presence.url)
        is_first = member.presence is None
        member.presence = presence
        member.host = host
        member.heard_s = self._clock.monotonic_s()
        member.heard_at_ms = self._clock.now_ms()
        self._heard[member.number].set()
        if is_first and not self._unheard():  # the last one that the others waited for
            self._wake_all()
        off_ms = presence.now_ms - self._clock.now_ms()
        if news and abs(off_ms) > CLOCK_OFF_MS:
            _log.warning(
                "the clock of volume %s is %+d s off: times that users see come from the master",
                presence.name,
                round(off_ms / 1000),
            )

    async def _check_instance(self, member: Member, presence: Presence) -> None:
        """One volume runs once. Raises MemberRefused."""
        known = member.presence
        if known is None or known.instance == presence.instance:
            return
        if self._silent_s(member) >= OFFLINE_S:
            return
        try:
            there = await member.link.hello()
        except PulzarError:
            return
        if (there.id, there.instance) == (presence.id, known.instance):
            raise MemberRefused(
                f"volume {presence.name} ({presence.id}) runs already at {known.url}: two programs "
                "must not serve copies of one volume"
            )

    def _rename(self, member: Member, name: str) -> None:
        """A volume may have another name since its last start; it waits until the list is known."""
        if member.entry.name != name and self._is_list_known():
            self._check_name(member.entry.id, name)
            member.entry = self.list.rename(member.entry.id, name)

    def _check_name(self, volume_id: str, name: str) -> None:
        for member in self.members.values():
            if member.entry.name == name and member.entry.id != volume_id and member.online:
                raise MemberRefused(f"another volume that is online is named {name}: use --name")

    def _join(self, presence: Presence) -> None:
        """A volume becomes a member. Raises MemberRefused, NotReady."""
        may_join(self.list.members, presence, may_found=self.list.founded)
        if not self._is_list_known():
            raise NotReady(
                "who is a member of this cluster is not known yet, as not all members were met "
                f"since this master was started: {self.not_ready()}"
            )
        self._check_name(presence.id, presence.name)
        entry = self.list.join(presence)
        if not presence.entries:  # there is nothing to wait for
            self._catalog.apply([], entry.number, Cursor(presence.opening, presence.seq))
        self._add(entry)
        _log.info("volume %s (%s) is a member now", presence.name, presence.id)

    def _is_list_known(self) -> bool:
        """Whether this master has the newest list: only then it may change it."""
        return not self.members or not self.unfollowed()

    def _adopt(self, members: Members | None) -> None:
        """Take over a list that is newer than the one known here."""
        if not self.list.adopt(members):
            return
        for entry in self.list.members.members:
            if entry.number not in self.members:
                self._add(entry)
            self.members[entry.number].entry = entry
        listed = {entry.number for entry in self.list.members.members}
        for number in self.members.keys() - listed:
            self._drop(number)
        self._refresh()  # nothing is served while one of them was not followed

    async def _tell_all(self) -> None:
        """Tell the list to the members that are online and were not told yet."""
        generation = self.list.members.generation
        record = self._members_record()
        untold = [one for one in self.members.values() if one.online and one.told < generation]
        for member in untold:
            member.told = generation
        results = await asyncio.gather(*(self._append_to(member, record) for member in untold))
        for member, is_durable in zip(untold, results, strict=True):
            if is_durable:
                self._has_list(member, generation)
            else:  # when it is heard again
                member.told = 0

    async def _append_to(self, member: Member, record: NewRecord) -> bool:
        """Whether a record of the cluster's own is durable on one volume."""
        landed = asyncio.Event()
        flight = Flight(record, wanted=1, landed=lambda _: landed.set())
        self._replicator.launch_to(flight, member.number)
        await landed.wait()
        return bool(flight.holders)

    def _has_list(self, member: Member, generation: int) -> None:
        """A volume has a list, durably."""
        is_member = self.members.get(member.number) is member
        is_newest = generation == self.list.members.generation
        if is_member and is_newest and self.list.told(member.entry.id):
            self._wake_all()  # who has joined may be used now

    def _members_record(self) -> NewRecord:
        members = self.list.members
        value = encode_members(members)
        return NewRecord(Type.MEMBERS, b"", value, b"", members.generation, self._clock.now_ms(), 0)

    async def remove(self, number: int) -> None:
        """End a membership: it is not used any more, and those that are online know. Raises
        Unavailable."""
        if any(one.number != number for one in self._unheard()):
            self._require_list()
        self.list.remove(self.members[number].entry.id)
        self._drop(number)
        await self._tell_all()

    async def drain(self, member: Member, *, draining: bool) -> None:
        """Its copies count no more: repair makes others, and then hides them; or they count again.
        Raises Unavailable."""
        self._require_list()
        member.entry = self.list.drain(member.entry.id, draining=draining)
        self._refresh()
        await self._tell_all()

    def _require_list(self) -> None:
        """Raise Unavailable where this master may not change the list of members."""
        if not self._is_list_known():
            raise Unavailable(
                f"who is a member of this cluster is not known yet: {self.not_ready()}"
            )

    async def look_at(self, url: str) -> None:
        """A volume is said to be at `url`. Raises LinkBroken, MemberRefused, Forbidden."""
        await look_at(url, connect=self._connect, heartbeat=self.heartbeat)

    def _drop(self, number: int) -> None:
        task = self._tasks.pop(number, None)
        if task is not None:
            task.cancel()
        member = self.members.pop(number)
        member.break_off(Unavailable("the volume is no member any more"))
        self.progress.pop(number, None)
        self.remarks.pop(number, None)
        self._refresh()

    # Sessions.

    def _link(self, url: str, volume_id: str) -> Link:
        """The link to a volume; the one of this process needs no network."""
        if self._local is not None and self._local.id == volume_id:
            return self._local
        return self._connect(url)

    def _add(self, entry: Entry) -> None:
        member = Member(
            entry,
            self._link(self.list.url(entry.id), entry.id),
            host="",
            acknowledged=self._replicator.acknowledged,
            given_back=self._replicator.given_back,
        )
        member.is_local = member.link is self._local
        member.heard_s = self._clock.monotonic_s()
        self.members[entry.number] = member
        self.progress[entry.number] = Progress()
        self._heard[entry.number] = asyncio.Event()
        self._tasks[entry.number] = asyncio.create_task(self._keep_connected(member))

    async def _keep_connected(self, member: Member) -> None:
        """A session with one member, whenever there can be one."""
        number = member.number
        heard = self._heard[number]
        while True:
            await member.broken.wait()
            self._refresh()
            await heard.wait()
            heard.clear()
            try:
                await self._open_session(member)
            except PulzarError as error:
                if self.remarks.get(number) != str(error):
                    _log.warning("volume %s: %s", member.entry.name, error)
                self.remarks[number] = str(error)
            else:
                self.remarks.pop(number, None)
            self._refresh()

    async def _open_session(self, member: Member) -> None:
        """Open a session, follow the log to its head, use the member. Raises PulzarError."""
        presence = member.presence
        if presence is None or self._silent_s(member) >= OFFLINE_S:
            return
        self._require_settled(member)
        link = member.link
        if presence.epoch > self.epoch:
            self._begin_epoch(presence.epoch + 1)
        session = int.from_bytes(self._token(8), "little") >> 1
        epoch = self.epoch
        try:
            opened = await link.open_session(SessionWanted(epoch, session, self._id))
        except StaleSession:  # it is promised to another master, or to one before
            self._begin_epoch((await link.hello()).epoch + 1)
            epoch = self.epoch
            opened = await link.open_session(SessionWanted(epoch, session, self._id))
        if opened.failed:  # before the next heartbeat says so
            member.presence = msgspec.structs.replace(presence, failed=opened.failed)
        known = decode_members(opened.members)
        self._adopt(known)
        self._require_settled(member)
        head = Cursor(opened.opening, opened.seq)
        await self._follower.follow(
            link,
            member.number,
            head,
            self.progress[member.number],
            acknowledged=member.acknowledged,
        )
        sent, generation = 0, self.list.members.generation
        is_told = known is not None and known.generation == generation
        if not is_told and not opened.failed:
            await link.append(Append(epoch, session, 0, [self._members_record()]))
            sent, is_told = 1, True
        if is_told:
            member.told = generation
            self._has_list(member, generation)
        if epoch != self.epoch or link is not member.link:
            raise Unavailable("it is overtaken by a new session")
        member.begin(epoch, session, sent)
        self._returned(member)
        _log.info("volume %s is online", member.entry.name)

    def _require_settled(self, member: Member) -> None:
        """Whether a member may be used. While the catalog is being filled, no log is followed
        before all members of the newest list were heard: one that was removed may say what was
        never told, and hide what was. Raises MemberRefused, NotReady."""
        if self.members.get(member.number) is not member:
            raise MemberRefused(f"volume {member.entry.name} was removed from the cluster")
        unheard = self._unheard()
        if unheard and self.unfollowed():
            names = ", ".join(one.entry.name for one in unheard)
            raise NotReady(f"its log is followed when all members were heard, but for {names}")
        if not self.list.is_witnessed(member.entry.id):
            raise NotReady("it is used when another volume knows of it, but none is online")

    def _unheard(self) -> list[Member]:
        """The members of which there was no word since the start."""
        return [member for member in self.members.values() if member.presence is None]

    def _wake_all(self) -> None:
        """Look again at members that are not online."""
        for member in self.members.values():
            if member.presence is not None:
                self._heard[member.number].set()

    def _begin_epoch(self, epoch: int) -> None:
        """Another master was here: go on behind its epoch, with new sessions everywhere."""
        if epoch <= self.epoch:
            return
        self.list.begin_epoch(epoch)
        self._writer.begin_epoch(epoch)
        for member in self.members.values():
            member.break_off(Unavailable("a new epoch has begun"))
            self._heard[member.number].set()

    # What is known of the members.

    def _silent_s(self, member: Member) -> float:
        return self._clock.monotonic_s() - member.heard_s

    async def _tick(self) -> None:
        """Now and then: who was silent for too long, and how full everybody is."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            for member in list(self.members.values()):
                if member.online and self._silent_s(member) >= OFFLINE_S:
                    member.break_off(Unavailable(f"no word from it for {OFFLINE_S:g} s"))
            self._refresh()

    def _refresh(self) -> None:
        """States and placement, from what was heard last."""
        for member in self.members.values():
            state = state_of(
                connected=member.online,
                followed=member.followed,
                silent_s=self._silent_s(member),
                lost_after_s=self._lost_after_s,
            )
            if state != member.state:
                if state in (State.OFFLINE, State.LOST):
                    _log.warning("volume %s is %s", member.entry.name, state)
                member.state = state
        candidates = (member.candidate for member in self.members.values())
        self._replicator.placement = Placement([one for one in candidates if one is not None])
        self._changed()

    def unfollowed(self) -> Sequence[Member]:
        """The members without whose log an answer might be wrong."""
        return [
            member
            for member in self.members.values()
            if not member.followed and self._catalog.cursor(member.number) == NOWHERE
        ]

    def awaited(self) -> Sequence[Member]:
        """The members that may still show up in a moment, after a start."""
        now_s = self._clock.monotonic_s()
        if now_s - self._started_s >= OFFLINE_S:
            return []
        return [member for member in self.members.values() if not member.followed]

    def not_ready(self) -> str | None:
        """Why data cannot be served; None when it can."""
        if not self.members:
            return "no volume has joined yet: start one with `pulzar volume --master URL`"
        missing = self.unfollowed()
        if missing:
            names = ", ".join(
                f"{member.entry.name} ({self.remarks.get(member.number, member.state)})"
                for member in missing
            )
            return f"the catalog is being filled; not followed to the head yet: {names}"
        return None
