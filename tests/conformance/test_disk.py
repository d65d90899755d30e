"""Whatever is a Disk behaves like this: the disk of the machine and the simulated one."""

from pathlib import Path

import pytest

from pulzar.disk import Disk, SystemDisk, read_file, write_file
from pulzar.testing import SimulatedDisk


@pytest.fixture(params=["system", "simulated"])
def disk(request: pytest.FixtureRequest) -> Disk:
    return SystemDisk() if request.param == "system" else SimulatedDisk(seed=1)


@pytest.fixture
def home(disk: Disk, tmp_path: Path) -> str:
    path = str(tmp_path / "home")
    disk.make_directory(path)
    return path


class TestFile:
    def test_reads_back_what_was_written(self, disk: Disk, home: str) -> None:
        file = disk.create(f"{home}/a")
        file.write([b"one", bytearray(b"two"), memoryview(b"three")], offset=0)
        assert file.read(6, offset=0) == b"onetwo"
        assert file.read(100, offset=3) == b"twothree"
        assert file.read(10, offset=11) == b""
        assert file.size() == 11
        file.close()

    def test_writes_more_buffers_than_one_system_call_takes(self, disk: Disk, home: str) -> None:
        file = disk.create(f"{home}/a")
        file.write([bytes([n % 251]) for n in range(3000)], offset=7)
        assert file.read(3000, offset=7) == bytes(n % 251 for n in range(3000))
        file.close()

    def test_writing_nothing_changes_nothing(self, disk: Disk, home: str) -> None:
        file = disk.create(f"{home}/a")
        file.write([], offset=5)
        file.write([b""], offset=5)
        assert file.size() == 0
        file.close()

    def test_synced_writes_are_writes(self, disk: Disk, home: str) -> None:
        file = disk.create(f"{home}/a")
        file.allocate(8)
        file.write_synced([b"ab", b"", b"cd"], offset=2)
        many = [b"%d" % (n % 10) for n in range(2500)]  # more than one call can take
        file.write_synced(many, offset=6)
        assert file.read(10_000, offset=0) == bytes(2) + b"abcd" + b"".join(many)
        file.close()

    def test_a_hole_reads_as_zeros(self, disk: Disk, home: str) -> None:
        file = disk.create(f"{home}/a")
        file.write([b"x"], offset=1000)
        assert file.read(2000, offset=0) == bytes(1000) + b"x"
        file.close()

    def test_overwrites_in_place(self, disk: Disk, home: str) -> None:
        write_file(disk, f"{home}/a", b"0123456789")
        file = disk.open(f"{home}/a", write=True)
        file.write([b"abc"], offset=4)
        file.sync()
        file.close()
        assert read_file(disk, f"{home}/a") == b"0123abc789"

    def test_allocate_grows_with_zeros_and_keeps_what_is_there(self, disk: Disk, home: str) -> None:
        file = disk.create(f"{home}/a")
        file.write([b"abc"], offset=0)
        file.allocate(5000)
        assert file.read(6000, offset=0) == b"abc" + bytes(4997)
        file.allocate(10)
        assert file.size() == 5000
        with pytest.raises(OSError):
            file.allocate(0)
        file.close()

    def test_truncate_cuts_and_growing_again_shows_zeros(self, disk: Disk, home: str) -> None:
        file = disk.create(f"{home}/a")
        file.write([b"x" * 1500], offset=0)
        file.truncate(700)
        assert file.size() == 700
        file.truncate(1500)
        assert file.read(1500, offset=0) == b"x" * 700 + bytes(800)
        file.close()

    def test_cached_read_is_all_or_none(self, disk: Disk, home: str) -> None:
        write_file(disk, f"{home}/a", b"abcdef")
        file = disk.open(f"{home}/a")
        assert file.read_cached(3, offset=1) in (b"bcd", None)
        assert file.read_cached(10, offset=0) is None
        file.close()

    def test_read_only_handle_does_not_write(self, disk: Disk, home: str) -> None:
        write_file(disk, f"{home}/a", b"abc")
        file = disk.open(f"{home}/a")
        with pytest.raises(OSError):
            file.write([b"x"], offset=0)
        with pytest.raises(OSError):
            file.truncate(0)
        with pytest.raises(OSError):
            file.allocate(10)
        file.sync()
        file.close()
        assert read_file(disk, f"{home}/a") == b"abc"

    def test_closed_file_is_an_error(self, disk: Disk, home: str) -> None:
        file = disk.create(f"{home}/a")
        file.close()
        for use in (file.size, file.sync, file.close):
            with pytest.raises(OSError):
                use()

    def test_open_file_outlives_its_name(self, disk: Disk, home: str) -> None:
        write_file(disk, f"{home}/a", b"abc")
        file = disk.open(f"{home}/a")
        disk.unlink(f"{home}/a")
        assert file.read(3, offset=0) == b"abc"
        file.close()


class TestNames:
    def test_create_refuses_a_taken_name(self, disk: Disk, home: str) -> None:
        disk.create(f"{home}/a").close()
        with pytest.raises(FileExistsError):
            disk.create(f"{home}/a")

    @pytest.mark.parametrize("path", ["missing", "missing/deeper"])
    def test_missing_file(self, disk: Disk, home: str, path: str) -> None:
        assert not disk.exists(f"{home}/{path}")
        with pytest.raises(FileNotFoundError):
            disk.open(f"{home}/{path}")
        with pytest.raises(FileNotFoundError):
            disk.unlink(f"{home}/{path}")
        with pytest.raises(FileNotFoundError):
            disk.rename(f"{home}/{path}", f"{home}/b")

    def test_missing_directory(self, disk: Disk, home: str) -> None:
        assert disk.list(f"{home}/missing") == []
        with pytest.raises(FileNotFoundError):
            disk.create(f"{home}/missing/a")
        with pytest.raises(FileNotFoundError):
            disk.sync_directory(f"{home}/missing")
        with pytest.raises(FileNotFoundError):
            disk.free_bytes(f"{home}/missing")
        with pytest.raises(FileNotFoundError):
            disk.lock(f"{home}/missing/LOCK")

    def test_list_is_sorted(self, disk: Disk, home: str) -> None:
        for name in ("b", "c", "a"):
            disk.create(f"{home}/{name}").close()
        disk.make_directory(f"{home}/d")
        assert disk.list(home) == ["a", "b", "c", "d"]
        with pytest.raises(NotADirectoryError):
            disk.list(f"{home}/a")

    def test_rename_replaces(self, disk: Disk, home: str) -> None:
        write_file(disk, f"{home}/a", b"new")
        write_file(disk, f"{home}/b", b"old")
        disk.rename(f"{home}/a", f"{home}/b")
        assert disk.list(home) == ["b"]
        assert read_file(disk, f"{home}/b") == b"new"

    def test_rename_to_another_directory(self, disk: Disk, home: str) -> None:
        disk.make_directory(f"{home}/sub")
        write_file(disk, f"{home}/a", b"abc")
        disk.rename(f"{home}/a", f"{home}/sub/b")
        assert read_file(disk, f"{home}/sub/b") == b"abc"
        assert disk.list(home) == ["sub"]
        with pytest.raises(FileNotFoundError):
            disk.rename(f"{home}/sub/b", f"{home}/missing/b")

    def test_rename_to_its_own_name(self, disk: Disk, home: str) -> None:
        write_file(disk, f"{home}/a", b"abc")
        disk.rename(f"{home}/a", f"{home}/a")
        assert read_file(disk, f"{home}/a") == b"abc"

    def test_rename_does_not_mix_files_and_directories(self, disk: Disk, home: str) -> None:
        write_file(disk, f"{home}/a", b"abc")
        disk.make_directory(f"{home}/d")
        with pytest.raises(IsADirectoryError):
            disk.rename(f"{home}/a", f"{home}/d")
        with pytest.raises(NotADirectoryError):
            disk.rename(f"{home}/d", f"{home}/a")

    def test_unlink_is_for_files(self, disk: Disk, home: str) -> None:
        disk.make_directory(f"{home}/d")
        with pytest.raises(IsADirectoryError):
            disk.unlink(f"{home}/d")

    def test_make_directory_makes_parents_and_is_repeatable(self, disk: Disk, home: str) -> None:
        disk.make_directory(f"{home}/x/y/z")
        disk.make_directory(f"{home}/x/y/z")
        disk.sync_directory(f"{home}/x")
        assert disk.list(f"{home}/x") == ["y"]
        assert disk.exists(f"{home}/x/y/z")
        disk.create(f"{home}/file").close()
        with pytest.raises(FileExistsError):
            disk.make_directory(f"{home}/file")
        with pytest.raises(NotADirectoryError):
            disk.make_directory(f"{home}/file/below")

    def test_sync_directory_is_for_directories(self, disk: Disk, home: str) -> None:
        disk.create(f"{home}/a").close()
        with pytest.raises(NotADirectoryError):
            disk.sync_directory(f"{home}/a")

    def test_file_id_tells_a_copy_from_the_file(self, disk: Disk, home: str) -> None:
        write_file(disk, f"{home}/a", b"abc")
        write_file(disk, f"{home}/b", b"abc")
        name = disk.file_id(f"{home}/a")
        assert name != disk.file_id(f"{home}/b")
        disk.rename(f"{home}/a", f"{home}/c")
        assert disk.file_id(f"{home}/c") == name
        with pytest.raises(FileNotFoundError):
            disk.file_id(f"{home}/a")

    def test_free_bytes(self, disk: Disk, home: str) -> None:
        assert disk.free_bytes(home) > 0


class TestLock:
    def test_is_exclusive_until_released(self, disk: Disk, home: str) -> None:
        lock = disk.lock(f"{home}/LOCK")
        with pytest.raises(BlockingIOError):
            disk.lock(f"{home}/LOCK")
        lock.release()
        disk.lock(f"{home}/LOCK").release()
        assert disk.list(home) == ["LOCK"]

    def test_is_of_one_file(self, disk: Disk, home: str) -> None:
        first = disk.lock(f"{home}/first")
        disk.lock(f"{home}/second").release()
        first.release()
