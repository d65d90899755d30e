"""The real engine on a simulated disk, driven step by step and compared with a dict.

`Engine` does what the master and the background process do, in one thread: it gives versions,
appends, seals, compacts, purges, opens again. It knows what was acknowledged and what may have
happened, and `check` holds the promises of DESIGN section 1 against it: an acknowledged write is
there, an unacknowledged one is wholly there or wholly absent and stays so once it was read, nothing
older comes back, and an index rebuilt from the log says the same as the live one.
"""

import random
from collections.abc import Iterable, Iterator

from pulzar.testing import SimulatedDisk
from pulzar.testing.index import DictIndex
from pulzar.varidb.blob import check_chunk, chunk_range, decode_blob, encode_blob
from pulzar.varidb.crash_point import CrashPoint
from pulzar.varidb.manifest import Replaced
from pulzar.varidb.record import Record, Type, make_version
from pulzar.varidb.task import Compact, CompactDone, Failed, Seal, SealDone, run_compact, run_seal
from pulzar.varidb.volume import Options, Volume

State = bytes | None
SEGMENT_BYTES = 4096
BLOB = b"a value that is kept in a file of its own: "


class Engine:
    """One volume and what is known of it."""

    volume: Volume

    def __init__(self, seed: int, *, directory: str = "/volume", opened: bool = True) -> None:
        """`opened`: the volume is there when this returns; else call `open`."""
        self.rng = random.Random(seed)
        self.disk = SimulatedDisk(seed)
        self.index = DictIndex()
        self.directory = directory
        self.now_ms = 1_000_000
        self.version = make_version(1, 0)
        self.acknowledged: dict[bytes, State] = {}
        self.possible: dict[bytes, list[State]] = {}
        self.options = Options(segment_bytes=SEGMENT_BYTES, grace_s=100)
        if opened:
            self.open()

    def open(self) -> Volume:
        """Open the volume as a new process does."""
        self.volume = open_volume(self.disk, self.directory, self.index, self.rng, self.now_ms)
        return self.volume

    def restart(self) -> None:
        """Stop in an orderly way, and open again."""
        volume = self.volume
        del self.volume
        volume.close(now_ms=self.now_ms)
        self.open()

    # What the master does.

    def write(self, changes: Iterable[tuple[bytes, State]], *, blob: bool = False) -> None:
        """Append a batch; acknowledged when this returns."""
        changes = list(changes)
        for key, state in changes:
            self.possible.setdefault(key, []).append(state)
        self.volume.append([self._record(*one, blob=blob) for one in changes], now_ms=self.now_ms)
        for key, state in changes:
            self.acknowledged[key] = state
            self.possible.pop(key, None)

    def _record(self, key: bytes, state: State, *, blob: bool) -> Record:
        self.version += 1
        if state is None:
            return Record(type=Type.DELETE, key=key, version=self.version, created_ms=self.now_ms)
        type_, value = Type.PUT, state
        if blob:
            type_, value = Type.BLOB, self._write_blob(state)
        return Record(
            type=type_, key=key, value=value, version=self.version, created_ms=self.now_ms
        )

    def _write_blob(self, state: bytes) -> bytes:
        writer = self.volume.blob_writer()
        writer.write(BLOB + state)
        return encode_blob(writer.finish())

    # What the background process and maintenance do.

    def seal(self) -> None:
        """Give every waiting segment its footer."""
        for segment in self.volume.unsealed():
            done = run_seal(Seal(self.directory, segment), self.disk)
            if isinstance(done, SealDone):
                assert not done.sealed.damaged, (segment, done.sealed.damaged)
                self.volume.sealed(done.sealed.segment)

    def compact(self, *, live_ratio_max: float = 0.99, segment_bytes: int | None = None) -> None:
        """Rewrite what is worth it, as maintenance does."""
        for _ in self.compaction_steps(live_ratio_max, segment_bytes):
            pass

    def compaction_steps(
        self, live_ratio_max: float = 0.99, segment_bytes: int | None = None
    ) -> Iterator[None]:
        """The same, with a pause wherever requests may come in between."""
        volume = self.volume
        volume.roll(now_ms=self.now_ms)
        yield
        self.seal()
        for unfinished in volume.replacements.unswapped():
            volume.replacements.swap(unfinished)
        yield
        task = Compact(
            directory=self.directory,
            views="",
            segments=tuple(volume.segments.values()),
            retired=frozenset(volume.replacements.retired()),
            skip=frozenset(),
            output_id=volume.take_segment_id(),
            salt=self.rng.randbytes(16),
            opening=volume.log.opening,
            now_ms=self.now_ms,
            segment_bytes=segment_bytes or SEGMENT_BYTES * 4,
            live_ratio_max=live_ratio_max,
            purge=True,
        )
        done = run_compact(task, self.disk, self.index)
        if isinstance(done, Failed) or done.rewritten is None:
            return
        yield
        self._take_in(done)

    def _take_in(self, done: CompactDone) -> None:
        volume, rewritten = self.volume, done.rewritten
        assert rewritten is not None
        if done.purged:
            upto = max(version for _, version, _ in done.purged)
            volume.append([Record(type=Type.PURGE, version=upto)], now_ms=self.now_ms)
            volume.reached(CrashPoint.PURGE_RECORDED)
        replaced = Replaced(
            inputs=rewritten.inputs,
            outputs=(rewritten.output.id,) if rewritten.output else (),
            blobs=rewritten.blobs,
            at_ms=self.now_ms,
            horizon=rewritten.horizon,
        )
        volume.replacements.replace(replaced, [rewritten.output] if rewritten.output else [])
        volume.replacements.swap(replaced)
        volume.replacements.forget_deletes(done.purged)

    # What fate does.

    def crash(self, *, power: bool) -> None:
        """The process dies, or the machine does; then a new process opens the volume."""
        if power:
            self.disk.power_loss(self.rng)
            self.index.reset()
        else:
            self.disk.kill()
            self.index.crash(self.rng)
        self.open()

    # What must hold.

    def read(self, key: bytes, *, volume: Volume | None = None) -> State:
        """The value as a reader gets it, every byte checked; None: no such key."""
        return read(volume or self.volume, key)

    def check(self, *, settled: bool = True) -> None:
        """Hold the promises against what is there now.

        `settled` is False while a write whose outcome is unknown may still come true: until the
        process that made it is gone.
        """
        for key in self.acknowledged.keys() | self.possible.keys():
            seen = self.read(key)
            maybe = self.possible.get(key, [])
            if seen != self.acknowledged.get(key):
                assert seen in maybe, f"{key!r}: {seen!r} is neither acknowledged nor possible"
            if settled:
                # What was read once is true from now on.
                self.possible.pop(key, None)
                self.acknowledged[key] = seen

    def check_rebuild(self) -> None:
        """An index made from nothing says the same about every live key."""
        live = dict(self.index.entries)
        self.volume.rebuild_index()
        for key in self.acknowledged:
            old, new = live.get(key), self.index.entries.get(key)
            old_live = old is not None and old.type != Type.DELETE
            new_live = new is not None and new.type != Type.DELETE
            assert old_live == new_live, key
            if old is not None and new is not None and old_live:
                assert old.order == new.order, key
                assert read(self.volume, key) == self.acknowledged[key]


def open_volume(
    disk: SimulatedDisk, directory: str, index: DictIndex, rng: random.Random, now_ms: int
) -> Volume:
    """Open a volume on a simulated disk."""
    return Volume.open(
        directory,
        disk=disk,
        open_index=lambda _: index,
        token=rng.randbytes,
        now_ms=now_ms,
        options=Options(segment_bytes=SEGMENT_BYTES, grace_s=100),
    )


def read(volume: Volume, key: bytes) -> State:
    """The value of a key, every byte checked."""
    position = volume.index.get(key)
    if position is None or position.type == Type.DELETE:
        return None
    record = volume.records.read(key, position)
    if record.type == Type.PUT:
        return record.value
    blob = decode_blob(record.value)
    file = volume.open_blob(blob)
    chunks = []
    try:
        for number in range(len(blob.crcs)):
            offset, length = chunk_range(blob, number)
            chunks.append(file.read(length, offset=offset))
            check_chunk(blob, number, chunks[-1])
    finally:
        file.close()
    content = b"".join(chunks)
    assert content.startswith(BLOB)
    return content.removeprefix(BLOB)
