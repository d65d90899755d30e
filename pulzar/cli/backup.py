"""`pulzar backup`: make, list, verify and prune backups of a cluster."""

import os
from contextlib import ExitStack
from datetime import UTC, datetime

import click
import msgspec

from pulzar.backup.once import Site, back_up_site
from pulzar.backup.place import place_of
from pulzar.backup.stock import listed, prune, verify, verify_bytes
from pulzar.backup.target import Target, open_target
from pulzar.cli.exit import NO, Answer
from pulzar.cli.options import MASTER_DEFAULT, app_option, config_option, json_option
from pulzar.cli.output import note, print_json, print_line, print_table, size_text
from pulzar.cli.transfer import nothing, progress
from pulzar.client.save import OnBytes
from pulzar.cluster.identity import KEY_NAME, read_key
from pulzar.config import Config, load, url_of
from pulzar.disk import SystemDisk
from pulzar.errors import InvalidSetting

target_argument = click.argument("target", default="")


@click.group("backup")
def command() -> None:
    """Make, list, verify and prune backups of a cluster."""


@command.command("run")
@target_argument
@app_option
@config_option
@click.option("--master", envvar="PULZAR_MASTER", metavar="URL", help="Where the server answers.")
@click.option("--key-file", metavar="F", help="The cluster's key. Default: that of the site.")
@json_option
def run(
    target: str,
    app: str | None,
    config: str | None,
    master: str | None,
    key_file: str | None,
    as_json: bool,
) -> None:
    """Make a backup of the whole cluster.

    TARGET is a directory, or a URL such as s3://bucket/path or sftp://user@host/path; without it,
    the one of [backup] in server.conf. What the backup before has is not copied again; what is
    written is read back. It needs cluster.key, which is in the data directory of the master.
    """
    disk = SystemDisk()
    settings = load(disk, app=app, file=config)
    place = place_of(settings, target)
    site = Site(
        url=(master or _master_of(settings)).rstrip("/"),
        key=read_key(disk, key_file or _key_file(settings)),
        target=place.url,
        options=place.options,
    )
    with open_target(place.url, place.options) as opened, ExitStack() as stack:
        drawn = _Bar(stack, "backup")
        ran = back_up_site(
            site,
            opened,
            disk=disk,
            now=datetime.now(UTC),
            on_size=drawn.begin,
            on_bytes=drawn.advance,
        )
    missing = ran.snapshot.missing
    if as_json:
        print_json(
            {
                "snapshot": ran.snapshot.id,
                "copied_bytes": ran.copied_bytes,
                "total_bytes": ran.total_bytes,
                "missing": [msgspec.structs.asdict(one) for one in missing],
            }
        )
    else:
        print_line(
            f"{ran.snapshot.id}: {size_text(ran.copied_bytes)} copied and read back, "
            f"{size_text(ran.total_bytes)} in all"
        )
    for one in missing:
        before = f"as of {one.taken}" if one.taken else "not at all"
        note(f"volume {one.name} is in the backup {before}: {one.reason}")
    if missing:
        raise Answer(NO)


@command.command("list")
@target_argument
@app_option
@config_option
@json_option
def list_(target: str, app: str | None, config: str | None, as_json: bool) -> None:
    """List the snapshots in a target, oldest first."""
    with _opened(target, app, config) as opened:
        found = listed(opened)
    if as_json:
        for one in found:
            print_json(msgspec.structs.asdict(one))
        return
    rows = [(one.id, one.volumes, size_text(one.bytes), ", ".join(one.missing)) for one in found]
    print_table(("snapshot", "volumes", "size", "missing"), rows)


@command.command("verify")
@target_argument
@click.option("--snapshot", metavar="ID", help="Only what this one needs. Default: all.")
@app_option
@config_option
@json_option
def verify_(
    target: str, snapshot: str | None, app: str | None, config: str | None, as_json: bool
) -> None:
    """Read every byte of a target, and name what is not as it was written."""
    ids = [snapshot] if snapshot else None
    with _opened(target, app, config) as opened, ExitStack() as stack:
        drawn = _Bar(stack, "verify")
        size = verify_bytes(opened, ids)
        drawn.begin(size)
        wrong = 0
        for one in verify(opened, ids, on_bytes=drawn.advance):
            wrong += 1
            if as_json:
                print_json(msgspec.structs.asdict(one))
            else:
                print_line(f"{one.object}: {one.what} (needed by {', '.join(one.snapshots)})")
    if wrong:
        note(f"{wrong} objects are damaged: the next backup writes those anew that it still needs")
        raise Answer(NO)
    note(f"{size_text(size)} read: all is as it was written")


@command.command("prune")
@target_argument
@click.option("--keep", type=click.IntRange(min=1), help="How many stay. Default: [backup] keep.")
@app_option
@config_option
@json_option
def prune_(
    target: str, keep: int | None, app: str | None, config: str | None, as_json: bool
) -> None:
    """Remove old snapshots, and what no snapshot needs."""
    settings = load(SystemDisk(), app=app, file=config)
    with _opened(target, app, config) as opened:
        pruned = prune(opened, keep or settings.backup_keep)
    if as_json:
        print_json(msgspec.structs.asdict(pruned))
    else:
        gone = ", ".join(pruned.snapshots) or "none"
        print_line(f"snapshots removed: {gone}; objects removed: {pruned.objects}")


def _opened(target: str, app: str | None, config: str | None) -> Target:
    place = place_of(load(SystemDisk(), app=app, file=config), target)
    return open_target(place.url, place.options)


def _master_of(settings: Config) -> str:
    return url_of(settings.host, settings.port) if settings.port else MASTER_DEFAULT


def _key_file(settings: Config) -> str:
    """The cluster's key of the site, of a master or of one machine. Raises InvalidSetting."""
    places = [
        settings.key_file,
        os.path.join(settings.data_dir, KEY_NAME),
        os.path.join(settings.master_dir, KEY_NAME),
    ]
    for path in places:
        if path and os.path.exists(path):
            return path
    raise InvalidSetting(
        f"there is no {KEY_NAME} in {settings.data_dir} nor in {settings.master_dir}: name the one "
        "of the master by --key-file"
    )


class _Bar:
    """A bar on stderr where that is a terminal; else nothing is shown."""

    def __init__(self, stack: ExitStack, title: str) -> None:
        self._stack = stack
        self._title = title
        self.advance: OnBytes = nothing

    def begin(self, total_bytes: int) -> None:
        """Draw it."""
        bar = progress(self._title, lambda: total_bytes)
        self.advance = self._stack.enter_context(bar) or nothing
