"""The process of an agent, kept alive: started with its node, and again whenever it ends."""

import asyncio
import contextlib
import logging
import sys

import msgspec

from pulzar.jobs.agent import COMMAND, Site

_log = logging.getLogger(__name__)

_AGAIN_S, _AGAIN_S_MAX = 0.2, 10.0
_CLOSE_S = 3.0
_FIRST_S = 0.5  # so long everything else has the processors, when a server starts


class AgentProcess:
    """One agent. One event loop."""

    def __init__(
        self,
        *,
        key: str,
        node: str,
        slots: int,
        directory: str,
        memory_bytes: int,
        is_fresh: bool,
        log_level: str,
    ) -> None:
        """See `Site`. Without slots there is no process."""
        self._key = key
        self._node = node
        self._slots = slots
        self._directory = directory
        self._memory_bytes = memory_bytes
        self._is_fresh = is_fresh
        self._log_level = log_level
        self._process: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None

    def start(self, master: str) -> None:
        """Begin to ask the master at a URL."""
        site = Site(
            master=master,
            key=self._key,
            node=self._node,
            slots=self._slots,
            directory=self._directory,
            memory_bytes=self._memory_bytes,
            is_fresh=self._is_fresh,
            log_level=self._log_level,
        )
        if self._slots:
            self._keeping = asyncio.create_task(self._keep(site))

    async def close(self) -> None:
        """End it, and all that it runs."""
        if self._keeping is None:
            return
        self._keeping.cancel()
        await asyncio.wait([self._keeping])
        process = self._process
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _keep(self, site: Site) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(_FIRST_S)
        pause_s = _AGAIN_S
        while True:
            began_s = loop.time()
            self._process = process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-c", COMMAND, stdin=asyncio.subprocess.PIPE
            )
            assert process.stdin is not None
            with contextlib.suppress(ConnectionError):
                process.stdin.write(msgspec.json.encode(site) + b"\n")
                await process.stdin.drain()
            status = await process.wait()
            _log.warning("the agent ended (%d): it is started again", status)
            pause_s = _AGAIN_S if loop.time() - began_s > _AGAIN_S_MAX else pause_s * 2
            await asyncio.sleep(min(pause_s, _AGAIN_S_MAX))
