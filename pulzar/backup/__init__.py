"""Backup: a copy of a whole cluster, elsewhere, of which each file was written once.

    volume --files.py--> source.py -> run.py -> target.py: a directory, or what fsspec reaches
    target -> restore.py -> a directory from which the volume is started again

A log is only appended to, so a segment is backed up in parts: what it had at each run. A snapshot
(snapshot.py) is a list of parts; the next run takes over those of the one before, and copies what
is new. What a part holds never changes.

snapshot.py has the format, tests/golden pins it.
"""
