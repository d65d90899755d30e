"""Many keys in one request: POST /batch, every key fsynced before the answer."""

from collections.abc import Iterator

from bench.context import BATCH_CONNECTIONS, BATCH_KEYS, Context, Row
from bench.figures import Figure, Result, Unit, median
from bench.generator import Load, Report
from bench.rows.small_values import ROUND_KEYS

FIGURE = Figure(
    row="batch",
    what="POST /batch, PUT of 1 KiB, fsynced",
    unit=Unit.KEYS_PER_S,
    floor=60_000,
    goal=100_000,
)


def batch(context: Context) -> Iterator[Result]:
    reports: list[Report] = []
    with context.pulzar() as pulzar:
        for n in range(context.scale.rounds):
            load = Load(
                op="put",
                seconds=context.scale.seconds,
                start=n * ROUND_KEYS,
                batch=BATCH_KEYS,
                connections=BATCH_CONNECTIONS,
            )
            reports.append(context.measure(pulzar, load))
    latency = median([report.p50_ms for report in reports])
    yield Result(
        figure=FIGURE,
        rounds=tuple(report.keys_per_s for report in reports),
        detail=f"{BATCH_KEYS} keys per request, {BATCH_CONNECTIONS} connections, "
        f"a request takes {latency:.1f} ms (median)",
    )


ROWS = (Row(name="batch", measure=batch),)
