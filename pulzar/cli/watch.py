"""`pulzar watch`: what happens to the keys under a prefix, as it happens."""

import os
import shlex
import subprocess
from typing import Any

import click

from pulzar.cli.options import json_option, master_option
from pulzar.cli.output import note, print_json, print_line, printable
from pulzar.client.sync import Client
from pulzar.client.watching import watch
from pulzar.errors import UsageError


@click.command("watch")
@click.argument("prefix", default="")
@click.option(
    "--exec",
    "program",
    metavar="CMD",
    help="Run this at each change, with PULZAR_EVENT, PULZAR_KEY and PULZAR_VERSION set.",
)
@click.option("--after", metavar="ID", default="", help="Begin behind the event with this id.")
@master_option
@json_option
def command(prefix: str, program: str | None, after: str, master: str, as_json: bool) -> None:
    """Show what happens to the keys under a prefix, as it happens.

    One line per change: put or delete, the key, its version. `reset` means that what happened
    before cannot be told: list the keys. A lost connection is made again, and nothing is missed; it
    ends by Ctrl-C. CMD is run for one change after the other, without a shell: put `sh -c '...'`
    around it if it needs one.
    """
    try:
        words = shlex.split(program) if program is not None else []
    except ValueError as error:
        raise UsageError(f"--exec is not a command: {error}") from None
    if program is not None and not words:
        raise UsageError("--exec is empty: give a command")
    with Client(master) as client:
        for event in watch(client, prefix, after=after):
            if as_json:
                print_json(event)
            elif event["event"] != "ready":
                print_line(_text(event))
            if words and event["event"] != "ready":
                _run(words, event)


def _text(event: dict[str, Any]) -> str:
    if event["event"] == "reset":
        return "reset"
    return f"{event['event']} {printable(event['key'])} {event['version']}"


def _run(words: list[str], event: dict[str, Any]) -> None:
    variables = {
        "PULZAR_EVENT": event["event"],
        "PULZAR_KEY": event.get("key", ""),
        "PULZAR_VERSION": event.get("version", ""),
    }
    try:
        code = subprocess.run(words, env={**os.environ, **variables}, check=False).returncode
    except OSError as error:
        raise UsageError(f"{words[0]} cannot be run: {error.strerror}") from None
    if code:
        note(f"{words[0]} ended with {code}")
