"""VariDB: the distributed key -> value store. No HTTP in here, no clock, no configuration.

Lowest first: record (bytes of one record), segment (one file of records), manifest, blob, log
(the durable sequence of records), view and index (the disposable LMDB map key -> position),
volume (log + index), compaction and purge (what may be dropped), check; above a volume: catalog,
condition, writer, reader, store.
"""
