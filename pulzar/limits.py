"""Every limit of Pulzar has its name here; nothing grows without one.

Relations between limits are checked at import. A limit that is part of the format on disk is
marked so and must not change without a new format version.
"""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# Keys. 480 bytes so that every view's key (8 bytes of order + key) fits LMDB's 511.
KEY_BYTES_MAX = 480

# Values (format).
INLINE_BYTES_MAX = 1 * KIB  # kept in the catalog too
SEGMENT_VALUE_BYTES_MAX = 1 * MIB  # larger ones become blobs
BLOB_CHUNK_BYTES = 1 * MIB  # one checksum per chunk
BLOB_BYTES_MAX = 256 * GIB - BLOB_CHUNK_BYTES  # its checksum table must fit one record
META_BYTES_MAX = 4 * KIB
CONTENT_TYPE_BYTES_MAX = 255

# Segments.
SEGMENT_BYTES = 256 * MIB
SEGMENT_BYTES_MIN = 64 * KIB  # tests use small segments
SEGMENT_BYTES_MAX = 2 * GIB  # offsets in footers are u32
SEGMENT_RECORDS_MAX = 262_144  # bounds the memory for sealing one
CHECKPOINT_BYTES = 16 * MIB
CHECKPOINT_IDLE_MS = 100
MANIFEST_LINES_MAX = 10_000  # more lines than this are folded into a new MANIFEST

# Commit.
BATCH_RECORDS_MAX = 4096
BATCH_BYTES_MAX = 8 * MIB
PENDING_RECORDS_MAX = 65_536  # writes waiting for their batch; more are answered 503
KEY_WAITERS_MAX = 1024  # writes waiting for their turn on one key

# Disk.
DISK_RESERVE_BYTES = 512 * MIB  # PUT answers 507 below this; deletes and compaction go on
RETIRED_GRACE_S = 24 * 3600  # replaced files stay this long, so that a copy in progress is whole
FOLLOW_PLACES_MAX = 64  # places in the log remembered for followers
OPEN_FILES_MAX = 256  # segment and blob files held open for reading

# HTTP.
LIST_LIMIT_DEFAULT = 1000
LIST_LIMIT_MAX = 10_000
BATCH_OPERATIONS_MAX = 10_000
BATCH_BODY_BYTES_MAX = 64 * MIB
UPLOAD_CHUNK_TIMEOUT_S = 60.0  # no byte for so long ends an upload
DRAIN_BYTES_MAX = 64 * KIB  # read after an early 4xx, so that the client sees the answer
SHUTDOWN_GRACE_S = 10.0

# Settings.
SETTINGS_FILE_BYTES_MAX = 1 * MIB

# Times.
EXPIRES_S_MAX = 253_402_300_799  # 9999-12-31T23:59:59Z

# Versions (format).
COUNTER_BITS = 40
EPOCH_BITS = 24

if KEY_BYTES_MAX + 8 > 511:
    raise AssertionError("a catalog order key must fit LMDB's 511 bytes")
if BLOB_BYTES_MAX // BLOB_CHUNK_BYTES * 4 > SEGMENT_VALUE_BYTES_MAX:
    raise AssertionError("a blob's checksum table must fit one record")
if COUNTER_BITS + EPOCH_BITS != 64:
    raise AssertionError("a version is a u64")
