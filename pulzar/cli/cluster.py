"""`pulzar cluster`: the volumes of a cluster, and how to let one go."""

from collections import Counter
from typing import Any
from urllib.parse import quote

import click

from pulzar.cli.exit import NO, Answer
from pulzar.cli.options import json_option, master_option
from pulzar.cli.output import note, print_json, print_line, print_table, size_text
from pulzar.client.sync import Client

dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Say what would happen, and change nothing."
)
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group("cluster")
def command() -> None:
    """Show a cluster's volumes; drain or remove one."""


@command.command("status")
@master_option
@json_option
def status(master: str, as_json: bool) -> None:
    """Show the volumes, and how redundant the least redundant byte is.

    The columns are the volume's name, its state (online, suspect, offline, lost, joining), whether
    the master knows all of its log, the used part of its disk, the keys that it has a copy of, the
    room that is left for values, and what there is to say of it.
    """
    with Client(master) as client:
        found = client.admin("GET", "cluster")
    if as_json:
        print_json(found)
        return
    names = Counter(node["node"] for node in found["nodes"])
    rows = [
        (
            node["node"] if names[node["node"]] == 1 else f"{node['node']} ({node['id']})",
            f"{node['state']}, draining" if node["draining"] else node["state"],
            node["synch"],
            f"{node['percent']}%",
            node["keys"],
            size_text(node["room_bytes"]),
            node["remark"] or node["url"],
        )
        for node in found["nodes"]
    ]
    print_table(("volume", "state", "synch", "used", "keys", "room", "remark"), rows)
    health = found["health"]
    note(health["sentence"])
    for text in health["doing"]:
        note(text)


@command.command("drain")
@click.argument("name")
@master_option
@json_option
@dry_run_option
@click.option("--stop", is_flag=True, help="Drain it no more: what it holds may stay.")
def drain(name: str, master: str, as_json: bool, dry_run: bool, stop: bool) -> None:
    """Move the copies that a volume holds to other volumes.

    It goes on in the background: `pulzar cluster status` shows how many keys are left. A drained
    volume takes no new copies; when it holds none, `pulzar cluster remove` lets it go.
    """
    path = f"cluster/drain/{_quoted(name)}?stop={int(stop)}&dry_run={int(dry_run)}"
    with Client(master) as client:
        done = client.admin("POST", path)
    if _show(done, as_json):
        note(
            f"{name} takes copies again"
            if stop
            else f"{name} is being drained: `pulzar cluster status` shows what is left there"
        )


@command.command("remove")
@click.argument("name")
@click.option("--lost", is_flag=True, help="Give up what only this volume has.")
@master_option
@json_option
@dry_run_option
@yes_option
def remove(name: str, lost: bool, master: str, as_json: bool, dry_run: bool, yes: bool) -> None:
    """End the membership of a volume.

    Refused while the volume has the only copy of a key: drain it first. With --lost what only it
    has is given up; it is said how much that is, and asked. A removed volume can join again only
    with an empty directory.
    """
    path = f"cluster/remove/{_quoted(name)}?lost={int(lost)}"
    with Client(master) as client:
        would = client.admin("POST", f"{path}&dry_run=1")
        if dry_run:
            _show(would, as_json)
            return
        if not yes:
            note(would["sentence"])
            question = f"Remove {name}"
            if lost and would["loses"]:
                question += f" and give up for ever {would['loses']}"
            if not click.confirm(f"{question}?", err=True):
                note("nothing was changed")
                raise Answer(NO)
        if _show(client.admin("POST", f"{path}&dry_run=0"), as_json):
            note(f"{name} was removed")


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _show(done: dict[str, Any], as_json: bool) -> bool:
    """Show what a departure means; whether it is to be said that it was done."""
    if as_json:
        print_json(done)
        return False
    print_line(done["sentence"])
    if not done["done"]:
        note("nothing was changed")
    return bool(done["done"])
