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
UPLOAD_PIECE_BYTES = 256 * KIB  # of a blob, gathered before it is written
META_BYTES_MAX = 4 * KIB
CONTENT_TYPE_BYTES_MAX = 255
CONTENT_TYPE_DEFAULT = "application/octet-stream"  # what "" stands for

REPLICAS_MAX = 31  # of one key; what a row of the catalog has room for
DIRECT_BYTES_MAX = 64 * KIB  # larger values go between clients and volumes directly

# Segments.
SEGMENT_BYTES = 256 * MIB
SEGMENT_BYTES_MIN = 2 * MIB  # of the setting; tests of the engine use smaller ones
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

# Views.
VIEW_MAP_BYTES = 256 * GIB  # the largest that a view can become
VIEW_GROW_BYTES = 4 * MIB  # the least that a view grows by
VIEW_READERS_MAX = 64  # read transactions at once, of all processes
VIEW_SPARE_TRANSACTIONS = 4  # finished ones kept to be used again
VIEW_PROBE_TIMEOUT_S = 60.0
VIEW_PROBE_ALL_EVERY = 8  # of so many openings without a clean close, one walks through everything
LOAD_ROWS_MAX = 65_536  # loaded in one transaction when a view is rebuilt
LOAD_ORDER_ROWS = 500_000  # rows of an order held in memory while a catalog is loaded
LIST_SCAN_MAX = 20_000  # rows looked at for one page, however many of them have expired

# Disk.
DISK_RESERVE_BYTES = 512 * MIB  # PUT answers 507 below this; deletes and compaction go on
RETIRED_GRACE_S = 24 * 3600  # replaced files stay this long, so that a copy in progress is whole
FOLLOW_PLACES_MAX = 64  # places in the log remembered for followers
OPEN_FILES_MAX = 256  # segment and blob files held open for reading

# Beside requests.
MAINTENANCE_INTERVAL_S = 60.0
EXPIRE_KEYS_MAX = 1000  # deleted at once
SWAP_ENTRIES = 16  # index entries swapped without giving requests their turn
SWAP_PAUSE_S = 0.002  # between two such pieces
COMPACT_DEAD_BYTES_MIN = 256 * MIB  # superseded since the last compaction
COMPACT_LIVE_RATIO_MAX = 0.6
COMPACT_MANUAL_RATIO_MAX = 0.99
COMPACT_ROOM_SEGMENTS = 2  # so much must be free before segments are rewritten
SCRUB_INTERVAL_S = 30 * 24 * 3600  # every byte is read once in that time
SCRUB_BYTES_PER_S_MIN = 8 * MIB  # on the average, while a pass goes on
SCRUB_SLICE_BYTES = 16 * MIB  # read at once; sealing and compaction wait for that long
SCRUB_DAMAGED_MAX = 1000  # damaged copies that are remembered
PRESENCE_DAMAGED_MAX = 100  # of these told in one heartbeat
DISK_THREADS = 8  # threads that wait for disks: large values, what is not in the page cache
ROOM_CHECK_S = 0.1
BACKGROUND_LINE_BYTES_MAX = 256 * MIB  # an answer of the background process

# HTTP.
LIST_LIMIT_DEFAULT = 1000
LIST_LIMIT_MAX = 10_000
LIST_VALUES_BYTES_MAX = 8 * MIB  # of one page; then it ends
BATCH_OPERATIONS_MAX = 10_000
BATCH_BODY_BYTES_MAX = 64 * MIB
UPLOAD_CHUNK_TIMEOUT_S = 60.0  # no byte for so long ends an upload
CLIENT_TIMEOUT_S_MAX = 24 * 3600  # of the setting
DRAIN_BYTES_MAX = 16 * MIB  # with more to come, the connection ends after an early 4xx
DRAIN_TIMEOUT_S = 2.0  # read for so long after an early 4xx, so that the client sees the answer
SHUTDOWN_GRACE_S = 10.0
FLUSH_GRACE_S = 0.5  # at the end, for answers on their way when no request is open any more
CONNECTIONS_MAX = 4096  # beyond it connections wait in the backlog
IDLE_CONNECTION_S = 60  # without a request, or with an unfinished head
HEAD_BYTES_MAX = 128 * KIB  # also what one read takes of a body: half of it is half as fast
RANGES_MAX = 16  # in one Range header
ETAGS_MAX = 64  # in one If-Match or If-None-Match
BODIES_BYTES_MAX = 64 * MIB  # values over BODY_SMALL_BYTES being collected; others wait
BODY_SMALL_BYTES = 64 * KIB
BATCH_BODIES_BYTES_MAX = 2 * BATCH_BODY_BYTES_MAX  # bodies of batches at work; others wait
BATCH_ANSWER_BYTES_MAX = BATCH_BODY_BYTES_MAX  # values of one answer
ANSWER_SMALL_BYTES = 64 * KIB  # not counted
ANSWERS_BYTES_MAX = 192 * MIB  # answers of batches and pages of keys not taken yet; others wait
STREAMS_BYTES_MAX = 128 * MIB  # values over SEGMENT_VALUE_BYTES_MAX being sent; others wait
STREAM_BYTES = 4 * MIB  # what one of them holds

# Jobs.
JOB_BODY_BYTES_MAX = 1 * MIB
JOB_RETRIES_MAX = 100
JOB_TIMEOUT_S_MAX = 30 * 24 * 3600
JOB_PRIORITY_MAX = 1000
JOB_TOKEN_CHARACTERS_MAX = 255
JOB_TIME_UNIT_MAX = 100_000  # of an interval
JOB_GRACE_S = 3600  # a run that was missed is made up for so long
JOB_GRACE_S_MAX = 366 * 24 * 3600
SCHEDULES_MAX = 10_000
MAP_JOBS_MAX = 10_000
MAP_BODY_BYTES_MAX = 32 * MIB
MAP_CHANGES_AT_ONCE = 256
MAPS_MAX = 20  # kept of those that have ended
JOB_LOG_BYTES_MAX = 1 * MIB  # kept of what a job writes; the rest is read and thrown away
JOB_OUTPUT_BYTES_MAX = 24 * MIB  # as JSON; it travels in one message
JOB_OUTPUT_INLINE_BYTES_MAX = 4 * KIB  # a larger one has a record of its own
TRACEBACK_CHARACTERS_MAX = 16 * KIB
JOBS_KEPT_MAX = 1_000_000  # of the setting
JOBS_AGE_LOOK_S = 60.0  # between two looks which jobs are too old, or wait too long for their data
JOB_DATA_WAIT_S = 3600.0  # a job that must have its data waits so long until a node has it
JOBS_FORGOTTEN_AT_ONCE = 500
JOBS_WRITTEN_AT_ONCE = 1000
JOBS_LIST_DEFAULT = 100
JOBS_LIST_MAX = 10_000
JOB_RETRY_S = 1.0  # before the first retry; twice as long before each one that follows
JOB_RETRY_S_MAX = 300.0
CHILD_KILL_S = 5.0  # from SIGTERM to SIGKILL
JOBS_PER_CHILD = 1000  # then the child process is replaced by a fresh one
CHILD_BYTES_MAX = 512 * MIB  # resident after a job; with more, it is replaced, too
SCRIPTS_FILES_MAX = 1000  # in one directory of scripts
SCRIPTS_BYTES_MAX = 16 * MIB
AGENT_WAIT_S = 20.0  # an agent's question waits so long for something to do
AGENT_SPEAKS_S = 3.0  # between two words of an agent that has nothing to say
AGENT_NEWS_S = 0.1  # between two words of an agent about what it runs
AGENTS_BEFORE_MAX = 100  # on one node, of which a new one knows what they had begun
BEGUN_MAX = 10_000  # attempts that an agent has noted as begun, before it notes those at work anew
SHORT_JOB_S = 0.02  # an agent with such jobs asks for more of them than it has slots
HELD_S_MAX = 0.1  # and gives them back when those before take so long
ROOM_S_MAX = 1.0  # so long a task of dask waits for a free slot, then its jobs are for others
ORDERS_AHEAD = 8  # for one slot
ORDERS_MAX = (1 + ORDERS_AHEAD) * 1024  # in one answer
DASK_WINDOW = 4  # tasks of short jobs that dask has for each slot; more wait outside
DASK_JOBS_PER_TASK = 25  # where jobs are short and many wait
RESULTS_MAX = 64  # in one message, and so much of what the attempts wrote and gave:
RESULTS_BYTES_MAX = 16 * MIB
AGENT_LOST_S = 10.0  # without a word for so long, what an agent ran is lost
JOBS_TICK_S = 0.25  # between two looks at who is silent, and what is due
JOBS_AWAY_S = 3.0  # between two such looks: it was the master that was silent
JOB_ATTEMPTS_MAX = 1000  # of a job that is tried again whenever its node dies
JOB_PLACES_TRIED_MAX = 100  # jobs that fit no free slot, before the others wait too
SLOTS_MAX = 1024  # of one agent

# Extensions.
EXTENSION_FILES_MAX = 1000  # modules in one directory
EXTENSION_NICE = 10  # where processors are short, the store comes first
EXTENSION_OUTPUT_BYTES_MAX = 24 * MIB
EXTENSION_BODY_BYTES_MAX = 1 * GIB
EXTENSION_LOG_BYTES_MAX = 64 * KIB  # of what one call writes; the rest is read and thrown away
EXTENSION_CALLS_PER_CHILD = 10_000  # then the child process is replaced by a fresh one
EXTENSION_WAITING_MAX = 1024  # calls for which no slot is free; more are refused
EXTENSION_SLOTS_MAX = 256  # of the setting
EXTENSION_TIMEOUT_S_MAX = 3600

# Watching.
FEED_EVENTS = 16_384  # the last changes, for watchers that were away for a moment
WATCH_PENDING_MAX = 4096  # events that a watcher has not taken
WATCH_CATCH_UP_MAX = 100_000  # changed keys that one who was away is told of; else it must list
WATCHERS_MAX = 1024  # requests that watch or wait; more are refused
WATCH_PING_S = 15.0  # between two signs of life where nothing happens
WATCH_WAIT_S_MAX = 600

# Searching.
NAMES_NEW_BYTES_MIN = 4 * MIB  # new names in the file of names, before it is sorted again
STAT_KEYS_MAX = 10_000  # keys looked up at once
SEARCH_LIMIT_DEFAULT = 1000
SEARCH_LIMIT_MAX = 10_000

# Backup.
BACKUP_THREADS = 4  # files copied at a time
BACKUP_BLOBS_AT_ONCE = 10_000  # names in one answer
BACKUP_PART_BYTES_MAX = 32 * MIB  # of a file; a larger one has several, copied side by side
BACKUP_KEPT_MAX = 100_000  # snapshots, of the setting
BACKUP_NICE = 5
BACKUP_AGAIN_S = 600.0  # after one that failed
BACKUP_LOOK_S = 3600.0  # between two looks at the target whether one is due
RESTORED_EPOCHS = 1024  # a restored cluster begins so many behind the ones that it knows of

# Between machines.
HEARTBEAT_S = 1.0  # a volume's word to its master
OFFLINE_S = 5.0  # without a word for so long, a volume is offline
CLOCK_OFF_MS = 60_000  # a clock that is further off is remarked; nothing depends on it
WATCH_S = 30.0  # one open request per volume: its connection tells at once that it has gone
WAIT_S_MAX = 60.0  # of a request that waits for something to happen
LINK_CONNECT_S = 2.0
LINK_ANSWER_S = 5.0  # of an append or a fetch: an fsync of some MiB on a slow disk, and no more
LINK_SLOW_ANSWER_S = 60.0  # of what reads or writes much: a page of an index, an upload
LINK_VERIFY_S = 3600.0  # of reading the largest value once: 256 GiB at 76 MB/s
LINK_CONNECTIONS_MAX = 16  # to one machine
LINK_PIECE_BYTES = 256 * KIB  # of a value that is streamed
MESSAGE_BYTES_MAX = 32 * MIB  # an append has BATCH_BYTES_MAX of records, and one value more
MESSAGE_TEXT_MAX = 255  # characters of a name
URL_BYTES_MAX = 2048
RECORD_OVERHEAD_BYTES = 128  # of a record in an append, beside its value
FETCHES_MAX = 2  # under way at a time to one volume: while one is, the next one gathers
FETCH_KEYS = 256  # keys that a master asks for at once
FETCH_KEYS_MAX = 4096  # keys that a volume answers at once
STAGED_MAX = 1024  # finished uploads without a key on one volume; more are refused
STAGED_S = 600.0  # so long they are kept
SWITCH_S_MAX = 30.0  # requests wait while a machine that was alone is joined
PENDING_HALVES = 256  # with so many operations waiting, a volume gets half of its share
BALANCE_SPREAD = 1.04  # copies move where a volume is filled more than so many times the mean,
BALANCE_FILL_MIN = 0.02  # and that part of its capacity more
BALANCE_BYTES_MAX = 1 * GIB  # moved between two looks at all volumes
PLACEMENT_DRAWS_MAX = 4  # in vain; then the volumes that are left are looked at one by one
RUN_RECORDS = 128  # new keys that go to the same volumes, one behind the other
RUN_BYTES = 256 * KIB  # and no more than that

# Following, comparing, repairing.
SNAPSHOT_ROWS = 8192  # rows of an index in one answer: about 1 MiB
PAGE_ROWS_MAX = 65_536  # rows or records that may be asked for at once
DIGEST_KEYS = 4096  # keys in one range of digests
DIGEST_RANGES = 16  # ranges in one answer
CATALOG_ROWS = 4096  # of the catalog read at once; between two reads requests have their turn
REPAIRS_WAITING_MAX = 100_000  # keys that wait to be looked at; more are left to the next walk
REPAIRS_AT_ONCE = 16
REPAIR_WALK_ROWS = 1000
REPAIR_WALK_PAUSE_S = 30.0  # between two walks over all keys, if nothing happens in between
RESTORE_BODY_BYTES_MAX = 4 * KIB

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
if SEGMENT_VALUE_BYTES_MAX + META_BYTES_MAX + 4 * KEY_BYTES_MAX > SEGMENT_BYTES_MIN:
    raise AssertionError("an empty segment must have room for every record")
if COUNTER_BITS + EPOCH_BITS != 64:
    raise AssertionError("a version is a u64")
