"""The view: when it is trusted, when it is thrown away, and what a full disk does to it."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from pulzar.errors import InvalidKey, OutOfSpace, ViewBroken, VolumeInUse
from pulzar.varidb import view_probe
from pulzar.varidb.position import NOWHERE, Cursor
from pulzar.varidb.view import View
from pulzar.varidb.view_files import locate
from pulzar.varidb.view_trust import Here

IDENTITY = b"volume-1"
MAP_BYTES = 64 << 20
OPENING = bytes(range(16))


def open_view(directory: Path, **changed: object) -> View:
    options: dict[str, object] = {
        "name": "test",
        "tables": ["rows"],
        "identity": IDENTITY,
        "map_bytes": MAP_BYTES,
        **changed,
    }
    return View.open(str(directory), **options)  # type: ignore[arg-type]


def put(view: View, key: bytes, value: bytes) -> None:
    with view.write() as transaction:
        transaction.put(key, value, db=view.tables["rows"])


def get(view: View, key: bytes) -> bytes | None:
    with view.environment.begin(view.tables["rows"]) as transaction:
        return transaction.get(key)


def left(directory: Path, *, clean: bool, rows: int = 1) -> None:
    """A view that some earlier process left behind."""
    view = open_view(directory)
    with view.write(rows=rows, size=rows * 100) as transaction:
        for number in range(rows):
            transaction.put(b"key-%08d" % number, bytes(100), db=view.tables["rows"])
        transaction.put(b"key", b"value", db=view.tables["rows"])
    view.close(clean=clean)


def is_trusted(directory: Path, **changed: object) -> bool:
    view = open_view(directory, **changed)
    trusted = not view.created
    assert (get(view, b"key") == b"value") == trusted
    view.close(clean=False)
    return trusted


# Trust.


def test_a_new_view_wants_to_be_filled(tmp_path: Path) -> None:
    view = open_view(tmp_path / "new")
    assert view.created
    assert view.cursor(b"log") == (NOWHERE, b"")
    view.close(clean=True)


@pytest.mark.parametrize("clean", [True, False])
def test_what_was_written_is_there_after_reopening(tmp_path: Path, *, clean: bool) -> None:
    left(tmp_path, clean=clean)
    assert is_trusted(tmp_path)


def test_the_mark_is_there_only_while_the_view_is_closed_cleanly(tmp_path: Path) -> None:
    left(tmp_path, clean=True)
    assert (tmp_path / "clean.json").exists()
    view = open_view(tmp_path)
    assert not (tmp_path / "clean.json").exists()
    view.close(clean=False)
    assert not (tmp_path / "clean.json").exists()


def test_a_view_closed_cleanly_survives_a_restart_of_the_machine(tmp_path: Path) -> None:
    left(tmp_path, clean=True)
    assert is_trusted(tmp_path, locate=rebooted)
    assert is_trusted(tmp_path, locate=rebooted), "it did not write down where it is now"


def test_a_killed_view_does_not_survive_a_restart_of_the_machine(tmp_path: Path) -> None:
    left(tmp_path, clean=False)
    assert not is_trusted(tmp_path, locate=rebooted)


def test_a_killed_view_is_not_trusted_in_another_mount(tmp_path: Path) -> None:
    left(tmp_path, clean=False)
    assert not is_trusted(tmp_path, locate=mounted_again)


def test_nothing_killed_is_trusted_where_the_kernel_does_not_tell_the_place(tmp_path: Path) -> None:
    view = open_view(tmp_path, locate=nowhere)
    put(view, b"key", b"value")
    view.close(clean=False)
    assert not is_trusted(tmp_path, locate=nowhere)
    left(tmp_path, clean=True)
    assert is_trusted(tmp_path, locate=nowhere)


def rebooted(directory: str) -> Here | None:
    here = locate(directory)
    assert here is not None
    return msgspec.structs.replace(here, boot="another boot")


def mounted_again(directory: str) -> Here | None:
    here = locate(directory)
    assert here is not None
    return msgspec.structs.replace(here, mount=here.mount + 1)


def nowhere(_directory: str) -> Here | None:
    return None


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("changed", [{"identity": b"another"}, {"name": "another"}])
def test_the_view_of_something_else_is_thrown_away(
    tmp_path: Path, *, clean: bool, changed: dict[str, object]
) -> None:
    left(tmp_path, clean=clean)
    assert not is_trusted(tmp_path, **changed)


@pytest.mark.parametrize("clean", [True, False])
def test_a_copy_is_thrown_away(tmp_path: Path, *, clean: bool) -> None:
    left(tmp_path / "view", clean=clean)
    shutil.copytree(tmp_path / "view", tmp_path / "copy")
    assert not is_trusted(tmp_path / "copy")
    assert is_trusted(tmp_path / "view")


@pytest.mark.parametrize("clean", [True, False])
def test_a_copy_put_back_in_place_is_thrown_away(tmp_path: Path, *, clean: bool) -> None:
    left(tmp_path / "view", clean=clean)
    shutil.copytree(tmp_path / "view", tmp_path / "copy")
    for file in (tmp_path / "copy").iterdir():
        inode = (tmp_path / "view" / file.name).stat().st_ino
        shutil.copyfile(file, tmp_path / "view" / file.name)
        shutil.copystat(file, tmp_path / "view" / file.name)
        assert (tmp_path / "view" / file.name).stat().st_ino == inode
    assert not is_trusted(tmp_path / "view")


def test_fifty_copies_of_a_view_that_is_written_are_all_thrown_away(tmp_path: Path) -> None:
    view = open_view(tmp_path / "view")
    for number in range(50):
        for row in range(20):
            put(view, b"%d" % (number * 7919 + row * 104729), os.urandom(700))
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(tmp_path / "view", copy)
        copied = open_view(copy)
        assert copied.created
        copied.close(clean=False)
        shutil.rmtree(copy)
    view.close(clean=True)


@pytest.mark.parametrize("name", ["clean.json", "trust.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe"])
def test_damaged_notes_are_no_trust(tmp_path: Path, name: str, content: bytes) -> None:
    left(tmp_path, clean=name == "clean.json")
    (tmp_path / name).write_bytes(content)
    assert not is_trusted(tmp_path)


@pytest.mark.parametrize("name", ["data.mdb", "trust.json"])
def test_a_missing_file_is_no_trust(tmp_path: Path, name: str) -> None:
    left(tmp_path, clean=False)
    (tmp_path / name).unlink()
    assert not is_trusted(tmp_path)


def test_a_mark_without_its_data_is_no_trust(tmp_path: Path) -> None:
    left(tmp_path, clean=True)
    (tmp_path / "data.mdb").unlink()
    assert not is_trusted(tmp_path)


def test_a_mark_of_another_transaction_is_no_trust(tmp_path: Path) -> None:
    left(tmp_path, clean=True)
    mark = tmp_path / "clean.json"
    content = msgspec.json.decode(mark.read_bytes())
    content["transaction"] -= 1
    mark.write_bytes(msgspec.json.encode(content))
    assert not is_trusted(tmp_path)


@pytest.mark.parametrize("length", [0, 100, 4096, 8192, 5 * 4096])
def test_a_truncated_view_is_thrown_away_without_harm(tmp_path: Path, length: int) -> None:
    left(tmp_path, clean=False, rows=1000)
    os.truncate(tmp_path / "data.mdb", length)
    assert not is_trusted(tmp_path)


def test_a_view_full_of_garbage_is_thrown_away_without_harm(tmp_path: Path) -> None:
    left(tmp_path, clean=False, rows=1000)
    with open(tmp_path / "data.mdb", "r+b") as file:
        file.seek(2 * 4096)
        file.write(b"\xa5" * (os.path.getsize(tmp_path / "data.mdb") - 2 * 4096))
    assert not is_trusted(tmp_path)


@pytest.mark.parametrize("whole", [[], ["--all"]])
def test_the_probe_lives_on_a_whole_view_and_not_on_a_broken_one(
    tmp_path: Path, whole: list[str]
) -> None:
    left(tmp_path, clean=True, rows=1000)
    command = [sys.executable, view_probe.__file__, *whole, str(tmp_path), "rows", "trust"]
    assert subprocess.run(command, check=False).returncode == 0
    os.truncate(tmp_path / "data.mdb", 3 * 4096)
    done = subprocess.run(command, check=False, capture_output=True)
    assert done.returncode != 0


def test_every_eighth_opening_without_a_clean_close_walks_through_everything(
    tmp_path: Path,
) -> None:
    """One leaf in the middle is damaged, in a page that nothing else looks at."""
    left(tmp_path, clean=False, rows=50_000)
    damage_page_of(tmp_path / "data.mdb", b"key-00033333")
    trusted = [is_trusted(tmp_path) for _ in range(8)]
    assert not all(trusted)


def damage_page_of(path: Path, key: bytes) -> None:
    """Give the page that holds a key an impossible type."""
    content = path.read_bytes()
    page = content.index(key) // 4096 * 4096
    with open(path, "r+b") as file:
        file.seek(page + 10)
        file.write(b"\xff\xff")


# Transactions.


def test_a_block_that_raises_changes_nothing(tmp_path: Path) -> None:
    view = open_view(tmp_path)
    with pytest.raises(ZeroDivisionError):
        put_and_fail(view)
    assert get(view, b"key") is None
    view.close(clean=False)


def put_and_fail(view: View) -> None:
    with view.write() as transaction:
        transaction.put(b"key", b"value", db=view.tables["rows"])
        raise ZeroDivisionError


def test_an_impossible_key_is_the_callers_mistake(tmp_path: Path) -> None:
    view = open_view(tmp_path)
    with pytest.raises(InvalidKey):
        put(view, b"k" * 600, b"value")
    put(view, b"key", b"value")
    view.close(clean=False)


def test_a_full_map_is_out_of_space_and_leaves_the_view_usable(tmp_path: Path) -> None:
    view = open_view(tmp_path, map_bytes=3 << 20)
    put(view, b"key", b"value")
    with pytest.raises(OutOfSpace):
        fill(view)
    rows = view.stat("rows")["entries"]
    assert rows % 20 == 1, "part of a transaction was applied"
    put(view, b"key", b"another")
    assert get(view, b"key") == b"another"
    view.close(clean=False)
    view = open_view(tmp_path, map_bytes=3 << 20)
    assert not view.created
    view.close(clean=True)


@pytest.mark.parametrize("limit", [6 << 20, (6 << 20) + 100])
def test_a_full_disk_is_out_of_space_and_leaves_the_view_usable(tmp_path: Path, limit: int) -> None:
    view = open_view(tmp_path)
    put(view, b"key", b"value")
    with file_size_limit(limit), pytest.raises(OutOfSpace):
        fill(view)
    rows = view.stat("rows")["entries"]
    assert rows % 20 == 1, "part of a transaction was applied"
    assert get(view, b"key") == b"value"
    put(view, b"one more", b"value")
    assert view.stat("rows")["entries"] == rows + 1
    view.close(clean=True)
    assert is_trusted(tmp_path)


def test_no_view_is_begun_on_a_full_disk(tmp_path: Path) -> None:
    with file_size_limit(1 << 20), pytest.raises(OutOfSpace):
        open_view(tmp_path)
    view = open_view(tmp_path)
    assert view.created
    view.close(clean=True)


def test_every_page_of_the_file_has_its_block_on_disk(tmp_path: Path) -> None:
    """Pages are written through the map: one without a block would be SIGBUS on a full disk."""
    view = open_view(tmp_path)
    for _ in range(3):
        stat = (tmp_path / "data.mdb").stat()
        assert stat.st_blocks * 512 >= stat.st_size
        assert stat.st_size >= view.environment.info()["map_size"]
        fill(view)
    view.close(clean=False)


def fill(view: View) -> None:
    for number in range(400):
        with view.write(rows=20, size=20 * 1010) as transaction:
            for row in range(20):
                transaction.put(b"%d-%d" % (number, row), bytes(1000), db=view.tables["rows"])


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """No file of this process may grow beyond `limit`: the kernel answers EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Cursors.


def test_a_cursor_comes_back_with_its_place(tmp_path: Path) -> None:
    view = open_view(tmp_path)
    with view.write() as transaction:
        view.put_cursor(transaction, b"1", Cursor(OPENING, 2**63), b"place")
        view.put_cursor(transaction, b"2", NOWHERE)
    assert view.cursor(b"1") == (Cursor(OPENING, 2**63), b"place")
    assert view.cursor(b"2") == (NOWHERE, b"")
    view.close(clean=False)


@pytest.mark.parametrize("at", range(0, 33, 4))
def test_a_damaged_cursor_is_a_broken_view(tmp_path: Path, at: int) -> None:
    view = open_view(tmp_path)
    with view.write() as transaction:
        view.put_cursor(transaction, b"1", Cursor(OPENING, 7), b"place")
        packed = bytearray(transaction.get(b"1", b"", view.tables["cursors"]))
        packed[at] ^= 1
        transaction.put(b"1", bytes(packed), db=view.tables["cursors"])
    with pytest.raises(ViewBroken):
        view.cursor(b"1")
    view.reset()
    assert view.cursor(b"1") == (NOWHERE, b"")
    view.close(clean=False)


@pytest.mark.parametrize("clean", [True, False])
def test_what_was_found_broken_is_begun_anew_by_the_next_owner(tmp_path: Path, clean: bool) -> None:
    view = open_view(tmp_path)
    with view.write() as transaction:
        view.put_cursor(transaction, b"1", Cursor(OPENING, 7), b"place")
        transaction.put(b"1", b"?", db=view.tables["cursors"])
    with pytest.raises(ViewBroken):
        view.cursor(b"1")
    view.close(clean=clean)
    assert not is_trusted(tmp_path)


# Life.


def test_reset_begins_anew(tmp_path: Path) -> None:
    left(tmp_path, clean=True)
    view = open_view(tmp_path)
    view.reset()
    assert view.created
    assert get(view, b"key") is None
    put(view, b"key", b"value")
    view.close(clean=True)
    assert is_trusted(tmp_path)


def test_a_second_owner_is_held_off(tmp_path: Path) -> None:
    view = open_view(tmp_path)
    with pytest.raises(VolumeInUse):
        open_view(tmp_path)
    put(view, b"key", b"value")
    view.close(clean=True)
    assert is_trusted(tmp_path)


def test_a_view_that_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ViewBroken):
        View.open_readonly(str(tmp_path / "missing"), tables=["rows"])


READER = """
import sys
from pulzar.varidb.view import View
view = View.open_readonly(sys.argv[1], tables=["rows"])
for _ in sys.stdin:
    with view.environment.begin(view.tables["rows"]) as transaction:
        print(transaction.get(b"key"), flush=True)
view.close(clean=True)
"""


def test_another_process_reads_along(tmp_path: Path) -> None:
    view = open_view(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        for value in (b"one", b"two"):
            put(view, b"key", value)
            reader.stdin.write("\n")
            assert reader.stdout.readline() == f"{value!r}\n"
    assert reader.returncode == 0
    assert not (tmp_path / "clean.json").exists()
    view.close(clean=True)


WRITER = """
import sys
from pulzar.varidb.position import Cursor
from pulzar.varidb.view import View
view = View.open(
    sys.argv[1], name="test", tables=["rows"], identity=b"volume-1", map_bytes=64 << 20
)
seq = view.cursor(b"log")[0].seq
while True:
    with view.write() as transaction:
        for _ in range(10):
            seq += 1
            transaction.put(b"%d" % seq, bytes(500), db=view.tables["rows"])
        view.put_cursor(transaction, b"log", Cursor(b"", seq))
    if seq % 100 == 0:
        print(seq, flush=True)
"""


def test_a_killed_writer_leaves_entries_and_cursor_together(tmp_path: Path) -> None:
    seen = 0
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            for _ in range(3):
                seen = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
        view = open_view(tmp_path)
        assert not view.created
        seq = view.cursor(b"log")[0].seq
        assert seq >= seen
        assert view.stat("rows")["entries"] == seq
        view.close(clean=False)
