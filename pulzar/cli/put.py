"""`pulzar put`: store a file, a directory or standard input."""

import os
import stat as file_modes

import click
import msgspec

from pulzar.cli.options import cache_option, json_option, master_option
from pulzar.cli.output import binary_stdin, print_json, print_table
from pulzar.cli.transfer import Tally, progress, report
from pulzar.client.memory import Memory
from pulzar.client.requests import Written
from pulzar.client.sync import Client, Readable
from pulzar.client.tree import (
    Counted,
    Lifetime,
    Outcome,
    as_directory,
    content_type_of,
    files_below,
    sentence,
    upload,
)
from pulzar.errors import UsageError


class Wish(msgspec.Struct, frozen=True):
    """What the options ask of each value."""

    content_type: str | None
    lifetime: Lifetime
    if_match: str | None
    if_none_match: str | None


@click.command("put")
@click.argument("source", metavar="FILE|DIR|-")
@click.argument("key")
@click.option("--content-type", metavar="TYPE", help="Default: as the file's name suggests.")
@click.option("--ttl", metavar="TIME", help="Forget the value after 90s, 15m, 12h or 7d.")
@click.option("--temporal", type=int, metavar="DAYS", help="Forget the value after so many days.")
@click.option("--if-match", metavar="ETAG", help="Only where the key is at this version.")
@click.option("--if-none-match", metavar="ETAG", help="Only where it is not; * is: a new key.")
@cache_option
@master_option
@json_option
def command(
    source: str,
    key: str,
    content_type: str | None,
    ttl: str | None,
    temporal: int | None,
    if_match: str | None,
    if_none_match: str | None,
    cache: str,
    master: str,
    as_json: bool,
) -> None:
    """Store a file, a directory or standard input.

    When it returns with 0, everything is on disk. A file FILE becomes the key KEY; `-` reads
    standard input; a pipe, and what has no size, is read to its end.

    Every file below a directory DIR becomes KEY/its/path. Files that are there already, with the
    same size and bytes, are skipped (not with --ttl or --temporal, which give every value its time
    anew). What earlier transfers of this user moved is remembered (--cache), so that the same ETag
    and an unchanged file are enough; anything else of the same size is read from the server and
    compared. Links to files are followed. Links to directories, pipes and devices are left out and
    counted, empty directories are not stored.
    """
    wish = Wish(content_type, Lifetime(ttl, temporal), if_match, if_none_match)
    with Client(master) as client:
        if source != "-" and os.path.isdir(source):
            with Memory(cache, client.url) as memory:
                _put_directory(client, source, as_directory(key), wish, memory, as_json=as_json)
            return
        written = _put_file(client, source, key, wish)
    if as_json:
        print_json(msgspec.structs.asdict(written))
    else:
        print_table(("key", "size", "etag"), [(written.key, written.size, written.etag)])


def _put_file(client: Client, source: str, key: str, wish: Wish) -> Written:
    if source == "-":
        return _send(client, binary_stdin(), None, key, wish, content_type="")
    with open(source, "rb") as file:
        mode = os.fstat(file.fileno())
        # A pipe has no size to announce, and 0 may be none either, as in /proc: sent in chunks.
        size = (mode.st_size or None) if file_modes.S_ISREG(mode.st_mode) else None
        with progress(source, lambda: size or 0) as on_bytes:
            body = Counted(file, on_bytes) if on_bytes else file
            return _send(client, body, size, key, wish, content_type=content_type_of(source))


def _send(
    client: Client, body: Readable, size: int | None, key: str, wish: Wish, *, content_type: str
) -> Written:
    return client.put(
        key,
        body,
        size=size,
        content_type=content_type if wish.content_type is None else wish.content_type,
        ttl=wish.lifetime.ttl,
        temporal=wish.lifetime.temporal,
        if_match=wish.if_match,
        if_none_match=wish.if_none_match,
    )


def _put_directory(
    client: Client, directory: str, prefix: str, wish: Wish, memory: Memory, *, as_json: bool
) -> None:
    if wish.if_match or wish.if_none_match or wish.content_type:
        raise UsageError(
            f"{directory!r} is a directory; --if-match, --if-none-match and --content-type are"
            " for one file"
        )

    def total_bytes() -> int:
        paths = files_below(directory, on_other=lambda _: None, on_error=lambda _: None)
        return sum(_size(os.path.join(directory, path)) for path in paths)

    def unreadable(error: OSError) -> None:
        tally.add(Outcome("", os.fsdecode(error.filename), error=sentence(error)))

    tally = Tally(as_json=as_json)
    paths = files_below(directory, on_other=tally.leave_out, on_error=unreadable)
    with progress(directory, total_bytes) as on_bytes:
        outcomes = upload(
            client,
            paths,
            directory,
            prefix,
            memory=memory,
            lifetime=wish.lifetime,
            on_bytes=on_bytes,
        )
        report(outcomes, tally, done="stored", as_json=as_json)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # gone meanwhile: the transfer will say so
        return 0
