"""A million keys (and with --large five): rates, memory, starts, and the views from nothing.

Two servers run at once, one with the many keys, one with 10,000; in each round both are
measured one right after the other. The small one is made anew for every round, so that its keys
are still 10,000 when it is measured.

Starts are timed from the exec of `pulzar up` until a GET of a key that must be there has been
answered rightly. A killed server was killed (every process of it, SIGKILL) in the middle of PUTs
from 64 connections.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from bench.context import MILLION, Context, Row, say
from bench.figures import Figure, Result, Unit, median, ratios
from bench.generator import Load, Report, checked
from bench.memory import MemoryWatch
from bench.rows.small_values import ROUND_KEYS
from bench.servers import BenchError, Pulzar, fetch

FEW_KEYS = 10_000
KILL_AFTER_S = 1.0
ANSWER_TIMEOUT_S = 600.0

PUT = Figure(row="", what="PUT rate against the rate at 10,000 keys", unit=Unit.RATIO)
GET = Figure(row="", what="GET rate against the rate at 10,000 keys", unit=Unit.RATIO)
MEMORY = Figure(
    row="",
    what="largest memory while loading, writing and reading",
    unit=Unit.MIB,
    floor=300,
    higher_is_better=False,
)
START_CLEAN = Figure(
    row="", what="start after a clean stop", unit=Unit.SECONDS, higher_is_better=False
)
START_KILLED = Figure(row="", what="start after kill -9", unit=Unit.SECONDS, higher_is_better=False)
REBUILD = Figure(
    row="",
    what="catalog and index from nothing: keys / time of the start that rebuilds them",
    unit=Unit.KEYS_PER_S,
    floor=200_000,
    goal=400_000,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is wanted at this number of keys, as (floor, goal)."""

    rate: tuple[float, float]
    start_clean: tuple[float, float]
    start_killed: tuple[float, float]


# A floor belongs to a million keys and a goal to five; each size is judged by both, so that the
# table shows how a million stands to the goal as well.
WANTED = Wanted(rate=(0.6, 0.8), start_clean=(2.0, 1.0), start_killed=(5.0, 2.0))


def figure(template: Figure, row: str, keys: int, limits: tuple[float, float] | None) -> Figure:
    """The figure of one row, at its number of keys."""
    floor, goal = limits or (template.floor, template.goal)
    what = f"{template.what}, {keys:,} keys"
    return replace(template, row=row, what=what, floor=floor, goal=goal)


def entries(pulzar: Pulzar) -> int:
    """The number of live keys, as the server counts them."""
    status, body = fetch(pulzar.url + "/admin/status")
    if status != 200:
        raise BenchError(f"/admin/status answered {status}")
    count = msgspec.json.decode(body)["entries"]
    assert isinstance(count, int)
    return count


def wait_entries(pulzar: Pulzar, at_least: int) -> None:
    """Return when the catalog is whole: ready, and with all keys in it."""
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    while fetch(pulzar.url + "/readyz")[0] != 200:
        if time.monotonic() > deadline:
            raise BenchError("the server did not become ready")
        time.sleep(0.01)
    found = entries(pulzar)
    if found < at_least:
        raise BenchError(f"{at_least} keys were acknowledged and {found} are there")


def answering_s(context: Context, pulzar: Pulzar, keys: int) -> float:
    """Start a stopped server; seconds until it has answered a GET of a key rightly."""
    begun = time.monotonic()
    pulzar.start()
    context.generator.run(pulzar, Load(op="get", connections=1, seconds=0.0, keys=keys))
    return time.monotonic() - begun


def put_and_get(
    context: Context, many: Pulzar, keys: int
) -> tuple[dict[str, list[Report]], dict[str, list[Report]]]:
    """Rates of the server with many keys and of one with few, per round."""
    many_reports: dict[str, list[Report]] = {"put": [], "get": []}
    few_reports: dict[str, list[Report]] = {"put": [], "get": []}
    seconds = context.scale.seconds
    for n in range(context.scale.rounds):
        with context.pulzar("few") as few:
            context.fill(few, keys=FEW_KEYS)
            pairs = ((few, few_reports, FEW_KEYS), (many, many_reports, keys))
            for server, reports, present in pairs if n % 2 else pairs[::-1]:
                get = Load(op="get", seconds=seconds, keys=present)
                put = Load(op="put", seconds=seconds, start=(n + 1) * ROUND_KEYS)
                reports["get"].append(context.measure(server, get))
                reports["put"].append(context.measure(server, put))
    return many_reports, few_reports


def rate_results(
    row: str, keys: int, many: dict[str, list[Report]], few: dict[str, list[Report]]
) -> Iterator[Result]:
    for op, template in (("put", PUT), ("get", GET)):
        ours = [report.operations_per_s for report in many[op]]
        base = [report.operations_per_s for report in few[op]]
        yield Result(
            figure=figure(template, row, keys, WANTED.rate),
            rounds=ratios(ours, base),
            detail=f"{median(ours):,.0f}/s; at {FEW_KEYS:,} keys {median(base):,.0f}/s",
        )


def clean_starts(context: Context, pulzar: Pulzar, keys: int) -> list[float]:
    times = []
    for _ in range(context.scale.restarts):
        pulzar.stop()
        times.append(answering_s(context, pulzar, keys))
    return times


def killed_starts(context: Context, pulzar: Pulzar, keys: int) -> list[float]:
    times = []
    for n in range(context.scale.restarts):
        writing = Load(op="put", start=(100 + n) * ROUND_KEYS)
        run = context.generator.begin(pulzar, writing)
        time.sleep(KILL_AFTER_S)
        pulzar.kill()
        stored = run.stop().ok
        times.append(answering_s(context, pulzar, keys))
        again = Load(op="get", seconds=0.5, keys=max(1, stored // 2), start=writing.start)
        checked(context.generator.run(pulzar, again), pulzar)
    return times


def views_of(directory: Path) -> list[Path]:
    """The disposable views below a data directory: LMDB, beside each volume."""
    return [path for path in sorted(directory.rglob("*.views")) if path.is_dir()]


def rebuilds(context: Context, pulzar: Pulzar, keys: int) -> list[float]:
    """Keys per second of starts that find no views."""
    present = entries(pulzar)
    rates = []
    for _ in range(context.scale.restarts):
        pulzar.stop()
        views = views_of(pulzar.directory)
        if not views:
            raise BenchError(f"no views below {pulzar.directory}")
        for path in views:
            shutil.rmtree(path)
        begun = time.monotonic()
        pulzar.start()
        wait_entries(pulzar, present)
        rates.append(present / (time.monotonic() - begun))
        context.generator.run(pulzar, Load(op="get", seconds=0.5, keys=keys))
    return rates


def many_keys(context: Context, row: str, keys: int) -> Iterator[Result]:
    with context.pulzar("many") as pulzar:
        with MemoryWatch(pulzar, interval_s=0.5) as memory:
            loaded = context.fill(pulzar, keys=keys)
            say(f"{row}: {keys:,} keys loaded, {loaded.keys_per_s:,.0f} keys/s")
            wait_entries(pulzar, keys)
            many, few = put_and_get(context, pulzar, keys)
        yield from rate_results(row, keys, many, few)
        yield Result(figure=figure(MEMORY, row, keys, None), rounds=(memory.peak_mib,))
        clean = clean_starts(context, pulzar, keys)
        yield Result(figure=figure(START_CLEAN, row, keys, WANTED.start_clean), rounds=tuple(clean))
        killed = killed_starts(context, pulzar, keys)
        yield Result(
            figure=figure(START_KILLED, row, keys, WANTED.start_killed),
            rounds=tuple(killed),
            detail=f"slowest {max(killed):.2f} s",
        )
        rates = rebuilds(context, pulzar, keys)
        yield Result(figure=figure(REBUILD, row, keys, None), rounds=tuple(rates))


def million(context: Context) -> Iterator[Result]:
    yield from many_keys(context, "many", context.scale.many_keys)


def millions(context: Context) -> Iterator[Result]:
    yield from many_keys(context, "many5", context.scale.most_keys)


ROWS = (Row(name="many", measure=million), Row(name="many5", measure=millions, large=True))
assert ROUND_KEYS > 5 * MILLION  # what rounds write never meets what was loaded
