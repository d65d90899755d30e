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
    does so by itself where it must.

    Damaged are the places that were met while the volume was opened; where there are any, the exit
    code is 5. That is not all of it: of a sealed segment only the footer is read, and no blob.
    `pulzar check` reads every byte, and lists them.
    """
    disk = SystemDisk()
    rebuilt = rebuild(data_directory(disk, directory), disk=disk, clock=SystemClock())
    members = msgspec.structs.asdict(rebuilt)
    if as_json:
        print_json(members)
    else:
        print_table(("what", "amount"), members.items())
    if rebuilt.damaged:
        note(f"damage met: {rebuilt.damaged}; `pulzar check {directory}` lists all there is")
        raise Answer(DAMAGED)
