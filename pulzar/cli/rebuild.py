"""`pulzar rebuild DIR`: make the views of a volume anew from its log."""

import click
import msgspec

from pulzar.cli.exit import DAMAGED, Answer
from pulzar.cli.options import directory_argument, json_option
from pulzar.cli.output import note, print_json, print_table
from pulzar.cli.place import data_directory
from pulzar.clock import SystemClock
from pulzar.disk import SystemDisk
from pulzar.varidb.store import rebuild


@click.command("rebuild")
@directory_argument
@json_option
def command(directory: str, as_json: bool) -> None:
    """Make the views of a volume anew from its log.

    DIR is a data directory, or the volume in it, while its server is down. The log is the
    database; volume.views and catalog.views are derived from it, thrown away and made anew. A start
    does so by itself where it must. If damage is met on the way, the exit code is 5; `pulzar check`
    lists it.
    """
    disk = SystemDisk()
    rebuilt = rebuild(data_directory(disk, directory), disk=disk, clock=SystemClock())
    members = msgspec.structs.asdict(rebuilt)
    if as_json:
        print_json(members)
    else:
        print_table(("what", "amount"), members.items())
    if rebuilt.damaged:
        note(f"damage met: {rebuilt.damaged}; `pulzar check {directory}` lists it")
        raise Answer(DAMAGED)
