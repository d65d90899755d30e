"""`pulzar compact`: let the server give back the space of replaced and deleted values."""

import click

from pulzar.cli.options import json_option, master_option
from pulzar.cli.output import print_json, print_table
from pulzar.client.sync import Client

TIMEOUT_S = 24 * 3600.0  # the server answers when all is rewritten, which takes what it takes


@click.command("compact")
@master_option
@json_option
def command(master: str, as_json: bool) -> None:
    """Give back the space of replaced and deleted values.

    The server rewrites every sealed segment that holds superseded records, while it goes on
    serving, and answers what was done. It does so by itself too, when enough can be won; this
    command does not wait for that. Replaced files stay for `[volume] retired_grace`.
    """
    with Client(master, timeout_s=TIMEOUT_S) as client:
        done = client.compact()
    if as_json:
        print_json(done)
    else:
        print_table(("what", "amount"), sorted(done.items()))
