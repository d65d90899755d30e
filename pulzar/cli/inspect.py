"""`pulzar inspect DIR`: show what is in a volume, record by record."""

from collections.abc import Iterator

import click

from pulzar.cli.options import directory_argument, json_option
from pulzar.cli.output import Cell, key_text, print_json, print_table, time_text
from pulzar.cli.place import volume_directory
from pulzar.disk import SystemDisk
from pulzar.varidb.check import Inspected, inspect

COLUMNS = ("segment", "offset", "seq", "type", "version", "size", "created", "expires", "state")


@click.command("inspect")
@directory_argument
@click.option("--key", help="Only the records of this key: its history.")
@json_option
def command(directory: str, key: str | None, as_json: bool) -> None:
    """Show what is in a volume, record by record.

    DIR is a volume directory, or the data directory that holds it, while its server is down.
    Every record of every segment is listed, replaced values, deletes and the log's own records
    included. State is ok, mended (one flipped bit, put right when read) or damaged.
    """
    disk = SystemDisk()
    records = inspect(volume_directory(disk, directory), disk)
    if key is not None:
        records = _of_key(records, key.encode())
    if as_json:
        for record in records:
            print_json(_members(record))
    else:
        print_table((*COLUMNS, "key"), (tuple(_members(record).values()) for record in records))


def _of_key(records: Iterator[Inspected], key: bytes) -> Iterator[Inspected]:
    return (record for record in records if record.key == key)


def _members(record: Inspected) -> dict[str, Cell]:
    return {
        "segment": record.segment,
        "offset": record.offset,
        "seq": record.seq,
        "type": record.type,
        "version": f"{record.version:016x}",
        "size": record.size,
        "created": time_text(record.created_ms),
        "expires": time_text(record.expires_s * 1000) if record.expires_s else None,
        "state": record.state,
        "key": key_text(record.key),
    }
