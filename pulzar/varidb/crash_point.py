"""The named moments of the durable path between two of which a process may die.

The engine passes each to `Disk.reached`; a real disk does nothing there, the simulated one can die.
tests/model/test_crash_points.py walks through all of them and fails if one was never reached.
"""

from enum import StrEnum


class CrashPoint(StrEnum):
    """In the order in which the life of a volume meets them."""

    SEGMENT_CREATED = "segment: file created, not in the MANIFEST"
    SEGMENT_ADDED = "segment: in the MANIFEST, no record yet"
    MANIFEST_WRITTEN = "manifest: line written, not synced"
    MANIFEST_REPLACING = "manifest: new file synced, old name"
    MANIFEST_REPLACED = "manifest: new file in place"
    COMMIT_WRITTEN = "commit: records written, not synced"
    COMMIT_SYNCED = "commit: records synced, not in the index"
    COMMIT_INDEXED = "commit: in the index, not acknowledged"
    BLOB_CREATED = "blob: file created"
    BLOB_SYNCED = "blob: bytes synced, name not"
    BLOB_NAMED = "blob: name synced, no record yet"
    SEAL_WRITTEN = "seal: footer written, not synced"
    SEAL_SYNCED = "seal: footer synced, not in the MANIFEST"
    COMPACTION_WRITTEN = "compaction: output written and synced, not in the MANIFEST"
    COMPACTION_COMMITTED = "compaction: in the MANIFEST, index not swapped"
    COMPACTION_SWAPPED = "compaction: index swapped, old files not marked"
    RETIRED_REMOVED = "compaction: old files unlinked, not named removed"
    PURGE_RECORDED = "purge: PURGE record synced, nothing dropped"
    RECOVERY_COPIED = "recovery: tail copied to a new segment, old one not sealed"
