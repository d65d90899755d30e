"""`pulzar torture`: kill a server again and again and verify what it kept."""

import os
import secrets
import shutil
import sys
import tempfile

import click
import msgspec

from pulzar.cli.exit import NO, Answer
from pulzar.cli.options import json_option
from pulzar.cli.output import note, print_json, print_table
from pulzar.client.torture import Report, torture, verify
from pulzar.errors import UsageError


@click.command("torture")
@click.option("--seconds", type=click.FloatRange(0), default=60.0, show_default=True)
@click.option(
    "--data",
    metavar="DIR",
    help="A directory that is not there yet, on the disk to test; it is kept. Default: one in the "
    "working directory, removed when nothing was lost.",
)
@click.option("--writers", type=click.IntRange(1, 64), default=4, show_default=True)
@click.option("--seed", type=int, help="Repeats the choices of an earlier run.")
@click.option("--verify", "only_verify", is_flag=True, help="Only judge what is in --data.")
@json_option
def command(
    seconds: float,
    data: str | None,
    writers: int,
    seed: int | None,
    only_verify: bool,
    as_json: bool,
) -> None:
    """Kill a server again and again and verify what it kept.

    Starts a server of its own and writes to it, keeping a list, fsynced, of what was attempted and
    what was acknowledged. At random moments one process of the server, or all of them, are killed
    with SIGKILL. At the end every acknowledged write must be there as it was last acknowledged.
    Ends with 1 where anything was lost. After a power cut in the middle of a run,
    `pulzar torture --verify --data DIR` judges what the disk kept.
    """
    if only_verify and data is None:
        raise UsageError("--verify needs --data, the directory of an earlier run")
    seed = secrets.randbelow(2**32) if seed is None else seed
    directory = data or tempfile.mkdtemp(prefix="pulzar-torture-", dir=".")
    if only_verify:
        report = Report(seed=seed, directory=directory)
        verify(directory, report)
    else:
        note(f"seed {seed}, directory {directory}")
        report = torture(
            directory, seconds=seconds, writers=writers, seed=seed, on_event=_say_on_terminal
        )
    if data is None and report.is_clean:
        shutil.rmtree(directory)
    _print(report, as_json=as_json)
    if not report.is_clean:
        raise Answer(NO)


def _say_on_terminal(event: str) -> None:
    if sys.stderr.isatty():
        note(event)


def _print(report: Report, *, as_json: bool) -> None:
    if as_json:
        print_json(msgspec.structs.asdict(report))
        return
    print_table(
        ("what", "count"),
        [
            ("kills", report.kills),
            ("writes attempted", report.attempted),
            ("writes acknowledged", report.acknowledged),
            ("kept", report.kept),
            ("lost", report.lost),
        ],
    )
    for problem in report.problems:
        note(problem)
    if not report.is_clean:
        note(
            f"the seed was {report.seed}; everything is kept in {os.path.abspath(report.directory)}"
        )
