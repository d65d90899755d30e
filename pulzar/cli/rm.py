"""`pulzar rm`: delete keys."""

from collections.abc import Iterable, Iterator
from itertools import islice

import click

from pulzar.cli.exit import NO, Answer
from pulzar.cli.options import json_option, master_option
from pulzar.cli.output import note, print_json, print_line
from pulzar.client.batch import Delete, Done
from pulzar.client.sync import Client
from pulzar.client.tree import as_directory
from pulzar.errors import KeyNotFound, UsageError

KEYS_AT_ONCE = 1000


@click.command("rm")
@click.argument("keys", metavar="KEY...", nargs=-1, required=True)
@click.option("-r", "--recursive", is_flag=True, help="Everything under KEY/.")
@click.option("-f", "--force", is_flag=True, help="A key that is not there is no failure.")
@click.option("--if-match", metavar="ETAG", help="Only where the key is at this version.")
@click.option("--all", "everything", is_flag=True, help="Allow -r '', which deletes every key.")
@master_option
@json_option
def command(
    keys: tuple[str, ...],
    recursive: bool,
    force: bool,
    if_match: str | None,
    everything: bool,
    master: str,
    as_json: bool,
) -> None:
    """Delete keys.

    With --recursive every key under KEY/ is deleted, but not the key KEY itself. When it returns
    with 0, every delete is on disk.
    """
    if recursive and "" in keys and not everything:
        raise UsageError("an empty KEY with --recursive is every key there is; add --all for that")
    if if_match and (recursive or len(keys) > 1):
        raise UsageError("--if-match is for one key")
    deleted = failed = 0
    with Client(master) as client:
        for key, problem in _delete(client, keys, recursive=recursive, if_match=if_match):
            is_failure = bool(problem) and not (force and isinstance(problem, KeyNotFound))
            deleted += not problem
            failed += is_failure
            if as_json:
                print_json({"key": key, "deleted": not problem, "error": str(problem or "")})
            elif is_failure:
                note(f"{key}: {problem}")
    if not as_json:
        print_line(f"deleted: {deleted}, failed: {failed}")
    if failed:
        raise Answer(NO)


def _delete(
    client: Client, keys: Iterable[str], *, recursive: bool, if_match: str | None
) -> Iterator[tuple[str, Exception | None]]:
    """Each key with the reason why it was not deleted, None where it was."""
    if recursive:
        keys = (item.key for key in keys for item in client.list_keys(as_directory(key)))
    remaining = iter(keys)
    while some := [Delete(key, if_match=if_match) for key in islice(remaining, KEYS_AT_ONCE)]:
        for asked, result in zip(some, client.batch(some), strict=True):
            if isinstance(result, KeyNotFound) and recursive:
                continue  # somebody else deleted it since it was listed
            yield asked.key, None if isinstance(result, Done) else _problem(result)


def _problem(result: object) -> Exception:
    return result if isinstance(result, Exception) else TypeError(f"not a delete: {result!r}")
