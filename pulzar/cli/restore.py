"""`pulzar restore`: a master from its volumes, or a whole cluster from a backup."""

import contextlib
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import click
import msgspec

from pulzar.backup.place import place_of
from pulzar.backup.restore import Restored, plan, restore
from pulzar.backup.target import open_target
from pulzar.cli.exit import NO, Answer
from pulzar.cli.options import app_option, config_option, json_option, master_option
from pulzar.cli.output import note, print_json, print_line, print_table, stderr_is_terminal
from pulzar.cli.transfer import nothing, progress
from pulzar.client.sync import Client
from pulzar.clock import SystemClock
from pulzar.config import Config, load
from pulzar.disk import SystemDisk
from pulzar.errors import Unavailable, UsageError

POLL_S = 0.2


@click.command("restore")
@click.argument("volume_url", default="")
@click.option("--from", "source", metavar="TARGET", help="Restore from this backup.")
@click.option("--snapshot", metavar="ID", default="", help="Of this time. Default: the last one.")
@click.option("--only", metavar="NAME", default="", help="Only this volume of a cluster.")
@click.option("--data", metavar="DIR", help="Where to restore to. Default: the site's data.")
@app_option
@config_option
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=600.0,
    show_default=True,
    metavar="S",
    help="Give up after so many seconds without progress.",
)
@master_option
@json_option
def command(
    volume_url: str,
    source: str | None,
    snapshot: str,
    only: str,
    data: str | None,
    app: str | None,
    config: str | None,
    wait_s: float,
    master: str,
    as_json: bool,
) -> None:
    """Restore a master from its volumes, or a cluster from a backup.

    VOLUME_URL (host, host:port or URL) is a volume: the master, started with the cluster's key and
    nothing else, learns from it who the others are, and follows the log of each to its head. Until
    then it answers data requests 503. This command shows how far it is, and ends when it is done.

    With --from, nothing runs yet: the directories are made anew from a backup (`pulzar backup`),
    and the commands that start them are shown. It may be interrupted, and goes on when it is called
    again. What it could not bring back is listed.
    """
    if source is not None:
        if volume_url:
            raise UsageError("give VOLUME_URL or --from, not both")
        settings = load(SystemDisk(), app=app, file=config, flags={"data_dir": data})
        _from_backup(settings, source, snapshot=snapshot, only=only, as_json=as_json)
        return
    if not volume_url:
        raise UsageError("give the URL of a volume, or --from TARGET")
    _from_volumes(volume_url, wait_s, master, as_json=as_json)


def _from_backup(settings: Config, source: str, *, snapshot: str, only: str, as_json: bool) -> None:
    disk, directory = SystemDisk(), settings.data_dir
    place = place_of(settings, source)
    with open_target(place.url, place.options) as target, contextlib.ExitStack() as stack:
        what = plan(target, directory, snapshot_id=snapshot, only=only, disk=disk)
        advance = stack.enter_context(progress("restore", lambda: what.bytes)) or nothing
        done = restore(target, what, disk=disk, clock=SystemClock(), on_bytes=advance)
    if as_json:
        known = [
            {"key": one.key.decode(), "version": f"{one.version:016x}", "gone": one.gone}
            for one in done.not_restored
        ]
        print_json({**msgspec.structs.asdict(done), "not_restored": known})
    else:
        _say(done, directory)
    if done.damaged or done.missing or done.not_restored:
        raise Answer(NO)


def _say(done: Restored, directory: str) -> None:
    """What was restored, how it is started, and what is missing."""
    for one in done.not_restored:
        what = "gone" if one.gone else "deleted, and is back"
        print_line(f"{what}: {one.key.decode()} (version {one.version:016x})")
    for damaged in done.damaged:
        note(f"damaged in the backup: {damaged}")
    for name in done.missing:
        note(f"volume {name} is not in the backup, or not whole")
    if done.not_restored:
        note(f"{len(done.not_restored)} keys are not as they were")
    note(f"snapshot {done.snapshot} is restored; start it by")
    if done.alone:
        note(f"  pulzar up --data {directory}")
        return
    if any(place != directory for _, place in done.directories):
        note(f"  pulzar master --data {directory}/master")
    for name, place in done.directories:
        note(f"  pulzar volume --name {name} --data {place} --master URL")
    for name in done.missing:
        note(f"  pulzar cluster remove {name} --lost    (when the others are there)")


def _from_volumes(volume_url: str, wait_s: float, master: str, *, as_json: bool) -> None:
    with Client(master) as client:
        progress = client.admin("POST", "restore", {"volume": volume_url})
        total = sum(node["total"] for node in progress["nodes"])
        with contextlib.ExitStack() as stack:
            advance: Callable[[int], None] = nothing
            if stderr_is_terminal():
                bar = import_module("pulzar.cli.bar").count_bar
                advance = stack.enter_context(bar("records", total))
            progress = _follow(client, progress, advance, wait_s)
    if as_json:
        print_json(progress)
    else:
        rows = [(node["node"], node["state"], node["followed"]) for node in progress["nodes"]]
        print_table(("volume", "state", "records"), rows)
    note(progress["sentence"])
    if not progress["ready"]:
        raise Answer(NO)


def _follow(
    client: Client, progress: dict[str, Any], advance: Callable[[int], None], wait_s: float
) -> dict[str, Any]:
    """Ask how far it is until it is done, or until nothing has moved for `wait_s`."""
    shown, moved_s = 0, time.monotonic()
    while not progress["ready"]:
        time.sleep(POLL_S)
        with contextlib.suppress(Unavailable):
            progress = client.admin("GET", "restore")
        followed = sum(node["followed"] for node in progress["nodes"])
        if followed > shown:
            advance(followed - shown)
            shown, moved_s = followed, time.monotonic()
        elif time.monotonic() - moved_s >= wait_s:
            break
    return progress
