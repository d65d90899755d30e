"""Pulzar: a few machines become one place to keep data and to run Python next to it.

The nouns, one sentence each:

record      one PUT or DELETE of one key: header, key, metadata, value.
segment     one append-only file of records; one is active, the others are sealed and immutable.
blob        a value too large for a segment, in a file of its own, named by a record.
volume      a directory with one log (its segments and blobs) and a disposable index.
version     a u64 that orders all writes: epoch (24 bits) << 40 | counter (40 bits).
seq         a u64 that orders the records of one volume's log.
view        anything derived from logs in LMDB: disposable, rebuilt exactly from the logs.
index       the view key -> position in one volume.
catalog     the view key -> (version, size, holders, times, content type, small value).
cursor      how far a view has followed one log: (id of that opening, seq).
compaction  rewriting segments without superseded records.
purge       dropping delete records that nothing needs any more.
node        a machine that runs a volume and an agent.
job         a script with its arguments, and what became of it; an attempt is one try to run it.
agent       a process beside a volume that runs jobs in slots, each for one job at a time.

Read ARCHITECTURE.md first; it names the files to open, in order.
"""

__version__ = "0.1.0"
