"""The blob: chunks with a checksum each, durable before it is named, and gone when aborted."""

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulzar.errors import Damage, ValueTooLarge
from pulzar.limits import BLOB_BYTES_MAX, BLOB_CHUNK_BYTES
from pulzar.testing import Fault, FaultPlan, SimulatedDisk
from pulzar.varidb.blob import (
    Blob,
    BlobWriter,
    blob_names,
    blob_path,
    check_chunk,
    chunk_range,
    decode_blob,
    encode_blob,
)

DIRECTORY = "/volume"
NAME = "ab" * 16
PATH = blob_path(DIRECTORY, NAME)


def new_disk() -> SimulatedDisk:
    disk = SimulatedDisk()
    disk.make_directory(f"{DIRECTORY}/blobs")
    disk.sync_directory("/")
    disk.sync_directory(DIRECTORY)
    return disk


def written(disk: SimulatedDisk, *parts: bytes, name: str = NAME) -> Blob:
    writer = BlobWriter(disk, DIRECTORY, name, fail=print)
    for part in parts:
        writer.write(part)
    return writer.finish()


def read(disk: SimulatedDisk, blob: Blob) -> bytes:
    """All chunks, each checked."""
    file = disk.open(blob_path(DIRECTORY, blob.name))
    chunks = []
    for number in range(len(blob.crcs)):
        offset, length = chunk_range(blob, number)
        chunks.append(file.read(length, offset=offset))
        check_chunk(blob, number, chunks[-1])
    return b"".join(chunks)


@given(
    st.builds(
        Blob,
        size=st.integers(0, 2**64 - 1),
        chunk_bytes=st.integers(1, 2**32 - 1),
        name=st.text(max_size=40),
        crcs=st.lists(st.integers(0, 2**32 - 1), max_size=50).map(tuple),
    )
)
def test_a_descriptor_comes_back(blob: Blob) -> None:
    assert decode_blob(encode_blob(blob)) == blob


def test_the_chunks_of_the_largest_blob_follow_each_other_to_its_end() -> None:
    count = -(-BLOB_BYTES_MAX // BLOB_CHUNK_BYTES)
    blob = decode_blob(
        encode_blob(Blob(BLOB_BYTES_MAX, BLOB_CHUNK_BYTES, NAME, tuple(range(count))))
    )
    end = 0
    for number in range(len(blob.crcs)):
        offset, length = chunk_range(blob, number)
        assert offset == end
        end += length
    assert end == BLOB_BYTES_MAX


@given(
    st.lists(
        st.one_of(
            st.integers(0, 1000),
            st.integers(BLOB_CHUNK_BYTES - 2, BLOB_CHUNK_BYTES + 2),
            st.just(2 * BLOB_CHUNK_BYTES + 1),
        ),
        max_size=4,
    )
)
@settings(max_examples=15)
def test_whatever_pieces_it_comes_in_it_is_read_back(lengths: list[int]) -> None:
    parts = [bytes([65 + number]) * length for number, length in enumerate(lengths)]
    disk, content = new_disk(), b"".join(parts)
    blob = written(disk, *parts)
    assert blob.size == len(content)
    assert len(blob.crcs) == -(-len(content) // BLOB_CHUNK_BYTES)
    assert disk.open(PATH).size() == len(content)
    assert read(disk, blob) == content


@pytest.mark.parametrize("seed", range(4))
def test_a_finished_blob_outlives_a_power_loss(seed: int) -> None:
    disk = new_disk()
    blob = written(disk, b"x" * 5000)
    disk.power_loss(seed)
    assert read(disk, blob) == b"x" * 5000


def test_a_damaged_chunk_is_told_and_the_others_are_read() -> None:
    disk = new_disk()
    blob = written(disk, bytes(BLOB_CHUNK_BYTES), b"second")
    disk.flip(PATH, BLOB_CHUNK_BYTES + 3, 1)
    with pytest.raises(Damage, match=f"chunk 1 of blob {NAME}"):
        read(disk, blob)
    check_chunk(blob, 0, bytes(BLOB_CHUNK_BYTES))


@pytest.mark.parametrize("chunk", [b"", b"secon", b"second!", b"Second"])
def test_a_chunk_of_other_bytes_is_damage(chunk: bytes) -> None:
    blob = written(new_disk(), b"second")
    with pytest.raises(Damage):
        check_chunk(blob, 0, chunk)


def test_no_byte_is_taken_behind_the_limit() -> None:
    disk = new_disk()
    writer = BlobWriter(disk, DIRECTORY, NAME, fail=print)
    writer.size = BLOB_BYTES_MAX - 3
    writer.write(b"123")
    with pytest.raises(ValueTooLarge, match=str(BLOB_BYTES_MAX)):
        writer.write(b"4")
    writer.abort()


def test_an_aborted_blob_is_gone() -> None:
    disk = new_disk()
    writer = BlobWriter(disk, DIRECTORY, NAME, fail=print)
    writer.write(bytes(BLOB_CHUNK_BYTES + 1))
    assert list(blob_names(disk, DIRECTORY)) == [NAME]
    writer.abort()
    assert list(blob_names(disk, DIRECTORY)) == []
    writer.abort()


def test_an_abort_goes_on_where_the_disk_does_not_let_it_remove_the_file() -> None:
    disk = new_disk()
    writer = BlobWriter(disk, DIRECTORY, NAME, fail=print)
    disk.faults = FaultPlan(Fault(kinds=("unlink",)))
    writer.abort()
    assert list(blob_names(disk, DIRECTORY)) == [NAME]


def write_and_finish(writer: BlobWriter) -> None:
    writer.write(b"some bytes")
    writer.finish()


def test_an_error_of_the_disk_reaches_the_caller() -> None:
    disk = new_disk()
    for kind in ("write", "sync", "sync_directory"):
        writer = BlobWriter(disk, DIRECTORY, kind, fail=print)
        disk.faults = FaultPlan(Fault(kinds=(kind,), error=errno.ENOSPC))
        with pytest.raises(OSError):
            write_and_finish(writer)
        disk.faults = None
        writer.abort()
    assert list(blob_names(disk, DIRECTORY)) == []


def test_a_name_is_never_used_twice() -> None:
    disk = new_disk()
    written(disk, b"first")
    with pytest.raises(FileExistsError):
        BlobWriter(disk, DIRECTORY, NAME, fail=print)


def test_only_blobs_are_listed() -> None:
    disk = new_disk()
    names = [NAME, "ac" * 16, "ba" * 16]
    for name in names:
        written(disk, b"x", name=name)
    disk.create(f"{DIRECTORY}/blobs/ab/README").close()
    assert sorted(blob_names(disk, DIRECTORY)) == names
    assert blob_path(DIRECTORY, NAME) == f"/volume/blobs/ab/{NAME}.blob"
