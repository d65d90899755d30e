"""`pulzar get`: fetch a key, or everything under a prefix."""

import os

import click

from pulzar.cli.exit import ends_at_sigterm
from pulzar.cli.missing import naming
from pulzar.cli.options import cache_option, json_option, master_option
from pulzar.cli.output import binary_stdout, print_json, print_table
from pulzar.cli.transfer import Tally, progress, report
from pulzar.client.memory import Memory
from pulzar.client.save import counted, save
from pulzar.client.sync import Client
from pulzar.client.tree import as_directory, download, relative_path
from pulzar.errors import KeyNotFound, UsageError


@click.command("get")
@click.argument("key")
@click.argument("target", metavar="[FILE|DIR|-]", required=False)
@click.option("-r", "--recursive", is_flag=True, help="Everything under KEY/, as a directory.")
@cache_option
@master_option
@json_option
def command(
    key: str, target: str | None, recursive: bool, cache: str, master: str, as_json: bool
) -> None:
    """Fetch a key, or everything under a prefix.

    Without a target, or with `-`, the value goes to standard output; into a directory it takes
    the last part of its key as its name. A file changes only when the value is whole; it keeps its
    permissions, and a link stays a link. A pipe or a device is written into.

    With --recursive, or where KEY ends in a slash and the target is no file, every key under it is
    fetched into the directory DIR (default: the last part of KEY). A file that is there already
    with the size and the bytes of its key is left as it is. What earlier transfers of this user
    moved is remembered (--cache), so that the same ETag and an unchanged file are enough; anything
    else of the same size is read from the server and compared. Nothing is written outside of DIR.
    """
    with Client(master) as client, ends_at_sigterm():
        if recursive or (key.endswith("/") and not _is_for_one(target)):
            directory = _directory(as_directory(key), target)
            with Memory(cache, client.url) as memory:
                _get_directory(client, as_directory(key), directory, memory, as_json=as_json)
        elif target is None or target == "-":
            if as_json:
                raise UsageError("--json prints about a file that was fetched: name a FILE or DIR")
            with naming(client, key):
                _get_stdout(client, key)
        else:
            with naming(client, key):
                _get_file(client, key, target, as_json=as_json)


def _is_for_one(target: str | None) -> bool:
    """Whether a target takes one value: standard output, or what is there and is no directory."""
    is_there = target is not None and os.path.exists(target) and not os.path.isdir(target)
    return target == "-" or is_there


def _get_stdout(client: Client, key: str) -> None:
    output = binary_stdout()
    with client.open(key) as value:
        for chunk in value:
            output.write(chunk)
    output.flush()


def _get_file(client: Client, key: str, target: str, *, as_json: bool) -> None:
    if target.endswith("/") or os.path.isdir(target):
        target = os.path.join(target, relative_path("", key.rpartition("/")[2]))
    with client.open(key) as value, progress(key, lambda: value.stat.size) as on_bytes:
        saved = save(counted(value, on_bytes), target)
    if as_json:
        print_json({"key": key, "path": target, "size": saved.size, "etag": value.stat.etag})
    elif saved.status is not None:  # else the target may be this very stdout
        print_table(("path", "size", "etag"), [(target, saved.size, value.stat.etag)])


def _directory(prefix: str, target: str | None) -> str:
    """The directory that everything under a prefix is fetched into."""
    if target == "-":
        raise UsageError(f"everything under {prefix!r} needs a directory, not standard output")
    directory = target or prefix.rstrip("/").rpartition("/")[2]
    if directory in ("", ".", "..") and not target:
        raise UsageError(f"name the directory that everything under {prefix!r} is to be put into")
    return directory


def _get_directory(
    client: Client, prefix: str, directory: str, memory: Memory, *, as_json: bool
) -> None:
    listing = client.list_keys(prefix)
    first = next(listing, None)
    if first is None:
        raise KeyNotFound(f"there is no key under {prefix!r}")

    def total_bytes() -> int:
        return sum(item.size for item in client.list_keys(prefix))

    os.makedirs(directory, exist_ok=True)
    with progress(prefix, total_bytes) as on_bytes:
        keys = (item for group in ([first], listing) for item in group)
        outcomes = download(client, keys, prefix, directory, memory=memory, on_bytes=on_bytes)
        report(outcomes, Tally(as_json=as_json), done="fetched", as_json=as_json)
