"""`pulzar check DIR`: read every byte of a volume and report damage."""

from collections import Counter
from collections.abc import Iterator

import click

from pulzar.cli.exit import DAMAGED, Answer
from pulzar.cli.options import directory_argument, json_option
from pulzar.cli.output import Cell, key_text, note, print_json, print_table
from pulzar.cli.place import volume_directory
from pulzar.disk import SystemDisk
from pulzar.varidb.check import Finding, check


@click.command("check")
@directory_argument
@json_option
def command(directory: str, as_json: bool) -> None:
    """Read every byte of a volume and report damage.

    DIR is a volume directory, or the data directory that holds it, while its server is down.
    Nothing is changed. A note is harmless: the next start mends or removes what it names. Damage is
    bytes that are no longer what was written; then the exit code is 5. The columns are kind,
    place, key and what was found.
    """
    disk = SystemDisk()
    kinds: Counter[str] = Counter()
    findings = _counted(check(volume_directory(disk, directory), disk), kinds)
    if as_json:
        for finding in findings:
            print_json(
                {
                    "kind": finding.kind,
                    "place": finding.place,
                    "key": key_text(finding.key),
                    "message": finding.message,
                }
            )
    else:
        print_table(("kind", "place", "key", "what"), map(_cells, findings))
    note(f"check of {directory}: damage {kinds['damage']}, notes {kinds['note']}")
    if kinds["damage"]:
        raise Answer(DAMAGED)


def _counted(findings: Iterator[Finding], kinds: Counter[str]) -> Iterator[Finding]:
    for finding in findings:
        kinds[finding.kind] += 1
        yield finding


def _cells(finding: Finding) -> tuple[Cell, ...]:
    return (finding.kind, finding.place, key_text(finding.key), finding.message)
