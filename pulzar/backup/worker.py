"""The process that makes one backup for a master: [backup] of server.conf.

    stdin    a Site (once.py), one line of JSON
    stdout   one line of JSON: Outcome

It ends when its parent does.
"""

import logging
import os
import sys
from datetime import UTC, datetime

import msgspec

from pulzar.backup.once import Site, back_up_site, due_in_s
from pulzar.backup.target import open_target
from pulzar.clock import SystemClock
from pulzar.disk import SystemDisk
from pulzar.errors import PulzarError
from pulzar.limits import BACKUP_NICE
from pulzar.parent import IGNORE_SIGNALS, die_with_parent

COMMAND = IGNORE_SIGNALS + "from pulzar.backup.worker import main\nmain()\n"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of it: a snapshot, or nothing because it is not due for `due_in_s`, or an
    error."""

    snapshot: str = ""
    copied_bytes: int = 0
    missing: list[str] = []
    due_in_s: float = 0.0
    error: str = ""


def main() -> None:
    """Make a backup if it is due."""
    die_with_parent()
    os.nice(BACKUP_NICE)  # requests come first
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    site = msgspec.json.decode(sys.stdin.buffer.readline(), type=Site)
    try:
        outcome = _run(site)
    except PulzarError as error:
        outcome = Outcome(error=str(error))
    sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
    sys.stdout.buffer.flush()


def _run(site: Site) -> Outcome:
    now = datetime.fromtimestamp(SystemClock().now_ms() / 1000, UTC)
    with open_target(site.target, site.options) as target:
        wait_s = due_in_s(target, site.interval_s, now)
        if wait_s:
            return Outcome(due_in_s=wait_s)
        ran = back_up_site(
            site, target, disk=SystemDisk(), now=now, on_size=_ignore, on_bytes=_ignore
        )
    return Outcome(
        snapshot=ran.snapshot.id,
        copied_bytes=ran.copied_bytes,
        missing=[one.name for one in ran.snapshot.missing],
        due_in_s=site.interval_s,
    )


def _ignore(_count: int) -> None:
    return
