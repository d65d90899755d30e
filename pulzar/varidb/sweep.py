"""Sweeping: files that nothing names are removed at an opening, before anything is served.

Segments without a record of their own go, and blobs that no record names: uploads that a crash
ended. What looks like a segment and is not ours gets another name, since somebody may want it.
While a record could not be read, or a file was set aside, no blob goes: it may be theirs.
"""

from collections.abc import Sequence

from pulzar.disk import Disk
from pulzar.varidb.blob import blob_names, blob_path
from pulzar.varidb.following import UNSURE_KEY, IndexReader, blob_key
from pulzar.varidb.log import SEGMENTS, segment_path
from pulzar.varidb.manifest import Lost, ManifestFile
from pulzar.varidb.replacement import unlink

ASIDE_SUFFIX = ".aside"


def sweep(
    disk: Disk,
    directory: str,
    manifest: ManifestFile,
    index: IndexReader,
    *,
    unborn: Sequence[int],
    foreign: Sequence[int],
) -> list[str]:
    """Remove, or rename, what no record and no line of the MANIFEST names; what is worth telling.

    `unborn` are the segments to remove, `foreign` those to set aside. Raises OSError.
    """
    remarks: list[str] = []
    for segment_id in unborn:
        if segment_id in manifest.state.segments:
            manifest.append([Lost(segments=(segment_id,))])
        unlink(disk, segment_path(directory, segment_id))
    for segment_id in foreign:
        path = segment_path(directory, segment_id)
        disk.rename(path, f"{path}{ASIDE_SUFFIX}")
        remarks.append(f"{path} is no segment of this volume: renamed")
    if unborn or foreign:
        disk.sync_directory(f"{directory}/{SEGMENTS}")
    aside = any(name.endswith(ASIDE_SUFFIX) for name in disk.list(f"{directory}/{SEGMENTS}"))
    if aside or index.get(UNSURE_KEY) is not None:
        return remarks
    retired = manifest.state.retired_blobs
    for name in list(blob_names(disk, directory)):
        if name not in retired and index.get(blob_key(name)) is None:
            unlink(disk, blob_path(directory, name))
    return remarks
