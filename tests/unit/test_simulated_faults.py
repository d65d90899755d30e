"""Planned faults of the simulated disk, and the copies that users make of it."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pulzar.disk import File, read_file, write_file
from pulzar.testing import Fault, FaultPlan, Killed, SimulatedDisk, at_point

SEEDS = range(120)


def durable_file(disk: SimulatedDisk, content: bytes) -> File:
    write_file(disk, "/a", content)
    return disk.open("/a", write=True)


@contextmanager
def fails_with(number: int) -> Iterator[None]:
    with pytest.raises(OSError) as error:
        yield
    assert error.value.errno == number


class TestFaults:
    def test_only_the_nth_of_its_kind_and_path_fails(self) -> None:
        disk = SimulatedDisk()
        files = [disk.create(f"/{name}") for name in ("a.seg", "b.blob")]
        disk.faults = FaultPlan(Fault(nth=2, kinds=("sync",), path="*.seg", error=errno.ENOSPC))
        for number, file in enumerate(files * 3):
            file.write([b"x"], offset=number)
            if number == 2:
                with fails_with(errno.ENOSPC):
                    file.sync()
            else:
                file.sync()
        assert disk.faults.fired == ["sync /a.seg"]

    def test_a_lasting_fault_stays(self) -> None:
        disk = SimulatedDisk()
        file = durable_file(disk, b"abc")
        disk.faults = FaultPlan(Fault(nth=2, kinds=("read",), lasting=True))
        file.read(1, offset=0)
        for _ in range(3):
            with fails_with(errno.EIO):
                file.read(1, offset=0)
        disk.faults = None
        assert file.read(1, offset=0) == b"a"

    def test_every_operation_of_a_script_can_fail(self) -> None:
        def script(disk: SimulatedDisk) -> None:
            disk.make_directory("/v")
            file = disk.create("/v/a")
            file.allocate(100)
            file.write([b"abc"], offset=0)
            file.truncate(50)
            file.sync()
            file.close()
            disk.rename("/v/a", "/v/b")
            disk.sync_directory("/v")
            disk.list("/v")
            disk.open("/v/b").read(3, offset=0)
            disk.unlink("/v/b")

        whole = SimulatedDisk()
        script(whole)
        kinds = []
        for nth in range(1, whole.operations + 1):
            disk = SimulatedDisk()
            disk.faults = FaultPlan(Fault(nth=nth))
            with fails_with(errno.EIO):
                script(disk)
            kinds.append(disk.faults.fired[0].split()[0])
        assert sorted(kinds) == sorted(whole.operations_by_kind.elements())
        assert len(set(kinds)) == 12

    def test_a_short_write_reaches_the_cache_in_part(self) -> None:
        sizes = set()
        for seed in SEEDS:
            disk = SimulatedDisk(seed)
            file = durable_file(disk, b"")
            disk.faults = FaultPlan(Fault(kinds=("write",), short=True))
            with fails_with(errno.EIO):
                file.write([b"abc", b"def"], offset=0)
            assert b"abcdef".startswith(read_file(disk, "/a"))
            sizes.add(file.size())
        assert sizes == set(range(7))

    def test_a_failed_sync_is_not_healed_by_a_second_one(self) -> None:
        new = b"n" * 20_000
        shown = []
        for seed in SEEDS:
            disk = SimulatedDisk(seed)
            file = durable_file(disk, bytes(20_000))
            file.write([new], offset=0)
            disk.faults = FaultPlan(Fault(kinds=("sync",)))
            with fails_with(errno.EIO):
                file.sync()
            file.sync()
            shown.append(file.read(20_000, offset=0) == new)
            assert all(
                read_file(disk.clone_after_power_loss(other), "/a") != new for other in range(20)
            )
            disk.kill()
            disk.open("/a").sync()
            disk.power_loss(seed)
            assert read_file(disk, "/a") != new
        assert 0.3 < shown.count(True) / len(shown) < 0.7

    def test_a_failed_sync_of_a_growing_file_keeps_the_size_pending_or_durable(self) -> None:
        for seed in SEEDS:
            disk = SimulatedDisk(seed)
            file = durable_file(disk, b"abc")
            file.write([b"n" * 5000], offset=3)
            disk.faults = FaultPlan(Fault(kinds=("sync",)))
            with fails_with(errno.EIO):
                file.sync()
            assert file.size() == 5003
            file.sync()
            disk.power_loss(seed)
            content = read_file(disk, "/a")
            assert len(content) == 5003
            assert content[:3] == b"abc"
            assert 0 in content

    def test_writing_again_after_a_failed_sync_does_reach_the_platter(self) -> None:
        for seed in SEEDS:
            disk = SimulatedDisk(seed)
            file = durable_file(disk, bytes(600))
            file.write([b"new"], offset=0)
            disk.faults = FaultPlan(Fault(kinds=("sync",)))
            with fails_with(errno.EIO):
                file.sync()
            file.write([b"new"], offset=0)
            file.sync()
            disk.power_loss(seed)
            assert read_file(disk, "/a")[:3] == b"new"

    def test_a_failed_sync_of_a_directory_is_not_healed_by_a_second_one(self) -> None:
        disk = SimulatedDisk()
        disk.create("/a").close()
        disk.faults = FaultPlan(Fault(kinds=("sync_directory",)))
        with fails_with(errno.EIO):
            disk.sync_directory("/")
        disk.sync_directory("/")
        assert not all(disk.clone_after_power_loss(seed).exists("/a") for seed in SEEDS)
        disk.create("/b").close()
        disk.sync_directory("/")
        assert all(disk.clone_after_power_loss(seed).exists("/a") for seed in SEEDS)

    def test_a_full_disk_takes_what_fits(self) -> None:
        disk = SimulatedDisk(capacity=1000)
        file = disk.create("/a")
        file.write([b"a" * 600], offset=0)
        assert disk.free_bytes("/") == 400
        other = disk.create("/b")
        with fails_with(errno.ENOSPC):
            other.allocate(401)
        assert other.size() == 0
        with fails_with(errno.ENOSPC):
            other.write([b"b" * 500], offset=0)
        assert other.size() == 400
        file.write([b"x"], offset=0)
        disk.unlink("/a")
        other.write([b"b" * 100], offset=400)
        assert disk.free_bytes("/") == 500

    def test_a_fault_that_cannot_happen_is_refused(self) -> None:
        with pytest.raises(ValueError):
            Fault(kinds=("wirte",))
        with pytest.raises(ValueError):
            Fault(nth=0)
        with pytest.raises(ValueError):
            Fault(kinds=("reached",))


class TestKilled:
    def test_a_process_killed_in_an_operation_does_nothing_more(self) -> None:
        disk = SimulatedDisk(seed=1)
        file = durable_file(disk, b"")
        disk.lock("/LOCK")
        disk.faults = FaultPlan(Fault(kinds=("write",), kill=True))
        with pytest.raises(Killed):
            file.write([b"abc"], offset=0)
        with pytest.raises(Killed):
            file.sync()
        with pytest.raises(Killed):
            disk.unlink("/a")
        with pytest.raises(Killed):
            disk.exists("/a")
        file.close()
        disk.kill()
        assert disk.exists("/a")
        disk.lock("/LOCK").release()
        with fails_with(errno.EBADF):
            file.sync()

    def test_named_points_are_counted_and_can_kill(self) -> None:
        disk = SimulatedDisk()
        before = disk.operations
        disk.faults = FaultPlan(Fault(lasting=True), at_point("commit: synced", nth=2))
        disk.reached("commit: written")
        disk.reached("commit: synced")
        with pytest.raises(Killed):
            disk.reached("commit: synced")
        assert disk.operations == before
        assert disk.points == {"commit: written": 1, "commit: synced": 2}

    def test_the_log_tells_what_happened(self) -> None:
        disk = SimulatedDisk()
        disk.log = []
        file = disk.create("/a")
        disk.faults = FaultPlan(Fault(kinds=("write",)))
        with fails_with(errno.EIO):
            file.write([b"abc"], offset=5)
        disk.power_loss(1)
        assert [line.strip() for line in disk.log] == [
            "create /a",
            "write /a @5+3",
            "failed: EIO",
            "power loss",
        ]


class TestCopies:
    def test_a_copy_is_its_own_and_durable(self) -> None:
        disk = SimulatedDisk()
        disk.make_directory("/v/sub")
        write_file(disk, "/v/sub/a", b"abc")
        disk.copy_directory("/v", "/copies/1")
        disk.open("/v/sub/a", write=True).write([b"xyz"], offset=0)
        assert disk.file_id("/v/sub/a") != disk.file_id("/copies/1/sub/a")
        disk.power_loss(1)
        assert read_file(disk, "/copies/1/sub/a") == b"abc"

    def test_steps_see_the_changes_between_them(self) -> None:
        seen = set()
        for seed in SEEDS:
            disk = SimulatedDisk()
            disk.make_directory("/v")
            write_file(disk, "/v/a", b"a" * 100)
            write_file(disk, "/v/gone", b"g")
            for number, _ in enumerate(disk.copy_steps("/v", "/copy", seed, chunk_bytes=50)):
                if number == 1:
                    disk.open("/v/a", write=True).write([b"new" * 50], offset=0)
                    if disk.exists("/v/gone"):
                        disk.unlink("/v/gone")
                    disk.create("/v/late").close()
                    disk.kill()
            assert "late" not in disk.list("/copy")
            seen.add((read_file(disk, "/copy/a"), disk.exists("/copy/gone")))
        whole = b"new" * 50
        assert (whole, True) in seen  # copied after the change
        assert (b"a" * 50 + whole[50:], False) in seen  # in the middle of it, as cp
        assert (b"a" * 50 + whole[50:100], False) in seen  # in the middle of it, as tar

    def test_a_copy_follows_an_opened_file_that_loses_its_name(self) -> None:
        disk = SimulatedDisk()
        disk.make_directory("/v")
        write_file(disk, "/v/a", b"a" * 100)
        steps = disk.copy_steps("/v", "/copy", 1, chunk_bytes=50)
        assert [next(steps), next(steps)] == ["a", "a @0"]
        disk.unlink("/v/a")
        assert list(steps) == ["a @50"]
        assert read_file(disk, "/copy/a") == b"a" * 100

    def test_a_power_loss_ends_a_copy(self) -> None:
        disk = SimulatedDisk()
        disk.make_directory("/v")
        write_file(disk, "/v/a", b"a" * 100)
        disk.sync_directory("/")
        steps = disk.copy_steps("/v", "/copy", 1, chunk_bytes=50)
        assert [next(steps), next(steps)] == ["a", "a @0"]
        disk.power_loss(1)
        assert list(steps) == []
        assert read_file(disk, "/copy/a") == b"a" * 50

    def test_rollback_brings_the_snapshot_back(self) -> None:
        disk = SimulatedDisk()
        disk.make_directory("/v")
        write_file(disk, "/v/a", b"old")
        snapshot = disk.snapshot("/v")
        write_file(disk, "/v/b", b"b")
        disk.open("/v/a", write=True).write([b"new"], offset=0)
        disk.kill()
        disk.rollback("/v", snapshot)
        assert disk.snapshot("/v") == snapshot == {"a": b"old"}
        disk.power_loss(1)
        assert disk.snapshot("/v") == snapshot
