"""Reading while a half-dead volume is compacted: does anybody notice?

Every second key is overwritten, so that about half of the volume is superseded records, spread
evenly. Then GETs of random keys arrive at half of the rate that the server can answer (open
loop: a GET is charged from the moment it was due), once with nothing else going on, once from
the start of a compaction until its end.
"""

import json
import threading
import time
from collections.abc import Iterator

from bench.context import BATCH_CONNECTIONS, BATCH_KEYS, Context, Row, settle
from bench.figures import Figure, Result, Unit, median, ratios
from bench.generator import Load, Report, checked
from bench.servers import BenchError, Pulzar, fetch

FIGURE = Figure(
    row="compaction",
    what="p99 of GET at 50 % load while a half-dead volume is compacted, against without",
    unit=Unit.RATIO,
    floor=2.0,
    goal=1.3,
    higher_is_better=False,
)
COMPACT_TIMEOUT_S = 300.0
SHORTEST_S = 1.0  # of a compaction, for its p99 to mean anything


def make_half_dead(context: Context, pulzar: Pulzar, *, parity: int) -> None:
    """Overwrite every second key."""
    keys = context.scale.half_dead_keys
    context.generator.run(
        pulzar,
        Load(
            op="put",
            keys=keys // 2,
            start=parity,
            step=2,
            batch=BATCH_KEYS,
            connections=BATCH_CONNECTIONS,
        ),
    )


def compact(pulzar: Pulzar) -> dict[str, object]:
    """POST /admin/compact, which answers when it is done."""
    status, body = fetch(pulzar.url + "/admin/compact", method="POST", timeout_s=COMPACT_TIMEOUT_S)
    if status != 200:
        raise BenchError(f"/admin/compact answered {status}: {body[:200]!r}")
    answer: dict[str, object] = json.loads(body)
    return answer


def while_compacting(context: Context, pulzar: Pulzar, load: Load) -> tuple[Report, float]:
    """GETs for exactly as long as one compaction takes, and how long that was."""
    failures: list[BenchError] = []

    def work() -> None:
        try:
            compact(pulzar)
        except BenchError as error:
            failures.append(error)

    compacting = threading.Thread(target=work)
    run = context.generator.begin(pulzar, load)
    begun = time.monotonic()
    compacting.start()
    compacting.join()
    elapsed = time.monotonic() - begun
    report = checked(run.stop(), pulzar)
    if failures:
        raise failures[0]
    return report, elapsed


def compaction(context: Context) -> Iterator[Result]:
    keys = context.scale.half_dead_keys
    quiet: list[Report] = []
    busy: list[Report] = []
    lengths: list[float] = []
    with context.pulzar() as pulzar:
        context.fill(pulzar, keys=keys)
        closed = context.measure(pulzar, Load(op="get", seconds=context.scale.seconds, keys=keys))
        rate = closed.operations_per_s / 2
        for n in range(context.scale.rounds):
            make_half_dead(context, pulzar, parity=n % 2)
            load = Load(op="get", seconds=context.scale.seconds, keys=keys, rate=rate)
            quiet.append(context.measure(pulzar, load))
            settle()
            endless = Load(op="get", keys=keys, rate=rate)
            report, elapsed = while_compacting(context, pulzar, endless)
            busy.append(report)
            lengths.append(elapsed)
    p99_quiet = [report.p99_ms for report in quiet]
    p99_busy = [report.p99_ms for report in busy]
    notes = [f"a compaction took {median(lengths):.1f} s"]
    if min(lengths) < SHORTEST_S:
        notes.append("too short for its p99 to mean much")
    yield Result(
        figure=FIGURE,
        rounds=ratios(p99_busy, p99_quiet),
        detail=f"{rate:,.0f} GET/s; p99 {median(p99_busy):.2f} ms; "
        f"without {median(p99_quiet):.2f} ms",
        notes=tuple(notes),
    )


ROWS = (Row(name="compaction", measure=compaction),)
