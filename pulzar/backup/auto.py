"""Auto-backup: a master makes a backup of its cluster at each interval.

When the last one was made is what the target says, so a restart neither forgets nor doubles one.
The work is done by a process of its own (worker.py), which ends with this one.
"""

import asyncio
import contextlib
import logging
import sys

import msgspec

from pulzar.backup.once import Site
from pulzar.backup.worker import COMMAND, Outcome
from pulzar.clock import Clock
from pulzar.limits import BACKUP_AGAIN_S, BACKUP_LOOK_S

_log = logging.getLogger(__name__)


class AutoBackup:
    """Runs while its server does. One event loop."""

    def __init__(self, site: Site, clock: Clock) -> None:
        """`site.url` is known later, see `start`."""
        self._site = site
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self.made_total = 0
        self.failed_total = 0
        self._last_ms = 0

    def start(self, url: str) -> None:
        """Begin; the master answers at `url`."""
        self._site = msgspec.structs.replace(self._site, url=url)
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End what is being made: its objects stay, and are of no use."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def statistics(self) -> dict[str, float]:
        """Counts by name; the age is that of the last backup that this server made or found."""
        age_s = (self._clock.now_ms() - self._last_ms) / 1000 if self._last_ms else -1.0
        return {
            "backups_total": self.made_total,
            "backup_failures_total": self.failed_total,
            "backup_age_seconds": age_s,
        }

    async def _run(self) -> None:
        while True:
            outcome = await self._once()
            if outcome.error:
                self.failed_total += 1
                _log.error("the backup failed: %s", outcome.error)
                await asyncio.sleep(min(BACKUP_AGAIN_S, self._site.interval_s))
                continue
            self._last_ms = self._clock.now_ms() - round(
                1000 * (self._site.interval_s - outcome.due_in_s)
            )
            if outcome.snapshot:
                self.made_total += 1
                _log.info("backup %s: %d bytes", outcome.snapshot, outcome.copied_bytes)
            if outcome.missing:
                _log.warning("not in the backup, or as before: %s", ", ".join(outcome.missing))
            await asyncio.sleep(min(outcome.due_in_s, BACKUP_LOOK_S))

    async def _once(self) -> Outcome:
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-c",
                COMMAND,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
            said, _ = await self._process.communicate(msgspec.json.encode(self._site) + b"\n")
            return msgspec.json.decode(said.splitlines()[-1], type=Outcome)
        except (OSError, IndexError, msgspec.DecodeError) as error:
            return Outcome(error=f"its process ended: {error!r}")
