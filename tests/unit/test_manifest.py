"""The MANIFEST: whole lines count, their order adds up to a state, and a new file says the same."""

import errno

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulzar.disk import read_file
from pulzar.errors import VolumeTooNew
from pulzar.limits import MANIFEST_LINES_MAX
from pulzar.testing import Fault, FaultPlan, SimulatedDisk
from pulzar.varidb.manifest import (
    Added,
    Event,
    Lost,
    Manifest,
    ManifestFile,
    Opened,
    Removed,
    Replaced,
    Reverted,
    Sealed,
    Swapped,
    apply,
    decode_lines,
    encode_line,
    fold,
)

DIRECTORY = "/volume"
PATH = f"{DIRECTORY}/MANIFEST"

numbers = st.integers(1, 9)
some = st.lists(numbers, min_size=1, max_size=3).map(tuple)
events_of_all_kinds = st.lists(
    st.one_of(
        st.builds(
            Added,
            segment=numbers,
            kind=st.integers(0, 1),
            salt=st.just("5a" * 16),
            opening=st.just("0e" * 16),
            first_seq=st.integers(0, 1000),
            previous=st.integers(0, 9),
            previous_end=st.integers(0, 9000),
        ),
        st.builds(Sealed, segment=numbers),
        st.builds(
            Replaced,
            inputs=some,
            outputs=some,
            blobs=st.lists(st.sampled_from(["aa", "bb"]), max_size=2).map(tuple),
            at_ms=st.integers(0, 1000),
            horizon=st.integers(0, 1000),
        ),
        st.builds(Swapped, inputs=some),
        st.builds(Removed, segments=some),
        st.builds(Reverted, inputs=some),
        st.builds(Lost, segments=some),
        st.builds(Opened, place=st.sampled_from(["here", "there"])),
    ),
    max_size=25,
)


def added(segment: int) -> Added:
    return Added(segment=segment, kind=0, salt="5a" * 16, opening="0e" * 16)


def replaced(*inputs: int, horizon: int = 0, at_ms: int = 5, blob: str = "") -> Replaced:
    blobs = (blob,) if blob else ()
    return Replaced(inputs=inputs, outputs=(9,), at_ms=at_ms, horizon=horizon, blobs=blobs)


def state_of(*events: Event) -> Manifest:
    state = Manifest()
    for event in events:
        state = apply(state, event)
    return state


def new_disk(content: bytes | None = None) -> SimulatedDisk:
    disk = SimulatedDisk()
    disk.make_directory(DIRECTORY)
    if content is not None:
        disk.create(PATH).write([content], offset=0)
    return disk


# The lines.


@given(events_of_all_kinds)
def test_lines_come_back(events: list[Event]) -> None:
    content = b"".join(map(encode_line, events))
    assert decode_lines(content) == (events, len(content), 0)


@given(events_of_all_kinds.filter(bool), st.data())
def test_a_torn_last_line_never_happened(events: list[Event], data: st.DataObject) -> None:
    *whole, last = map(encode_line, events)
    torn = last[: data.draw(st.integers(1, len(last) - 1))]
    good = b"".join(whole)
    assert decode_lines(good + torn) == (events[:-1], len(good), 1)


def test_every_flipped_bit_of_a_line_takes_that_line_only() -> None:
    lines = [encode_line(added(1)), encode_line(Sealed(segment=1)), encode_line(added(2))]
    for bit in range(len(lines[1]) * 8):
        damaged = bytearray(lines[1])
        damaged[bit >> 3] ^= 1 << (bit & 7)
        events, _, bad = decode_lines(lines[0] + bytes(damaged) + lines[2])
        assert bad >= 1, bit
        # A line that lost its end swallows the next one.
        swallowed = b"\n" not in damaged and b"\r" not in damaged
        assert events == ([added(1)] if swallowed else [added(1), added(2)]), bit


def test_an_event_of_a_newer_version_is_not_passed_over() -> None:
    text = b'{"event":"split","segment":1}'
    line = encode_line(Sealed(segment=1))
    assert decode_lines(line + b"00000000 " + text + b"\n") == ([Sealed(segment=1)], len(line), 1)
    with pytest.raises(VolumeTooNew, match="newer version"):
        decode_lines(line + checksummed(text))


def test_a_newer_member_of_a_known_event_is_passed_over() -> None:
    events, _, bad = decode_lines(checksummed(b'{"event":"sealed","segment":4,"colour":"red"}'))
    assert (events, bad) == ([Sealed(segment=4)], 0)


def checksummed(text: bytes) -> bytes:
    """A line as a newer version would write it."""
    return b"%08x %s\n" % (google_crc32c.value(text), text)


# The state.


@given(events_of_all_kinds)
def test_folded_events_add_up_to_the_same_state(events: list[Event]) -> None:
    state = state_of(*events)
    assert state_of(*fold(state)) == state
    assert fold(state_of(*fold(state))) == fold(state)


def test_a_replaced_segment_is_retired_until_it_is_removed() -> None:
    events: list[Event] = [added(1), added(2), added(9), Sealed(segment=1)]
    events.append(replaced(1, 2, at_ms=77, horizon=40, blob="ab"))
    state = state_of(*events)
    assert state.retired == {1: 77, 2: 77}
    assert state.retired_blobs == {"ab": 77}
    assert [one.inputs for one in state.unswapped] == [(1, 2)]
    state = apply(state, Swapped(inputs=(1, 2)))
    assert state.unswapped == []
    state = apply(state, Removed(segments=(1, 2)))
    assert (state.retired, state.retired_blobs, state.swapped) == ({}, {}, frozenset())
    assert (set(state.segments), state.sealed) == ({9}, frozenset())
    assert state.horizon == 40


def test_removing_some_inputs_of_a_replacement_leaves_the_replacement() -> None:
    state = state_of(added(1), added(2), replaced(1, 2), Removed(segments=(1,)))
    assert set(state.segments) == {2}
    assert set(state.retired) == {1, 2}


def test_a_reverted_replacement_gives_its_inputs_back() -> None:
    state = state_of(added(1), replaced(1), Swapped(inputs=(1,)), Reverted(inputs=(1,)))
    assert (state.retired, state.swapped) == ({}, frozenset())
    assert set(state.segments) == {1}


def test_a_lost_segment_is_forgotten_and_replacements_stay() -> None:
    state = state_of(added(1), Sealed(segment=1), replaced(1), Lost(segments=(1,)))
    assert (state.segments, state.sealed) == ({}, frozenset())
    assert set(state.retired) == {1}


def test_the_horizon_never_goes_back() -> None:
    assert state_of(replaced(1, horizon=50), replaced(2, horizon=20)).horizon == 50


# The file.


def test_a_new_manifest_is_empty() -> None:
    manifest = ManifestFile(new_disk(), DIRECTORY)
    assert (manifest.state, manifest.bad_lines) == (Manifest(), 0)


@given(events_of_all_kinds, st.integers(0, 3))
def test_what_was_appended_is_durable(events: list[Event], seed: int) -> None:
    disk = new_disk()
    disk.sync_directory("/")
    manifest = ManifestFile(disk, DIRECTORY)
    for event in events:
        manifest.append([event])
    disk.power_loss(seed)
    assert ManifestFile(disk, DIRECTORY).state == manifest.state == state_of(*events)


def test_a_torn_line_is_gone_with_the_next_append() -> None:
    disk = new_disk(encode_line(added(1)) + encode_line(added(2))[:-1])
    manifest = ManifestFile(disk, DIRECTORY)
    assert (set(manifest.state.segments), manifest.bad_lines) == ({1}, 1)
    manifest.append([added(3)])
    again = ManifestFile(disk, DIRECTORY)
    assert (set(again.state.segments), again.bad_lines) == ({1, 3}, 0)


def test_a_half_written_new_file_is_thrown_away() -> None:
    disk = new_disk(encode_line(added(1)))
    disk.create(f"{PATH}.new").write([b"half a line"], offset=0)
    ManifestFile(disk, DIRECTORY).append([added(2)])
    assert set(ManifestFile(disk, DIRECTORY).state.segments) == {1, 2}
    assert disk.list(DIRECTORY) == ["MANIFEST"]


def test_a_long_manifest_is_folded() -> None:
    disk = new_disk()
    manifest = ManifestFile(disk, DIRECTORY)
    manifest.append([added(1), *(Opened(place=str(n)) for n in range(MANIFEST_LINES_MAX - 10))])
    before = read_file(disk, PATH)
    manifest.append([Opened(place="here")] * 20)
    after = read_file(disk, PATH)
    assert before.count(b"\n") > MANIFEST_LINES_MAX - 10
    assert after.count(b"\n") < 30
    assert ManifestFile(disk, DIRECTORY).state == state_of(added(1), Opened(place="here"))


@pytest.mark.parametrize("kind", ["write", "sync"])
@pytest.mark.parametrize("seed", range(4))
def test_after_a_failed_append_a_new_file_begins(kind: str, seed: int) -> None:
    disk = new_disk()
    disk.sync_directory("/")
    manifest = ManifestFile(disk, DIRECTORY)
    manifest.append([added(1)])
    disk.faults = FaultPlan(Fault(kinds=(kind,), path="*/MANIFEST*", short=True))
    with pytest.raises(OSError):
        manifest.append([added(2)])
    assert set(manifest.state.segments) == {1}
    manifest.append([added(3)])
    disk.power_loss(seed)
    again = ManifestFile(disk, DIRECTORY)
    assert (set(again.state.segments), again.bad_lines) == ({1, 3}, 0)


@pytest.mark.parametrize("kind", ["create", "write", "sync", "rename", "sync_directory"])
def test_a_new_file_that_fails_leaves_what_there_was(kind: str) -> None:
    disk = new_disk(encode_line(added(1)))
    manifest = ManifestFile(disk, DIRECTORY)
    disk.faults = FaultPlan(Fault(kinds=(kind,), error=errno.ENOSPC))
    with pytest.raises(OSError):
        manifest.append([added(2)])
    assert set(manifest.state.segments) == {1}
    assert set(ManifestFile(disk, DIRECTORY).state.segments) == {1}
    manifest.append([added(3)])
    manifest.close()
    manifest.close()
    assert set(ManifestFile(disk, DIRECTORY).state.segments) == {1, 3}


def test_another_place_than_the_last_is_a_copy() -> None:
    manifest = ManifestFile(new_disk(), DIRECTORY)
    assert not manifest.is_copy("anywhere")
    manifest.append([Opened(place="here")])
    assert not manifest.is_copy("here")
    assert manifest.is_copy("there")
