"""`pulzar stat`: show what is known of a key."""

import click

from pulzar.cli.missing import naming
from pulzar.cli.options import json_option, master_option
from pulzar.cli.output import print_json, print_table, time_text
from pulzar.client.sync import Client


@click.command("stat")
@click.argument("key")
@master_option
@json_option
def command(key: str, master: str, as_json: bool) -> None:
    """Show what is known of a key.

    Its size in bytes, its ETag (the version, for --if-match), its content type, and when it was
    written and will end. The value itself is not read.
    """
    with Client(master) as client, naming(client, key):
        known = client.stat(key)
    members: dict[str, str | int | None] = {
        "key": known.key,
        "size": known.size,
        "etag": known.etag,
        "content_type": known.content_type,
        "modified": time_text(known.modified) if known.modified else None,
        "expires": known.expires,
    }
    if as_json:
        print_json(members)
    else:
        print_table(("name", "value"), members.items())
