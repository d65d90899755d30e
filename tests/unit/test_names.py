"""The file of names, and what a search finds in it."""

import asyncio
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulzar.disk import Buffer, File, SystemDisk
from pulzar.errors import OutOfSpace
from pulzar.extensions.scan import scan, start_behind
from pulzar.varidb import names as names_module
from pulzar.varidb.feed import Event, Feed
from pulzar.varidb.names import Names, NamesFile


class FullFile:
    """A file on a disk that may be full."""

    def __init__(self, disk: "FullDisk", file: File) -> None:
        self._disk = disk
        self._file = file

    def write(self, buffers: Sequence[Buffer], *, offset: int) -> None:
        if self._disk.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._file.write(buffers, offset=offset)

    def close(self) -> None:
        self._file.close()


class FullDisk(SystemDisk):
    full = False

    def create(self, path: str, *, private: bool = False) -> File:
        return cast(File, FullFile(self, super().create(path, private=private)))


class Keys:
    """Implements `KeySource` over a set."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = {key.encode() for key in keys}

    def keys_behind(self, after: bytes, limit: int) -> list[bytes]:
        return sorted(key for key in self.keys if key > after)[:limit]


def created(feed: Feed, source: Keys, *keys: str) -> None:
    """Keys are written for the first time."""
    version = feed.last.version + 1
    source.keys |= {key.encode() for key in keys}
    feed.landed(
        [
            Event(key.encode(), version + n, is_delete=False, is_new=True)
            for n, key in enumerate(keys)
        ]
    )


def found(file: NamesFile, text: str, after: str = "") -> list[str]:
    keys = scan(
        file.path,
        text.encode(),
        sorted_bytes=file.sorted_bytes,
        size=file.bytes,
        after=after.encode(),
    )
    return [key.decode() for key in keys]


def running() -> Feed:
    feed = Feed()
    feed.start(1)
    return feed


def test_bytes_of_the_file(tmp_path: Path) -> None:
    async def life() -> None:
        feed, source = running(), Keys(["b", "a/c"])
        names = Names(str(tmp_path / "names"), source, feed, disk=SystemDisk())
        file = await names.file()
        created(feed, source, "z", "ä")
        now = await names.file()
        with open(now.path, "rb") as content:  # noqa: ASYNC230  # a test may block
            written = content.read()
        assert written == b"\na/c\nb\nz\n\xc3\xa4\n"
        assert (file.sorted_bytes, file.bytes, now.bytes) == (7, 7, 12)
        await names.close()
        assert os.listdir(tmp_path / "names") == []

    asyncio.run(life())


def test_a_key_is_found_before_its_write_is_acknowledged(tmp_path: Path) -> None:
    async def life() -> None:
        feed, source = running(), Keys([f"k/{n}" for n in range(10_000)])
        names = Names(str(tmp_path / "names"), source, feed, disk=SystemDisk())
        making = asyncio.ensure_future(names.file())
        for number in range(200):  # while the file is made
            created(feed, source, f"new/{number}")
            await asyncio.sleep(0)
        await making
        assert len(found(await names.file(), "new/")) == 200
        created(feed, source, "new/last")
        assert "new/last" in found(await names.file(), "w/la")
        assert found(await names.file(), "k/999", "k/9990") == [f"k/999{n}" for n in range(1, 10)]
        await names.close()

    asyncio.run(life())


def test_it_is_made_anew_when_much_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_module, "NAMES_NEW_BYTES_MIN", 10)

    async def life() -> None:
        feed, source = running(), Keys(["a"])
        names = Names(str(tmp_path / "names"), source, feed, disk=SystemDisk())
        first = await names.file()
        created(feed, source, "0123456789", "b")
        source.keys.discard(b"a")  # deleted
        assert found(await names.file(), "") == ["0123456789", "a", "b"]
        async with asyncio.timeout(20):
            while (file := await names.file()).path == first.path:  # noqa: ASYNC110  # no event
                await asyncio.sleep(0)
        assert found(file, "") == ["0123456789", "b"]
        assert file.sorted_bytes == file.bytes
        assert len(os.listdir(tmp_path / "names")) == 1
        feed.skip()
        assert found(await names.file(), "") == ["0123456789", "b"]
        await names.close()

    asyncio.run(life())


def test_without_room_there_is_no_search_and_later_there_is(tmp_path: Path) -> None:
    async def life() -> None:
        disk = FullDisk()
        feed, source = running(), Keys(["a"])
        names = Names(str(tmp_path / "names"), source, feed, disk=disk)
        disk.full = True
        with pytest.raises(OutOfSpace):
            await names.file()
        disk.full = False
        await names.file()
        disk.full = True
        created(feed, source, "b")  # cannot be appended: the file is given up
        with pytest.raises(OutOfSpace):
            await names.file()
        disk.full = False
        assert found(await names.file(), "") == ["a", "b"]
        await names.close()

    asyncio.run(life())


KEYS = st.text(st.sampled_from("ab/é"), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None)
@given(
    st.sets(KEYS), st.lists(KEYS, max_size=8), st.text(st.sampled_from("ab/é"), max_size=3), KEYS
)
def test_a_scan_finds_what_a_look_at_every_key_finds(
    old: set[str], new: list[str], text: str, after: str
) -> None:
    encoded = sorted(key.encode() for key in old)
    begin = b"\n" + b"".join(key + b"\n" for key in encoded)
    content = begin + b"".join(key.encode() + b"\n" for key in new)
    path = f"/dev/shm/pulzar-names-{os.getpid()}-{hash(content)}"
    Path(path).write_bytes(content)
    try:
        file = NamesFile(path, len(begin), len(content))
        keys = {key for key in (*old, *new) if text in key and key.encode() > after.encode()}
        assert found(file, text, after) == sorted(keys, key=str.encode)
        behind = [key for key in encoded if key > after.encode()]
        at = start_behind(begin, after.encode(), len(begin))
        assert begin[at:] == b"".join(key + b"\n" for key in behind)
    finally:
        os.unlink(path)
