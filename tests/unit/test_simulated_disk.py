"""What the simulated disk keeps, loses and mixes. Section by section as its files are."""

import errno
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulzar.disk import File, read_file, write_file
from pulzar.testing import SimulatedDisk

SECTOR = 512
SEEDS = range(120)

writes = st.tuples(st.just("write"), st.integers(0, 5000), st.binary(min_size=1, max_size=1500))
resizes = st.tuples(st.sampled_from(["truncate", "allocate"]), st.integers(1, 6000), st.just(b""))
seeds = st.integers(0, 2**32)


def change(file: File, step: tuple[str, int, bytes]) -> None:
    kind, number, content = step
    if kind == "write":
        file.write([content], offset=number)
    elif kind == "truncate":
        file.truncate(number)
    else:
        file.allocate(number)


def sectors(content: bytes, count: int) -> list[bytes]:
    padded = content.ljust(count * SECTOR, b"\0")
    return [padded[n * SECTOR : (n + 1) * SECTOR] for n in range(count)]


def durable_file(disk: SimulatedDisk, content: bytes) -> File:
    """An open file `/a` that has `content`, all of it durable."""
    write_file(disk, "/a", content)
    return disk.open("/a", write=True)


def outcomes(disk: SimulatedDisk, look: Callable[[SimulatedDisk], object]) -> set[object]:
    """What can be seen after a power loss now."""
    return {look(disk.clone_after_power_loss(seed)) for seed in SEEDS}


class TestContent:
    @given(st.lists(writes | resizes, max_size=8), seeds, st.booleans())
    def test_synced_bytes_with_a_synced_name_survive(
        self, steps: list[tuple[str, int, bytes]], seed: int, torn: bool
    ) -> None:
        disk = SimulatedDisk()
        file = disk.create("/a")
        for step in steps:
            change(file, step)
        file.sync()
        disk.sync_directory("/")
        written = file.read(10_000, offset=0)
        disk.power_loss(seed, torn_sectors=torn)
        assert read_file(disk, "/a") == written

    @given(st.lists(writes | resizes, max_size=5), st.lists(writes | resizes, max_size=5), seeds)
    def test_synced_bytes_survive_what_is_written_elsewhere(
        self,
        synced: list[tuple[str, int, bytes]],
        unsynced: list[tuple[str, int, bytes]],
        seed: int,
    ) -> None:
        disk = SimulatedDisk()
        file = durable_file(disk, b"")
        for step in synced:
            change(file, step)
        file.sync()
        before = file.read(10_000, offset=0)
        safe_bytes = len(before)
        touched: set[int] = set()
        sizes = [len(before)]
        for step in unsynced:
            change(file, step)
            sizes.append(file.size())
            safe_bytes = min(safe_bytes, file.size())
            if step[0] == "write":
                touched |= set(range(step[1] // SECTOR, (step[1] + len(step[2])) // SECTOR + 1))
        disk.power_loss(seed)
        after = read_file(disk, "/a")
        assert min(sizes) <= len(after) <= max(sizes)
        for number in range(safe_bytes // SECTOR):
            if number not in touched:
                place = slice(number * SECTOR, (number + 1) * SECTOR)
                assert after[place] == before[place]

    @given(st.lists(writes, min_size=1, max_size=6), seeds)
    def test_every_surviving_sector_was_once_written(
        self, steps: list[tuple[str, int, bytes]], seed: int
    ) -> None:
        disk = SimulatedDisk()
        file = durable_file(disk, b"old" * 700)
        history = [sectors(file.read(10_000, offset=0), 20)]
        for step in steps:
            change(file, step)
            history.append(sectors(file.read(10_000, offset=0), 20))
        disk.power_loss(seed)
        after = read_file(disk, "/a")
        for number, content in enumerate(sectors(after, 20)):
            known = {moment[number] for moment in history}
            if number == len(after) // SECTOR:
                known = {each[: len(after) % SECTOR].ljust(SECTOR, b"\0") for each in known}
            assert content in known

    def test_unsynced_bytes_may_be_there_wholly_partly_or_not(self) -> None:
        disk = SimulatedDisk()
        file = durable_file(disk, bytes(8 * SECTOR))
        file.write([b"n" * 8 * SECTOR], offset=0)
        kept = outcomes(disk, lambda d: read_file(d, "/a").count(b"n") // SECTOR)
        assert {0, 8} < kept
        assert len(kept) > 4

    def test_sectors_keep_their_order_only_one_by_one(self) -> None:
        """The later of two writes may survive without the earlier one."""
        disk = SimulatedDisk()
        file = durable_file(disk, bytes(2 * SECTOR))
        file.write([b"1"], offset=0)
        file.write([b"2"], offset=SECTOR)
        seen = outcomes(disk, lambda d: read_file(d, "/a")[::SECTOR])
        assert seen == {b"\0\0", b"1\0", b"\x002", b"12"}

    def test_an_older_unsynced_version_may_survive(self) -> None:
        disk = SimulatedDisk()
        file = durable_file(disk, b"0")
        for content in (b"1", b"2", b"3"):
            file.write([content], offset=0)
        assert outcomes(disk, lambda d: read_file(d, "/a")) == {b"0", b"1", b"2", b"3"}

    def test_a_new_file_may_be_empty_short_or_have_zeros_for_its_bytes(self) -> None:
        disk = SimulatedDisk()
        disk.create("/a").write([b"n" * 4 * SECTOR], offset=0)
        disk.sync_directory("/")
        seen = outcomes(disk, lambda d: read_file(d, "/a"))
        assert {b"", b"n" * 4 * SECTOR, bytes(4 * SECTOR)} < seen
        assert any(0 < len(content) < 4 * SECTOR for content in seen if isinstance(content, bytes))

    def test_an_allocation_may_be_lost(self) -> None:
        disk = SimulatedDisk()
        durable_file(disk, b"abc").allocate(5000)
        assert outcomes(disk, lambda d: len(read_file(d, "/a"))) == {3, 5000}

    def test_a_truncation_is_all_or_nothing(self) -> None:
        disk = SimulatedDisk()
        file = durable_file(disk, b"old " * 3072)
        file.truncate(700)
        file.write([b"new " * 2897], offset=700)
        cut = set()
        for seed in SEEDS:
            content = read_file(disk.clone_after_power_loss(seed), "/a")
            assert content[:512] == b"old " * 128
            cut.add(b"old" not in content[700:])
            assert b"old" not in content[700:] or content[4096:] == b"old " * 2048
        assert cut == {True, False}

    def test_torn_sectors_only_where_asked_for(self) -> None:
        disk = SimulatedDisk()
        durable_file(disk, b"o" * SECTOR).write([b"n" * SECTOR], offset=0)
        whole = {b"o" * SECTOR, b"n" * SECTOR}
        assert outcomes(disk, lambda d: read_file(d, "/a")) == whole
        torn = {
            read_file(disk.clone_after_power_loss(seed, torn_sectors=True), "/a") for seed in SEEDS
        }
        assert whole < torn

    def test_a_flipped_bit_is_not_healed_by_a_sync_or_a_power_loss(self) -> None:
        disk = SimulatedDisk()
        file = durable_file(disk, b"aaaa")
        file.write([b"bb"], offset=0)
        disk.flip("/a", 1, 0)
        disk.flip("/a", 3, 7)
        file.sync()
        assert file.read(4, offset=0) == b"bca\xe1"
        disk.power_loss(1)
        assert read_file(disk, "/a") == b"bca\xe1"

    def test_a_bit_flipped_in_durable_bytes_stays_so(self) -> None:
        disk = SimulatedDisk()
        durable_file(disk, b"aaaa")
        disk.flip("/a", 2, 1)
        assert read_file(disk, "/a") == b"aaca"
        disk.power_loss(1)
        assert read_file(disk, "/a") == b"aaca"

    def test_a_truncated_sector_that_is_written_anew_has_no_old_version(self) -> None:
        """A history may have one version only; found by running the tests above for longer."""
        disk = SimulatedDisk()
        file = durable_file(disk, b"")
        file.write([b"x"], offset=SECTOR)
        file.truncate(1)
        file.write([b"y"], offset=4 * SECTOR - 1)
        seen = outcomes(disk, lambda d: read_file(d, "/a").replace(b"\0", b""))
        assert seen == {b"", b"x", b"y"}

    def test_the_page_cache_is_cold_after_a_power_loss(self) -> None:
        disk = SimulatedDisk()
        assert durable_file(disk, b"abc").read_cached(3, offset=0) == b"abc"
        disk.power_loss(1)
        file = disk.open("/a")
        assert file.read_cached(3, offset=0) is None
        assert file.read(3, offset=0) == b"abc"
        assert file.read_cached(3, offset=0) == b"abc"
        disk.drop_caches()
        assert file.read_cached(3, offset=0) is None


class TestNames:
    def test_an_unsynced_name_may_be_there_or_not(self) -> None:
        disk = SimulatedDisk()
        file = disk.create("/a")
        file.write([b"abc"], offset=0)
        file.sync()
        assert outcomes(disk, lambda d: d.exists("/a")) == {True, False}
        disk.sync_directory("/")
        assert outcomes(disk, lambda d: read_file(d, "/a")) == {b"abc"}

    def test_a_rename_is_atomic_and_pending(self) -> None:
        disk = SimulatedDisk()
        write_file(disk, "/a", b"old")
        write_file(disk, "/a.new", b"new")
        disk.rename("/a.new", "/a")

        def look(after: SimulatedDisk) -> object:
            return read_file(after, "/a"), tuple(after.list("/"))

        assert outcomes(disk, look) == {(b"old", ("a", "a.new")), (b"new", ("a",))}
        disk.sync_directory("/")
        assert outcomes(disk, look) == {(b"new", ("a",))}

    def test_an_unlink_is_pending(self) -> None:
        disk = SimulatedDisk()
        write_file(disk, "/a", b"abc")
        disk.unlink("/a")
        assert outcomes(disk, lambda d: d.exists("/a")) == {True, False}
        disk.sync_directory("/")
        assert outcomes(disk, lambda d: d.exists("/a")) == {False}

    def test_changes_of_different_names_survive_in_any_combination(self) -> None:
        disk = SimulatedDisk()
        for name in "ab":
            disk.create(f"/{name}").close()
        seen = outcomes(disk, lambda d: "".join(d.list("/")))
        assert seen == {"", "a", "b", "ab"}

    def test_a_renamed_name_never_survives_without_its_creation(self) -> None:
        disk = SimulatedDisk()
        disk.create("/a").close()
        disk.rename("/a", "/b")
        disk.create("/a").close()
        assert outcomes(disk, lambda d: "".join(d.list("/"))) == {"", "a", "b", "ab"}
        disk.unlink("/b")
        assert outcomes(disk, lambda d: "".join(d.list("/"))) == {"", "a", "b", "ab"}

    def test_a_file_renamed_twice_has_one_name(self) -> None:
        disk = SimulatedDisk()
        write_file(disk, "/a", b"abc")
        disk.rename("/a", "/b")
        disk.rename("/b", "/c")
        assert outcomes(disk, lambda d: "".join(d.list("/"))) == {"a", "b", "c"}

    def test_a_directory_takes_its_files_along(self) -> None:
        disk = SimulatedDisk()
        disk.make_directory("/v/segments")
        write_file(disk, "/v/segments/1", b"abc")
        assert outcomes(disk, lambda d: d.exists("/v/segments/1")) == {True, False}
        disk.sync_directory("/v")
        assert outcomes(disk, lambda d: d.exists("/v/segments/1")) == {True, False}
        disk.sync_directory("/")
        assert outcomes(disk, lambda d: d.exists("/v/segments/1")) == {True}

    def test_a_rename_between_directories_loses_nothing(self) -> None:
        disk = SimulatedDisk()
        for name in ("v", "w"):
            disk.make_directory(f"/{name}")
        disk.sync_directory("/")
        disk.create("/v/a").close()
        disk.rename("/v/a", "/w/b")

        def look(after: SimulatedDisk) -> object:
            return tuple(after.list("/v") + after.list("/w"))

        assert outcomes(disk, look) == {(), ("a",), ("b",)}
        disk.sync_directory("/w")
        assert outcomes(disk, look) == {("b",)}

    @given(
        st.lists(
            st.tuples(st.sampled_from("cru"), st.sampled_from("xyz"), st.sampled_from("xyz")),
            max_size=12,
        ),
        seeds,
    )
    def test_each_name_has_one_of_its_meanings(
        self, steps: list[tuple[str, str, str]], seed: int
    ) -> None:
        disk = SimulatedDisk()
        meanings: dict[str, set[bytes | None]] = {name: {None} for name in "xyz"}
        for number, (kind, name, other) in enumerate(steps):
            if kind == "c" and not disk.exists(name):
                file = disk.create(name)
                file.write([b"%d" % number], offset=0)
                file.sync()
            elif kind == "r" and disk.exists(name):
                disk.rename(name, other)
            elif kind == "u" and disk.exists(name):
                disk.unlink(name)
            for each, known in meanings.items():
                known.add(read_file(disk, each) if disk.exists(each) else None)
        disk.power_loss(seed)
        seen = [read_file(disk, name) for name in disk.list("/")]
        assert len(seen) == len(set(seen))
        for name, known in meanings.items():
            assert (read_file(disk, name) if disk.exists(name) else None) in known


class TestKill:
    @given(st.lists(writes | resizes, max_size=6))
    def test_loses_nothing(self, steps: list[tuple[str, int, bytes]]) -> None:
        disk = SimulatedDisk()
        file = disk.create("/a")
        for step in steps:
            change(file, step)
        disk.create("/b")
        before = disk.snapshot("/")
        disk.kill()
        assert disk.snapshot("/") == before

    @pytest.mark.parametrize("end", [SimulatedDisk.kill, SimulatedDisk.power_loss])
    def test_a_dead_process_has_no_files_and_no_locks(
        self, end: Callable[[SimulatedDisk], None]
    ) -> None:
        disk = SimulatedDisk()
        file = durable_file(disk, b"abc")
        lock = disk.lock("/LOCK")
        end(disk)
        uses: list[Callable[[], object]] = [
            lambda: file.write([b"x"], offset=0),
            lambda: file.read(1, offset=0),
            lambda: file.read_cached(1, offset=0),
            lambda: file.allocate(10),
            lambda: file.truncate(0),
            file.sync,
            file.size,
        ]
        for use in uses:
            with pytest.raises(OSError) as error:
                use()
            assert error.value.errno == errno.EBADF
        held = disk.lock("/LOCK")
        lock.release()
        file.close()
        file.close()
        with pytest.raises(BlockingIOError):
            disk.lock("/LOCK")
        held.release()
        assert read_file(disk, "/a") == b"abc"

    def test_what_was_not_synced_before_a_kill_is_not_synced_after_it(self) -> None:
        disk = SimulatedDisk()
        durable_file(disk, b"old").write([b"new"], offset=0)
        disk.kill()
        assert read_file(disk, "/a") == b"new"
        assert outcomes(disk, lambda d: read_file(d, "/a")) == {b"old", b"new"}
        disk.open("/a").sync()
        assert outcomes(disk, lambda d: read_file(d, "/a")) == {b"new"}


class TestSeeds:
    def test_the_same_seed_has_the_same_outcome(self) -> None:
        def outcome() -> object:
            disk = SimulatedDisk(seed=3)
            for name in "abc":
                disk.create(f"/{name}").write([name.encode() * 3000], offset=100)
            disk.power_loss()
            return disk.snapshot("/")

        assert outcome() == outcome()

    def test_a_clone_leaves_the_disk_as_it_was(self) -> None:
        disk = SimulatedDisk()
        file = durable_file(disk, b"old")
        file.write([b"new"], offset=0)
        number = disk.file_id("/a")
        clones = [disk.clone_after_power_loss(seed) for seed in SEEDS]
        assert {clone.file_id("/a") for clone in clones} == {number}
        for clone in clones:
            clone.unlink("/a")
        assert file.read(3, offset=0) == b"new"
        assert outcomes(disk, lambda d: read_file(d, "/a")) == {b"old", b"new"}

    def test_repr_counts(self) -> None:
        disk = SimulatedDisk()
        disk.create("/a").write([b"abc"], offset=0)
        disk.lock("/LOCK")
        assert "2 files, 3 bytes shown, 0 durable, 1 files and 2 names unsynced" in repr(disk)
        assert "1 locks" in repr(disk)
