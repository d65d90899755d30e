"""`pulzar ls`: list keys."""

import click

from pulzar.cli.options import json_option, master_option
from pulzar.cli.output import Cell, on_terminal, print_json, print_line, print_table, size_text
from pulzar.client.requests import Listed
from pulzar.client.sync import Client


@click.command("ls")
@click.argument("prefix", default="")
@click.option("-r", "--recursive", is_flag=True, help="Every key, not folded at slashes.")
@click.option("-l", "--long", "is_long", is_flag=True, help="With size, time, type and expiry.")
@master_option
@json_option
def command(prefix: str, recursive: bool, is_long: bool, master: str, as_json: bool) -> None:
    """List keys.

    Those that begin with PREFIX, in the order of their bytes. Keys with a slash behind the prefix
    are folded to one line that ends in the slash, as directories are: `pulzar ls photos/` shows
    what is in photos. Elsewhere than on a terminal cells are separated by tabs, sizes are bytes and
    times have seconds.
    """
    with Client(master) as client:
        items = client.list_keys(prefix, delimiter=None if recursive else "/")
        if as_json:
            for item in items:
                print_json(_members(item))
        elif is_long:
            columns = ("key", "size", "created", "content type", "expires")
            print_table(columns, (_cells(item) for item in items))
        else:
            for item in items:
                print_line(item.key)


def _members(item: Listed) -> dict[str, object]:
    if item.is_prefix:
        return {"prefix": item.key}
    return {
        "key": item.key,
        "size": item.size,
        "etag": item.etag,
        "created": item.created,
        "expires": item.expires,
        "content_type": item.content_type,
    }


def _cells(item: Listed) -> tuple[Cell, ...]:
    if item.is_prefix:
        return (item.key, "", "", "", "")
    if not on_terminal():
        return (item.key, item.size, item.created, item.content_type, item.expires)
    times = (_minute(item.created), _minute(item.expires or ""))
    return (item.key, size_text(item.size), times[0], item.content_type, times[1])


def _minute(time: str) -> str:
    """2026-11-25T23:11:05.678Z as a person reads it, in few columns: 2026-11-25 23:11Z."""
    return f"{time[:10]} {time[11:16]}Z" if time else ""
