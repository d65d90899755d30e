"""`pulzar get`: fetch a key, or everything under a prefix."""

import os
import sys

import click

from pulzar.cli.options import json_option, master_option
from pulzar.cli.output import print_json, print_table
from pulzar.cli.transfer import progress, report
from pulzar.client.sync import Client
from pulzar.client.tree import as_directory, download, relative_path, save
from pulzar.errors import KeyNotFound, UsageError


@click.command("get")
@click.argument("key")
@click.argument("target", metavar="[FILE|DIR|-]", required=False)
@click.option("-r", "--recursive", is_flag=True, help="Everything under KEY/, as a directory.")
@master_option
@json_option
def command(key: str, target: str | None, recursive: bool, master: str, as_json: bool) -> None:
    """Fetch a key, or everything under a prefix.

    Without a target, or with `-`, the value goes to standard output; into a directory it takes
    the last part of its key as its name. A KEY that ends in a slash, or --recursive, fetches every
    key under it into the directory DIR (default: the last part of KEY), skipping what is there
    already where the server tells a checksum. A file appears under its name only when it is whole.
    No key is ever written outside of DIR.
    """
    with Client(master) as client:
        if recursive or key.endswith("/"):
            _get_directory(client, as_directory(key), target, as_json=as_json)
        elif target is None or target == "-":
            if as_json:
                raise UsageError("--json prints about a file that was fetched: name a FILE or DIR")
            _get_stdout(client, key)
        else:
            _get_file(client, key, target, as_json=as_json)


def _get_stdout(client: Client, key: str) -> None:
    with client.open(key) as value:
        for chunk in value:
            sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


def _get_file(client: Client, key: str, target: str, *, as_json: bool) -> None:
    if target.endswith("/") or os.path.isdir(target):
        target = os.path.join(target, relative_path("", key.rpartition("/")[2]))
    with client.open(key) as value, progress(key, lambda: value.stat.size) as on_bytes:
        size = save(value, target, on_bytes=on_bytes)
    if as_json:
        print_json({"key": key, "path": target, "size": size, "etag": value.stat.etag})
    else:
        print_table(("path", "size", "etag"), [(target, size, value.stat.etag)])


def _get_directory(client: Client, prefix: str, target: str | None, *, as_json: bool) -> None:
    if target == "-":
        raise UsageError(f"everything under {prefix!r} needs a directory, not standard output")
    directory = target or prefix.rstrip("/").rpartition("/")[2] or "."
    if directory == "..":
        raise UsageError(f"name the directory that {prefix!r} is to be fetched into")
    listing = client.list_keys(prefix)
    first = next(listing, None)
    if first is None:
        raise KeyNotFound(f"there is no key under {prefix!r}")

    def total_bytes() -> int:
        return sum(item.size for item in client.list_keys(prefix))

    os.makedirs(directory, exist_ok=True)
    with progress(prefix, total_bytes) as on_bytes:
        keys = (item for group in ([first], listing) for item in group)
        outcomes = download(client, keys, prefix, directory, on_bytes=on_bytes)
        report(outcomes, done="fetched", as_json=as_json)
