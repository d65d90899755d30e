"""`pulzar compact`: let the server give back the space of replaced and deleted values."""

import click

from pulzar.cli.options import json_option, master_option
from pulzar.cli.output import note, print_json, print_table
from pulzar.client.sync import Client

TIMEOUT_S = 24 * 3600.0  # the server answers when all is rewritten, which takes what it takes


@click.command("compact")
@master_option
@json_option
def command(master: str, as_json: bool) -> None:
    """Give back the space of replaced and deleted values.

    The server rewrites every sealed segment that holds replaced or deleted values, while it goes on
    serving; this command ends when all are done. The server also does so by itself, once it is
    worth it. The old files go after `[volume] retired_grace`, 24 hours: until then the disk holds
    both. The rows are segments rewritten, records kept and dropped, and deletes forgotten.
    """
    with Client(master, timeout_s=TIMEOUT_S) as client:
        done = client.compact()
    if as_json:
        print_json(done)
    else:
        print_table(("what", "amount"), done.items())
    if not done["segments"]:
        note("there was nothing to give back")
