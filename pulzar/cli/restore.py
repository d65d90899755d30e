"""`pulzar restore`: a master with an empty disk reads everything from its volumes."""

import contextlib
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import click

from pulzar.cli.exit import NO, Answer
from pulzar.cli.options import json_option, master_option
from pulzar.cli.output import note, print_json, print_table, stderr_is_terminal
from pulzar.client.sync import Client
from pulzar.errors import Unavailable

POLL_S = 0.2


@click.command("restore")
@click.argument("volume_url")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=600.0,
    show_default=True,
    metavar="S",
    help="Give up after so many seconds without progress.",
)
@master_option
@json_option
def command(volume_url: str, wait_s: float, master: str, as_json: bool) -> None:
    """Let a master read everything from its volumes again.

    VOLUME_URL (host, host:port or URL) is one of them: the master, started with the cluster's key
    and nothing else, learns from it who the others are, and follows the log of each to its head.
    Until then it answers data requests 503. This command shows how far it is, and ends when
    it is done.
    """
    with Client(master) as client:
        progress = client.admin("POST", "restore", {"volume": volume_url})
        total = sum(node["total"] for node in progress["nodes"])
        with contextlib.ExitStack() as stack:
            advance: Callable[[int], None] = _nothing
            if stderr_is_terminal():
                bar = import_module("pulzar.cli.bar").count_bar
                advance = stack.enter_context(bar("records", total))
            progress = _follow(client, progress, advance, wait_s)
    if as_json:
        print_json(progress)
    else:
        rows = [(node["node"], node["state"], node["followed"]) for node in progress["nodes"]]
        print_table(("volume", "state", "records"), rows)
    note(progress["sentence"])
    if not progress["ready"]:
        raise Answer(NO)


def _follow(
    client: Client, progress: dict[str, Any], advance: Callable[[int], None], wait_s: float
) -> dict[str, Any]:
    """Ask how far it is until it is done, or until nothing has moved for `wait_s`."""
    shown, moved_s = 0, time.monotonic()
    while not progress["ready"]:
        time.sleep(POLL_S)
        with contextlib.suppress(Unavailable):
            progress = client.admin("GET", "restore")
        followed = sum(node["followed"] for node in progress["nodes"])
        if followed > shown:
            advance(followed - shown)
            shown, moved_s = followed, time.monotonic()
        elif time.monotonic() - moved_s >= wait_s:
            break
    return progress


def _nothing(_count: int) -> None:
    return
