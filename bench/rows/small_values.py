"""Small values, one request each: PUT, GET, DELETE at 64 connections, and PUT at one.

In every round each server is measured once, in an order that rotates. Keys that are written are
new ones; keys that are read were stored before, and every byte that comes back is compared.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

from bench.context import Context, Row
from bench.figures import Figure, Result, Unit, median, ratios
from bench.generator import Load, Report
from bench.machine import fdatasync_s
from bench.servers import Server

ROUND_KEYS = 10_000_000  # key numbers of one round, so that no two rounds meet
FOUR_KIB = 4096

PUT = Figure(
    row="put",
    what="PUT of 1 KiB, fsynced, against nginx DAV PUT, unsynced",
    unit=Unit.RATIO,
    floor=0.7,
    goal=1.0,
)
GET = Figure(
    row="get",
    what="GET of random keys, 1 KiB, against nginx static GET",
    unit=Unit.RATIO,
    floor=0.45,
    goal=0.6,
)
GET_4K = Figure(
    row="get4k",
    what="GET of random keys, 4 KiB (not inline), against nginx static GET",
    unit=Unit.RATIO,
    floor=0.35,
    goal=0.45,
)
DELETE = Figure(
    row="delete",
    what="DELETE, fsynced, against nginx DAV DELETE, unsynced",
    unit=Unit.RATIO,
    floor=0.7,
    goal=1.0,
)
PUT_ONE = Figure(
    row="put1",
    what="PUT at 1 connection, in units of one fdatasync plus one nginx round trip",
    unit=Unit.RATIO,
    floor=3.0,
    goal=2.0,
    higher_is_better=False,
)


def rotated(servers: Sequence[Server], by: int) -> list[Server]:
    """The same servers, beginning with another one."""
    by %= len(servers)
    return [*servers[by:], *servers[:by]]


def summary(name: str, reports: Sequence[Report]) -> str:
    """What one server did: the median of its rates and of its 99th percentiles."""
    rate = median([report.operations_per_s for report in reports])
    p99 = median([report.p99_ms for report in reports])
    return f"{name} {rate:,.0f}/s (p99 {p99:.1f} ms)"


def compare(
    context: Context,
    figure: Figure,
    load: Callable[[int], Load],
    *,
    peers: Sequence[Server],
    prepare: Callable[[Server, int], None] | None = None,
    before: Callable[[Server], None] | None = None,
) -> Result:
    """Measure Pulzar and its peers in turns. `load` gives the run of one round.

    `before` fills a server once, `prepare` before each of its runs.
    """
    pulzar = context.pulzar()
    servers = [pulzar, *peers]
    reports: dict[str, list[Report]] = {server.name: [] for server in servers}
    with ExitStack() as running:
        for server in servers:
            running.enter_context(server)
            if before is not None:
                before(server)
        for round_number in range(context.scale.rounds):
            for server in rotated(servers, round_number):
                if prepare is not None:
                    prepare(server, round_number)
                reports[server.name].append(context.measure(server, load(round_number)))
    detail = "; ".join(summary(name, done) for name, done in reports.items())
    if "nginx" not in reports:
        return Result(figure=figure, rounds=(), detail=detail, notes=("nginx is not here",))
    rates = {name: [r.operations_per_s for r in done] for name, done in reports.items()}
    return Result(figure=figure, rounds=ratios(rates["Pulzar"], rates["nginx"]), detail=detail)


def put(context: Context) -> Iterator[Result]:
    seconds = context.scale.seconds
    yield compare(
        context,
        PUT,
        lambda n: Load(op="put", seconds=seconds, start=n * ROUND_KEYS),
        peers=context.nginx_and_etcd(),
    )


def get(context: Context) -> Iterator[Result]:
    keys = context.scale.base_keys
    yield compare(
        context,
        GET,
        lambda _: Load(op="get", seconds=context.scale.seconds, keys=keys),
        peers=context.nginx_and_etcd(),
        before=lambda server: _fill(context, server, keys=keys),
    )


def get_4k(context: Context) -> Iterator[Result]:
    keys = context.scale.base_keys
    yield compare(
        context,
        GET_4K,
        lambda _: Load(op="get", seconds=context.scale.seconds, keys=keys, size=FOUR_KIB),
        peers=context.nginx(),
        before=lambda server: _fill(context, server, keys=keys, size=FOUR_KIB),
    )


def delete(context: Context) -> Iterator[Result]:
    keys = context.scale.delete_keys
    yield compare(
        context,
        DELETE,
        lambda n: Load(op="del", keys=keys, start=n * ROUND_KEYS),
        peers=context.nginx_and_etcd(),
        prepare=lambda server, n: _fill(context, server, keys=keys, start=n * ROUND_KEYS),
    )


def put_one(context: Context) -> Iterator[Result]:
    """Alone, a PUT cannot share its fdatasync with anybody."""
    seconds = context.scale.seconds / 2
    pulzar, peers = context.pulzar(), context.nginx()
    puts: list[float] = []
    least: list[float] = []
    parts: list[tuple[float, float]] = []
    with ExitStack() as running:
        for server in (pulzar, *peers):
            running.enter_context(server)
            context.fill(server, keys=100)
        for n in range(context.scale.rounds):
            sync_ms = fdatasync_s(context.directory, context.scale.probe_syncs) * 1e3
            one = Load(op="put", connections=1, seconds=seconds, start=(n + 1) * ROUND_KEYS)
            puts.append(context.measure(pulzar, one).mean_ms)
            for server in peers:
                get_one = Load(op="get", connections=1, seconds=seconds, keys=100)
                trip_ms = context.measure(server, get_one).mean_ms
                parts.append((sync_ms, trip_ms))
                least.append(sync_ms + trip_ms)
    detail = f"PUT {median(puts):.3f} ms"
    if not peers:
        yield Result(figure=PUT_ONE, rounds=(), detail=detail, notes=("nginx is not here",))
        return
    syncs, trips = zip(*parts, strict=True)
    detail += f"; fdatasync {median(syncs):.3f} ms; nginx GET {median(trips):.3f} ms (means)"
    yield Result(figure=PUT_ONE, rounds=ratios(puts, least), detail=detail)


def _fill(context: Context, server: Server, *, keys: int, start: int = 0, size: int = 1024) -> None:
    context.fill(server, keys=keys, start=start, size=size)


ROWS = (
    Row(name="put", measure=put),
    Row(name="get", measure=get),
    Row(name="get4k", measure=get_4k),
    Row(name="delete", measure=delete),
    Row(name="put1", measure=put_one),
)
