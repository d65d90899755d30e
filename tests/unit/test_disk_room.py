"""Room on the disk: looked at now and then, counted in between."""

import pytest

from pulzar.errors import OutOfSpace, Unavailable
from pulzar.limits import MIB
from pulzar.testing import ManualClock, SimulatedDisk
from pulzar.varidb.disk_room import DiskRoom


def room_of(disk: SimulatedDisk, clock: ManualClock, *, reserve_bytes: int = MIB) -> DiskRoom:
    disk.make_directory("/data")
    return DiskRoom(disk, "/data", clock=clock, reserve_bytes=reserve_bytes)


def fill(disk: SimulatedDisk, size: int) -> None:
    file = disk.create(f"/data/{disk.operations}")
    file.write([bytes(size)], offset=0)
    file.close()


def test_what_was_taken_counts_before_the_disk_shows_it() -> None:
    room = room_of(SimulatedDisk(capacity=10 * MIB), ManualClock(), reserve_bytes=MIB)
    for _ in range(9):
        room.take(MIB)
    with pytest.raises(OutOfSpace):
        room.require(10 * MIB)


def test_a_look_at_the_disk_replaces_what_was_counted() -> None:
    disk, clock = SimulatedDisk(capacity=10 * MIB), ManualClock()
    room = room_of(disk, clock)
    room.take(5 * MIB)  # and nothing was written in the end
    clock.advance(1.0)
    room.take(9 * MIB)
    fill(disk, 9 * MIB)
    clock.advance(1.0)
    with pytest.raises(OutOfSpace):
        room.take(1)


def test_the_reserve_is_not_given_away() -> None:
    disk = SimulatedDisk(capacity=10 * MIB)
    room = room_of(disk, ManualClock(), reserve_bytes=4 * MIB)
    with pytest.raises(OutOfSpace):
        room.require(6 * MIB + 1)
    room.take(6 * MIB)


class SilentDisk(SimulatedDisk):
    """A disk that does not say how much is free."""

    def free_bytes(self, path: str) -> int:
        raise OSError(5, "Input/output error", path)


def test_a_disk_that_cannot_be_asked_is_no_full_one() -> None:
    with pytest.raises(Unavailable):
        room_of(SilentDisk(), ManualClock()).require(1)
