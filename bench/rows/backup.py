"""A backup of a whole machine, beside `cp -a` of the same bytes; and one after a hundredth of them.

Both read from the page cache, where the bytes are after they were written. `cp` ends when the bytes
are in the page cache of the target; the backup ends when they are durable there and were read back.
"""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench.context import Context, Row, settle
from bench.figures import Figure, Result, Unit, median, ratios
from bench.generator import Load
from bench.servers import BenchError, Pulzar

FULL = Figure(
    row="backup",
    what="a full backup to a directory, against cp -a of the same bytes",
    unit=Unit.RATIO,
    floor=0.5,
    goal=0.8,
)
NEXT = Figure(
    row="backup",
    what="time of a backup after 1 % was written, of the time of a full one",
    unit=Unit.PERCENT,
    floor=5.0,
    goal=2.0,
    higher_is_better=False,
)
VALUE_BYTES = 64 << 10
ROUNDS = 3


def backup(context: Context) -> Iterator[Result]:
    """Full, then a hundredth more."""
    copies: list[float] = []
    full: list[float] = []
    following: list[float] = []
    keys = context.scale.backup_bytes // VALUE_BYTES
    with context.pulzar() as pulzar:
        context.generator.run(pulzar, Load(op="put", keys=keys, size=VALUE_BYTES, connections=16))
        target = context.directory / "target"
        start = keys
        for _ in range(min(ROUNDS, context.scale.rounds)):
            copy = context.directory / "copy"
            settle()
            copies.append(timed("cp", "-a", str(Path(pulzar.directory) / "volume"), str(copy)))
            shutil.rmtree(copy)
            shutil.rmtree(target, ignore_errors=True)
            settle()
            full.append(run(context, pulzar, target))
            more = Load(op="put", keys=keys // 100, start=start, size=VALUE_BYTES, connections=16)
            context.generator.run(pulzar, more)
            start += keys // 100
            settle()
            following.append(run(context, pulzar, target))
        verified = timed(*context.pulzar_program, "backup", "verify", str(target))
    gib = context.scale.backup_bytes / (1 << 30)
    detail = (
        f"{gib:g} GiB in values of 64 KiB: cp -a {median(copies):.2f} s, "
        f"full {median(full):.2f} s, next {median(following):.2f} s, verify {verified:.2f} s"
    )
    yield Result(figure=FULL, rounds=ratios(copies, full), detail=detail)
    yield Result(figure=NEXT, rounds=tuple(100 * part for part in ratios(following, full)))


def run(context: Context, pulzar: Pulzar, target: Path) -> float:
    """The time of a backup, from the start of its process."""
    time.sleep(1.1)  # two snapshots of one second would have the same name
    key = Path(pulzar.directory) / "cluster.key"
    options = ["--master", pulzar.url, "--key-file", str(key)]
    return timed(*context.pulzar_program, "backup", "run", str(target), *options)


def timed(*command: str) -> float:
    """The time of a command that must end well."""
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise BenchError(f"{command[0]} ended with {done.returncode}: {done.stderr!r}")
    return time.perf_counter() - begun


ROWS = (Row(name="backup", measure=backup),)
