"""The MANIFEST: what happened to the files of a volume, one checksummed line each.

    3c1f02aa {"event":"added","segment":7,"kind":0,"salt":"...","first_seq":912,...}
    9be0417d {"event":"sealed","segment":7}
    51d2e6f0 {"event":"replaced","inputs":[3,4],"outputs":[9],"at_ms":1790000000000,"horizon":801}

A line is the CRC32C of its JSON in 8 hex digits, a space, the JSON, a newline. The file is only
appended to; a line counts when it is whole and its checksum holds, so a torn last line never
happened. The MANIFEST is a hint for order and a promise about names: every valid segment in the
directory is read whatever it says, and a segment it names must be there, or be among the inputs
of one that is. When it grows too long, `fold` writes its state into a new file that takes its
name. Part of the format; unknown events are an error of a newer version.
"""

from collections.abc import Iterable

import google_crc32c
import msgspec

from pulzar.disk import Disk, File, read_file
from pulzar.errors import VolumeTooNew
from pulzar.limits import MANIFEST_LINES_MAX
from pulzar.varidb.crash_point import CrashPoint

MANIFEST_NAME = "MANIFEST"
_NEW_NAME = "MANIFEST.new"


class Added(msgspec.Struct, frozen=True, tag="added", tag_field="event", kw_only=True):
    """A segment file exists and may be written. Repeats its header, should that be damaged."""

    segment: int
    kind: int
    salt: str
    opening: str
    first_seq: int = 0
    previous: int = 0
    previous_end: int = 0
    created_ms: int = 0


class Sealed(msgspec.Struct, frozen=True, tag="sealed", tag_field="event", kw_only=True):
    """A segment has its footer and will never change."""

    segment: int


class Replaced(msgspec.Struct, frozen=True, tag="replaced", tag_field="event", kw_only=True):
    """Compaction wrote `outputs` in place of `inputs`, and `blobs` lost their last record.

    The old files stay until the grace is over. `horizon`: below this seq the log is no longer
    dense.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    blobs: tuple[str, ...] = ()
    at_ms: int
    horizon: int


class Swapped(msgspec.Struct, frozen=True, tag="swapped", tag_field="event", kw_only=True):
    """The index no longer points into `inputs`."""

    inputs: tuple[int, ...]


class Removed(msgspec.Struct, frozen=True, tag="removed", tag_field="event", kw_only=True):
    """The inputs of replacements, and the blobs these name, are gone.

    Written after they were unlinked, durably; until then they may be missing.
    """

    segments: tuple[int, ...]


class Reverted(msgspec.Struct, frozen=True, tag="reverted", tag_field="event", kw_only=True):
    """The outputs of this replacement never came to this copy: the inputs stand again."""

    inputs: tuple[int, ...]


class Lost(msgspec.Struct, frozen=True, tag="lost", tag_field="event", kw_only=True):
    """These segments never came to this copy of the directory."""

    segments: tuple[int, ...]


class Opened(msgspec.Struct, frozen=True, tag="opened", tag_field="event", kw_only=True):
    """The volume was opened for writing here. Another place than the last: it is a copy."""

    place: str


Event = Added | Sealed | Replaced | Swapped | Removed | Reverted | Lost | Opened

_decoder = msgspec.json.Decoder(Event)


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The state that the lines add up to.

    `replaced` are the replacements whose inputs are still there, `swapped` their first inputs
    where the index no longer points into them.
    """

    segments: dict[int, Added] = msgspec.field(default_factory=dict)
    sealed: frozenset[int] = frozenset()
    replaced: tuple[Replaced, ...] = ()
    swapped: frozenset[tuple[int, ...]] = frozenset()
    horizon: int = 0
    place: str = ""

    @property
    def retired(self) -> dict[int, int]:
        """Replaced segments that are still there -> when they were replaced (ms)."""
        return {segment: one.at_ms for one in self.replaced for segment in one.inputs}

    @property
    def retired_blobs(self) -> dict[str, int]:
        """Blobs without a record that are still there -> when they lost it (ms)."""
        return {name: one.at_ms for one in self.replaced for name in one.blobs}

    @property
    def outputs(self) -> set[int]:
        """What stands for the replaced segments, also where the line that added it was lost."""
        return {segment for one in self.replaced for segment in one.outputs}

    @property
    def unswapped(self) -> list[Replaced]:
        """Replacements that the index was not yet told of to the end."""
        return [one for one in self.replaced if one.inputs not in self.swapped]


def apply(state: Manifest, event: Event) -> Manifest:
    """The state after one more event."""
    change = msgspec.structs.replace
    if isinstance(event, Added):
        return change(state, segments={**state.segments, event.segment: event})
    if isinstance(event, Sealed):
        return change(state, sealed=state.sealed | {event.segment})
    if isinstance(event, Replaced):
        horizon = max(state.horizon, event.horizon)
        return change(state, replaced=(*state.replaced, event), horizon=horizon)
    if isinstance(event, Swapped):
        return change(state, swapped=state.swapped | {event.inputs})
    if isinstance(event, Opened):
        return change(state, place=event.place)
    if isinstance(event, Reverted):
        return _without_replacements(state, {event.inputs})
    return _without_segments(state, set(event.segments), whole=isinstance(event, Removed))


def _without_segments(state: Manifest, gone: set[int], *, whole: bool) -> Manifest:
    state = msgspec.structs.replace(
        state,
        segments={k: v for k, v in state.segments.items() if k not in gone},
        sealed=state.sealed - gone,
    )
    if not whole:
        return state
    done = {one.inputs for one in state.replaced if gone.issuperset(one.inputs)}
    return _without_replacements(state, done)


def _without_replacements(state: Manifest, done: set[tuple[int, ...]]) -> Manifest:
    return msgspec.structs.replace(
        state,
        replaced=tuple(one for one in state.replaced if one.inputs not in done),
        swapped=state.swapped - done,
    )


def fold(state: Manifest) -> list[Event]:
    """Few events that add up to `state`."""
    events: list[Event] = list(state.segments.values())
    events += [Sealed(segment=segment) for segment in sorted(state.sealed)]
    # The horizon may outlive its replacement.
    events.append(Replaced(inputs=(), outputs=(), at_ms=0, horizon=state.horizon))
    events.append(Reverted(inputs=()))
    events += state.replaced
    events += [Swapped(inputs=inputs) for inputs in sorted(state.swapped)]
    events.append(Opened(place=state.place))
    return events


def encode_line(event: Event) -> bytes:
    """One line of the file."""
    text = msgspec.json.encode(event)
    return b"%08x %s\n" % (google_crc32c.value(text), text)


def decode_lines(content: bytes) -> tuple[list[Event], int, int]:
    """The events of whole lines, the bytes up to the end of the last of them, the bad lines.

    Raises VolumeTooNew where a whole line holds an event that this version does not know.
    """
    events: list[Event] = []
    good_end = at = bad = 0
    for line in content.splitlines(keepends=True):
        at += len(line)
        text = line[9:-1]
        if not line.endswith(b"\n") or line[:9] != b"%08x " % google_crc32c.value(text):
            bad += 1
            continue
        try:
            events.append(_decoder.decode(text))
        except msgspec.ValidationError as error:
            raise VolumeTooNew(f"the MANIFEST holds a line of a newer version: {error}") from None
        good_end = at
    return events, good_end, bad


class ManifestFile:
    """The MANIFEST of one open volume."""

    def __init__(self, disk: Disk, directory: str) -> None:
        """Read it, or begin one. Raises OSError, VolumeTooNew."""
        self._disk = disk
        self._directory = directory
        self._path = f"{directory}/{MANIFEST_NAME}"
        self.bad_lines = 0
        self.state = Manifest()
        self._file: File | None = None
        self._lines = 0
        self._end = 0
        if disk.exists(self._path):
            events, self._end, self.bad_lines = decode_lines(read_file(disk, self._path))
            for event in events:
                self.state = apply(self.state, event)
            self._lines = len(events)

    def is_copy(self, place: str) -> bool:
        """Whether the directory at `place` (`Disk.file_id`) is not where it was opened last."""
        return self.state.place not in ("", place)

    def append(self, events: Iterable[Event]) -> None:
        """Make events durable, then part of the state. Raises OSError."""
        listed = list(events)
        if self._file is None or self._lines + len(listed) > MANIFEST_LINES_MAX:
            self._rewrite()
        assert self._file is not None
        content = b"".join(map(encode_line, listed))
        try:
            self._file.write([content], offset=self._end)
            self._disk.reached(CrashPoint.MANIFEST_WRITTEN)
            self._file.sync()
        except OSError:
            self.close()  # nobody knows what it holds: the next event begins a new one
            raise
        self._end += len(content)
        self._lines += len(listed)
        for event in listed:
            self.state = apply(self.state, event)

    def _rewrite(self) -> None:
        """Write the state as a new file, so that a torn or long one is never appended to."""
        new_path = f"{self._directory}/{_NEW_NAME}"
        if self._disk.exists(new_path):
            self._disk.unlink(new_path)
        events = fold(self.state)
        content = b"".join(map(encode_line, events))
        file = self._disk.create(new_path)
        try:
            file.write([content], offset=0)
            file.sync()
            self._disk.reached(CrashPoint.MANIFEST_REPLACING)
            self._disk.rename(new_path, self._path)
            self._disk.sync_directory(self._directory)
        except OSError:
            file.close()
            raise
        self._disk.reached(CrashPoint.MANIFEST_REPLACED)
        self.close()
        self._file = file
        self._end = len(content)
        self._lines = len(events)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
