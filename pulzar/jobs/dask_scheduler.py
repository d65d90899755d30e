"""The scheduler of dask.distributed and a client of it, in a process of their own.

    stdin    Begin, then a Submit, a Drop or a Gone in each line (dask_lines.py)
    stdout   Port, then an Ended in each line

The process belongs to a master, which starts it again when it ends (dask_engine.py); it ends when
stdin closes. The server itself never loads dask.
"""

import asyncio
import logging
import os
import sys
from typing import Any

import dask
import msgspec
from distributed import Client, Future, Scheduler, wait

from pulzar.jobs.dask_lines import Begin, Drop, Ended, Port, Submit, decode_said, line
from pulzar.jobs.dask_worker import OPTIONS, needs, run, security
from pulzar.parent import die_with_parent

_log = logging.getLogger(__name__)

_AGAIN_S = 0.5  # what could not be done is not tried again at once


class _Tasks:
    """The tasks that are not over."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._futures: dict[int, Future[Any]] = {}
        self._watching: set[asyncio.Task[None]] = set()

    def submit(self, said: Submit) -> None:
        future: Future[Any] = self._client.submit(
            run,
            said.jobs,
            key=f"job-{said.task:x}",
            pure=False,
            priority=said.priority,
            resources=needs(said.node, is_short=said.is_short),
        )
        self._futures[said.task] = future
        watching = asyncio.create_task(self._watch(said.task, future))
        self._watching.add(watching)
        watching.add_done_callback(self._watching.discard)

    async def drop(self, task: int) -> None:
        future = self._futures.get(task)
        if future is not None:
            await future.cancel()

    async def _watch(self, task: int, future: "Future[Any]") -> None:
        try:
            await wait(future)
            if future.status == "error":
                raise await future.exception()
        except Exception as error:  # whatever dask met: the task is over, and the master looks
            _log.warning("task %d broke off: %r", task, error)
            await asyncio.sleep(_AGAIN_S)
        del self._futures[task]
        future.release()
        _say(Ended(task))


async def _remove(scheduler: Scheduler, agent: str) -> None:
    """Believe that an agent has gone before dask notices: that takes it longer than the master."""
    for address, worker in list(scheduler.workers.items()):
        if worker.name == agent:
            await scheduler.remove_worker(address, stimulus_id=f"gone-{agent}", close=False)


def _say(said: msgspec.Struct) -> None:
    os.write(1, line(said))


async def _serve(begin: Begin) -> None:
    own = security(begin.key, "scheduler")
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer
    )
    async with (
        Scheduler(
            protocol="tls",
            host=begin.host,
            port=0,
            security=own,
            dashboard=False,
            dashboard_address="127.0.0.1:0",
        ) as scheduler,
        Client(scheduler.address, security=own, asynchronous=True) as client,
    ):
        tasks = _Tasks(client)
        _say(Port(scheduler.port))
        while content := await reader.readline():
            said = decode_said(content)
            if isinstance(said, Submit):
                tasks.submit(said)
            elif isinstance(said, Drop):
                await tasks.drop(said.task)
            else:
                await _remove(scheduler, said.agent)
        os._exit(0)  # the master has gone: nothing is to be told to anybody


def main() -> None:
    """Read what there is to know, and serve."""
    die_with_parent()
    content = b""
    while not content.endswith(b"\n"):  # no byte more: the rest is read otherwise
        content += os.read(0, 1)
    begin = msgspec.json.decode(content, type=Begin)
    logging.basicConfig(
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        level=begin.log_level.upper(),
    )
    with dask.config.set(OPTIONS):
        asyncio.run(_serve(begin))
