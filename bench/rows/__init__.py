"""The rows of the benchmark, in the order in which they run."""

from bench.context import Row
from bench.rows import (
    backup,
    batch,
    cluster,
    compaction,
    jobs,
    jobs_dask,
    large_value,
    many_keys,
    serial,
    site,
    small_values,
)

ROWS: tuple[Row, ...] = (
    *small_values.ROWS,
    *batch.ROWS,
    *large_value.ROWS,
    *serial.ROWS,
    *compaction.ROWS,
    *many_keys.ROWS,
    *cluster.ROWS,
    *jobs.ROWS,
    *jobs_dask.ROWS,
    *site.ROWS,
    *backup.ROWS,
)
