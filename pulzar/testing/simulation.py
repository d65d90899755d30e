"""A cluster in virtual time, over simulated disks and a network that loses, delays and doubles.

    world = simulate(seed)            # simulate.py; the same seed, the same history
    linearizability.check(world.history)

The real code runs: master, replicator, follower, comparison, repair, and volumes with their logs.
Simulated are the disks of the volumes (power loss at any time), the threads that write to them, the
clocks, and every call between two machines:

    lost          nothing arrives; the caller gives up after ANSWER_S
    unanswered    it is done, the answer is lost
    late          it arrives after the caller gave up
    doubled       it arrives twice
    cut off       for a while nothing reaches one volume, or nothing passes between two
    crash         a volume loses power, or a master ends; both start again, a master also with an
                  empty disk

Where members `change`, volumes also join, are drained, and are removed where that is allowed; one
that was removed goes on running, and wants to be heard.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from random import Random
from typing import TypeVar

from pulzar.cluster.identity import own_key
from pulzar.cluster.link import Link
from pulzar.cluster.messages import (
    Append,
    Appended,
    Compacted,
    DigestPage,
    Fetch,
    Fetched,
    LogPage,
    Presence,
    Pull,
    SessionOpened,
    SessionWanted,
    SnapshotPage,
    Staged,
)
from pulzar.cluster.opening import open_cluster
from pulzar.cluster.operations import Operations
from pulzar.cluster.served import ServedVolume
from pulzar.cluster.store import ClusterOptions, ClusterStore
from pulzar.disk import SystemDisk
from pulzar.errors import (
    ConditionFailed,
    Damage,
    KeyNotFound,
    LinkBroken,
    OutcomeUnknown,
    PulzarError,
)
from pulzar.testing.disk import SimulatedDisk
from pulzar.testing.faults import Killed
from pulzar.testing.index import DictIndex
from pulzar.testing.linearizability import Kind, Operation, Outcome, Tag
from pulzar.testing.recorder import label_of, value_of
from pulzar.testing.virtual_time import InlineExecutor, LoopClock, SimulatedWorker
from pulzar.varidb.condition import Condition
from pulzar.varidb.entry import Delete, Entry, Put, Upload
from pulzar.varidb.position import Cursor
from pulzar.varidb.serving import ServingVolume, StoreOptions
from pulzar.varidb.volume import Options, Volume

T = TypeVar("T")

KEY = "a5" * 32
KEYS = ("a", "b", "c", "d")
ANSWER_S = 5.0
HEARTBEAT_S = 1.0
READ_TRIES = 3
MEMBERS_MIN, MEMBERS_MAX = 2, 5
STEP_S = 3_600_000


class Machine:
    """A volume and the disk under it. `served` is None while it has no power."""

    def __init__(self, name: str, world: "World") -> None:
        self.name = name
        self.disk = SimulatedDisk(world.rng.randrange(1 << 30))
        self.index = DictIndex()
        self.served: ServedVolume | None = None
        self.ended = asyncio.Event()
        self._world = world
        self._worker = SimulatedWorker(lambda: 0.0)

    def start(self) -> None:
        """Power on, and open what is on the disk."""
        world, rng = self._world, self._world.rng
        volume = Volume.open(
            "/volume",
            disk=self.disk,
            open_index=lambda _: self.index,
            token=rng.randbytes,
            now_ms=world.clock.now_ms(),
            options=Options(segment_bytes=1 << 16),
        )
        self._worker = SimulatedWorker(lambda: rng.uniform(0.0005, 0.02))
        serving = ServingVolume(
            "/volume",
            volume,
            disk=self.disk,
            clock=world.clock,
            options=StoreOptions(reserve_bytes=0),
            token=rng.randbytes,
            executor=InlineExecutor(),
            worker=self._worker,
        )
        self.ended = asyncio.Event()
        self.served = ServedVolume(
            serving,
            name=self.name,
            url=self.name,
            instance=rng.randbytes(4).hex(),
            clock=world.clock,
            connect=world.connect,
        )

    def crash(self) -> None:
        """Power off: what was not synced may be lost."""
        served, self.served = self.served, None
        if served is None:
            return
        self._worker.die()
        self.ended.set()
        served.leave()
        self.disk.power_loss(self._world.rng)
        self.index = DictIndex()


class Wire:
    """Implements `link.Link`: calls to one machine, from the master or from another volume."""

    def __init__(self, world: "World", name: str) -> None:
        self._world = world
        self._name = name

    async def _call(self, call: Callable[[ServedVolume], Awaitable[T]]) -> T:
        """Whatever the network makes of a call."""
        world, rng = self._world, self._world.rng
        await asyncio.sleep(rng.uniform(0.0002, 0.01))
        chance = rng.random() if world.faulty else 1.0
        if self._name in world.cut_off or chance < 0.01:
            await asyncio.sleep(ANSWER_S)
            raise LinkBroken(f"{self._name} did not answer")
        if chance < 0.02:  # late: it arrives when nobody waits for it any more
            world.later(rng.uniform(ANSWER_S, 4 * ANSWER_S), lambda: self._deliver(call))
            await asyncio.sleep(ANSWER_S)
            raise LinkBroken(f"{self._name} did not answer")
        if chance < 0.04:  # doubled
            world.later(rng.uniform(0.0, 2 * ANSWER_S), lambda: self._deliver(call))
        answer = await self._deliver(call)
        await asyncio.sleep(rng.uniform(0.0002, 0.01))
        if self._name in world.cut_off or 0.04 <= chance < 0.05:
            await asyncio.sleep(ANSWER_S)
            raise LinkBroken(f"the answer of {self._name} was lost")
        return answer

    async def _deliver(self, call: Callable[[ServedVolume], Awaitable[T]]) -> T:
        """Do it there; a machine that loses power answers nothing."""
        machine = self._world.machines.get(self._name)
        if machine is None or machine.served is None:
            raise LinkBroken(f"nobody is at {self._name!r}")
        served, ended = machine.served, machine.ended
        work = asyncio.ensure_future(call(served))
        work.add_done_callback(lambda done: done.cancelled() or done.exception())
        off = asyncio.ensure_future(ended.wait())
        try:
            await asyncio.wait((work, off), return_when=asyncio.FIRST_COMPLETED)
        finally:
            off.cancel()
        if ended.is_set():
            work.cancel()
            raise LinkBroken(f"{self._name} lost power")
        try:
            return work.result()
        except Killed:
            raise LinkBroken(f"{self._name} lost power") from None

    async def hello(self) -> Presence:
        return await self._call(lambda volume: volume.hello())

    async def alive(self, wait_s: float) -> Presence:
        return await self._call(lambda volume: volume.alive(wait_s))

    async def open_session(self, wanted: SessionWanted) -> SessionOpened:
        return await self._call(lambda volume: volume.open_session(wanted))

    async def append(self, append: Append) -> Appended:
        return await self._call(lambda volume: volume.append(append))

    async def fetch(self, fetch: Fetch) -> Fetched:
        return await self._call(lambda volume: volume.fetch(fetch))

    async def log(self, after: Cursor, *, limit: int, wait_s: float) -> LogPage:
        return await self._call(lambda volume: volume.log(after, limit=limit, wait_s=wait_s))

    async def snapshot(self, after: bytes, *, limit: int) -> SnapshotPage:
        return await self._call(lambda volume: volume.snapshot(after, limit=limit))

    async def digests(self, after: bytes, *, limit: int) -> DigestPage:
        return await self._call(lambda volume: volume.digests(after, limit=limit))

    async def pull(self, pull: Pull) -> Staged:
        return await self._call(lambda volume: volume.pull(pull))

    async def compact(self) -> Compacted:
        return await self._call(lambda volume: volume.compact())

    async def upload(self, upload: str, *, size: int, peers: list[str]) -> Upload:
        raise LinkBroken("no large values here")

    async def chunks(
        self, key: bytes, version: int, *, start: int, end: int
    ) -> AsyncIterator[bytes]:
        found = await self._call(lambda volume: volume.fetch(Fetch([(key, version)])))
        yield found.found[0].value[start:end]

    async def close(self) -> None:
        return


class World:
    """Everything of one simulation."""

    def __init__(
        self, seed: int, directory: str, *, volumes: int, replicas: int, change: bool = False
    ) -> None:
        self.rng = Random(seed)
        self.clock = LoopClock()
        self.faulty = False
        self.cut_off: set[str] = set()
        self.machines: dict[str, Machine] = {}
        self.store: ClusterStore | None = None
        self.history: list[Operation] = []
        self.surprises: list[str] = []
        self.changes = {"joined": 0, "drained": 0, "removed": 0}
        self._directory = directory
        self._events = [
            self._crash_volume,
            self._crash_volume,
            self._cut,
            self._restart_master,
            self._step,
        ]
        if change:
            self._events += [self._join, self._drain, self._remove, self._remove]
        self._options = ClusterOptions(replicas=replicas, lost_after_s=30.0)
        self._pending: set[asyncio.Task[None]] = set()
        for number in range(volumes):
            name = f"v{number}"
            self.machines[name] = Machine(name, self)

    def connect(self, url: str) -> Link:
        """The link to a volume."""
        return Wire(self, url)

    def later(self, delay_s: float, work: Callable[[], Awaitable[object]]) -> None:
        """Do something when nobody waits for it."""

        async def do() -> None:
            await asyncio.sleep(delay_s)
            with suppress(PulzarError):
                await work()

        task = asyncio.ensure_future(do())
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    # The master.

    async def start_master(self, *, wiped: bool = False) -> None:
        """Start it on its directory, or on an empty one with the key."""
        disk, directory = SystemDisk(), f"{self._directory}/master"
        if wiped:
            shutil.rmtree(directory)
        is_first = not disk.exists(directory)
        disk.make_directory(directory)
        if is_first and not wiped:
            own_key(disk, directory, token=lambda _: bytes.fromhex(KEY))
        self.store = await open_cluster(
            directory,
            KEY,
            disk=disk,
            clock=self.clock,
            connect=self.connect,
            options=self._options,
            token=self.rng.randbytes,
            draw=self.rng.random,
        )

    async def stop_master(self) -> None:
        """End it. Whoever waits for an answer learns nothing."""
        store, self.store = self.store, None
        if store is not None:
            await store.close()

    async def beat(self) -> None:
        """The heartbeats of all volumes."""
        while True:
            for machine in list(self.machines.values()):
                store, served = self.store, machine.served
                if store is None or served is None or machine.name in self.cut_off:
                    continue
                with suppress(PulzarError, Killed):
                    await asyncio.sleep(self.rng.uniform(0, 0.05))
                    await store.heartbeat(served.presence(), machine.name)
            await asyncio.sleep(HEARTBEAT_S)

    # What goes wrong.

    async def trouble(self, for_s: float) -> None:
        """Faults, for a while."""
        self.faulty = True
        end_s = self.clock.monotonic_s() + for_s
        while self.clock.monotonic_s() < end_s:
            await asyncio.sleep(self.rng.expovariate(0.4))
            await self.rng.choice(self._events)()
        self.faulty = False
        self.cut_off.clear()

    async def _crash_volume(self) -> None:
        machine = self.rng.choice(list(self.machines.values()))
        machine.crash()
        await asyncio.sleep(self.rng.expovariate(0.5))
        if machine.served is None:
            machine.start()

    async def _cut(self) -> None:
        name = self.rng.choice(list(self.machines))
        self.cut_off.add(name)
        await asyncio.sleep(self.rng.expovariate(0.2))
        self.cut_off.discard(name)

    async def _restart_master(self) -> None:
        await self.stop_master()
        await asyncio.sleep(self.rng.expovariate(1.0))
        await self.start_master(wiped=self.rng.random() < 0.4)

    async def _step(self) -> None:
        self.clock.step_ms = self.rng.randint(-STEP_S, STEP_S)

    # Who is a member.

    async def _join(self) -> None:
        if self.store is None or len(self.store.members) >= MEMBERS_MAX:
            return
        name = f"v{len(self.machines)}"
        self.machines[name] = Machine(name, self)
        self.machines[name].start()
        self.changes["joined"] += 1

    async def _drain(self) -> None:
        store, name = self.store, self.rng.choice(list(self.machines))
        if store is None:
            return
        with suppress(PulzarError):
            operations, stop = Operations(store, clock=self.clock), self.rng.random() < 0.4
            await operations.drain(name, stop=stop, dry_run=False)
            self.changes["drained"] += not stop

    async def _remove(self) -> None:
        """Not where the operator would have to give something up."""
        store, name = self.store, self.rng.choice(list(self.machines))
        if store is None or len(store.members) <= MEMBERS_MIN:
            return

        async def remove() -> None:
            await Operations(store, clock=self.clock).remove(name, lost=False, dry_run=False)
            self.changes["removed"] += 1

        self.later(0.0, remove)
        await asyncio.sleep(self.rng.expovariate(2.0))

    # The clients.

    async def client(self, process: int) -> None:
        """One operation after the other, each recorded."""
        count = 0
        seen: dict[str, int] = {}
        while True:
            await asyncio.sleep(self.rng.expovariate(5.0))
            store = self.store
            if store is None:
                continue
            count += 1
            kind = self.rng.choices([Kind.PUT, Kind.GET, Kind.DELETE], [5, 5, 2])[0]
            key = self.rng.choice(KEYS)
            label = f"{process}.{count}.{self.rng.choice([8, 2000])}"
            tag: Tag | None = None
            if kind is not Kind.GET and self.rng.random() < 0.4:
                tag = seen.get(key, 1)
            invoked_s = self.clock.monotonic_s()
            answer: tuple[Outcome, int | None, str | None] = (Outcome.UNKNOWN, None, label)
            try:
                answer = await self._operate(store, kind, key, label, tag)
            finally:  # an operation that never ends is one of which nothing is known
                self._record(process, kind, key, invoked_s, answer, tag)
            if answer[1] is not None:
                seen[key] = answer[1]

    def _record(
        self,
        process: int,
        kind: Kind,
        key: str,
        invoked_s: float,
        answer: tuple[Outcome, int | None, str | None],
        tag: Tag | None,
    ) -> None:
        outcome, version, value = answer
        self.history.append(
            Operation(
                process=process,
                kind=kind,
                key=key,
                invoked_s=invoked_s,
                returned_s=self.clock.monotonic_s(),
                outcome=outcome,
                value=value if kind is not Kind.DELETE else None,
                version=version,
                if_match=tag,
            )
        )

    async def _operate(
        self, store: ClusterStore, kind: Kind, key: str, label: str, tag: Tag | None
    ) -> tuple[Outcome, int | None, str | None]:
        """(outcome, version, value). An answer of a master that has ended since is none."""
        condition = Condition(match=(tag,)) if isinstance(tag, int) else None
        value = label if kind is Kind.PUT else None
        version: int | None = None
        try:
            if kind is Kind.PUT:
                put = Put(key.encode(), value_of(label), condition=condition)
                version = (await store.put(put)).version
            elif kind is Kind.DELETE:
                version = (await store.delete(Delete(key.encode(), condition))).version
            else:
                version, content = await self._read(store, key.encode())
                value = label_of(content)
        except OutcomeUnknown as error:
            return Outcome.UNKNOWN, error.version or None, value
        except KeyNotFound:
            outcome: Outcome = Outcome.MISSING
        except ConditionFailed:
            outcome = Outcome.REFUSED
        except Damage as error:
            self.surprises.append(f"{kind} {key}: {error}")
            outcome = Outcome.FAILED
        except PulzarError:
            outcome = Outcome.FAILED
        else:
            outcome = Outcome.OK
        if store is not self.store:
            return Outcome.UNKNOWN, None, value
        return outcome, version if outcome is Outcome.OK else None, value

    async def _read(self, store: ClusterStore, key: bytes) -> tuple[int, bytes]:
        """As http/keys.py reads. Raises KeyNotFound, Damage, Unavailable."""
        entry: Entry | None = None
        for _ in range(READ_TRIES):
            entry = store.lookup(key)
            if entry is None:
                raise KeyNotFound("there is no such key")
            try:
                entry = await store.complete(key, entry)
                return entry.version, await store.read(key, entry)
            except Damage:
                now = store.lookup(key)
                if now is not None and now.version == entry.version:
                    raise
        raise Damage("the value was replaced again and again")

    async def end(self) -> None:
        """Let go of everything."""
        await self.stop_master()
        for task in list(self._pending):
            task.cancel()
        for machine in self.machines.values():
            if machine.served is not None:
                await machine.served.close()
                await machine.served.serving.committer.close()
