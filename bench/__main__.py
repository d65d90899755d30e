"""`python -m bench`: measure, print each figure as soon as it is there, write RESULTS.md.

A full run writes RESULTS.md; a quick or partial one only prints, unless --output says where.
Exit status: 0 when everything was measured (whether or not a floor is reached), 1 when a row
could not be measured, 2 for a wrong argument.
"""

import argparse
import http.client
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench import report
from bench.context import FULL, QUICK, Context, Row, say
from bench.figures import Result
from bench.generator import build
from bench.machine import TMPFS, facts, filesystem
from bench.rows import ROWS
from bench.servers import BenchError

HERE = Path(__file__).resolve().parent


def chosen(rows: Sequence[Row], *, only: str | None, large: bool) -> list[Row]:
    """The rows to run; ValueError names one that does not exist."""
    if only is None:
        return [row for row in rows if large or not row.large]
    names = only.split(",")
    known = [row.name for row in rows]
    for name in names:
        if name not in known:
            raise ValueError(f"no row is called {name!r}; there are {', '.join(known)}")
    return [row for row in rows if row.name in names]


def parser() -> argparse.ArgumentParser:
    names = ", ".join(row.name for row in ROWS)
    made = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    made.add_argument("--only", metavar="ROW,...", help=f"some of: {names}")
    made.add_argument("--quick", action="store_true", help="a minute or two, to see that it works")
    made.add_argument("--large", action="store_true", help="also the rows with 5,000,000 keys")
    made.add_argument("--rounds", type=int, help="interleaved rounds (5; 2 with --quick)")
    made.add_argument("--output", type=Path, help="write the results here")
    made.add_argument(
        "--directory",
        type=Path,
        default=HERE / "build" / "data",
        help="where servers keep their data; emptied before and after each row",
    )
    made.add_argument(
        "--pulzar",
        default=str(Path(sys.executable).with_name("pulzar")),
        help="the command to measure, so that two checkouts can be compared",
    )
    return made


def command_of(text: str) -> list[str]:
    """The words of a command, its program by its full path (servers run elsewhere)."""
    name, *rest = shlex.split(text)
    found = shutil.which(name)
    if found is None:
        raise ValueError(f"there is no program {name!r}")
    return [os.path.abspath(found), *rest]


def measure(context: Context, rows: Sequence[Row]) -> tuple[list[Result], list[str]]:
    """Run the rows; what came out, and the names of those that could not be measured."""
    results: list[Result] = []
    failed: list[str] = []
    for row in rows:
        begun = time.monotonic()
        context.forget()
        try:
            for result in row.measure(context):
                results.append(result)
                print(report.line(result), flush=True)
        except (BenchError, OSError, http.client.HTTPException) as error:
            failed.append(row.name)
            say(f"{row.name}: not measured: {error}")
            continue  # its directory holds the logs until the next row
        say(f"{row.name}: {time.monotonic() - begun:.0f} s")
    if not failed:
        context.forget()
    return results, failed


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    try:
        rows = chosen(ROWS, only=options.only, large=options.large)
        pulzar = command_of(options.pulzar)
    except ValueError as error:
        say(str(error))
        return 2
    scale = QUICK if options.quick else FULL
    if options.rounds:
        scale = replace(scale, rounds=options.rounds)
    options.directory.mkdir(parents=True, exist_ok=True)
    if filesystem(options.directory)[0] in TMPFS:
        say(f"{options.directory} is in memory: nothing measured there says anything about a disk")
    (HERE / "build").mkdir(exist_ok=True)
    context = Context(
        directory=options.directory.resolve(),
        scale=scale,
        generator=build(HERE / "build"),
        pulzar=pulzar,
    )
    results, failed = measure(context, rows)
    output = options.output
    if output is None and not (options.quick or options.only):
        output = HERE / "RESULTS.md"
    if output is not None and results:
        command = shlex.join(["python", "-m", "bench", *arguments])
        machine = facts(context.directory, HERE.parent)
        text = report.document(results, machine=machine, command=command, rounds=scale.rounds)
        output.write_text(text)
        say(f"written to {output}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
