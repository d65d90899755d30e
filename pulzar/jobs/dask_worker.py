"""An agent as a worker of dask.distributed: the scheduler sends it the ids of jobs.

A task of dask is `run` with some ids. It ends when those jobs have ended and the master knows; no
data goes through dask, and its end says nothing about theirs. What a job needs is asked of the
master, which gives each attempt once, so a task that dask sends twice does nothing the second time.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias

import dask
from distributed import Security, Worker, get_worker

from pulzar.jobs.certificates import certificate
from pulzar.limits import DASK_WINDOW

_log = logging.getLogger(__name__)

_NODE = "node-{}"  # a resource: a task that needs it is run on that node
_NODE_COUNT = 1_000_000  # of which a task takes one
_SLOT = "slot"

Take: TypeAlias = Callable[[Sequence[int]], Awaitable[None]]


class Joined(Protocol):
    """Told when an agent has joined a scheduler, and when that is over."""

    async def __call__(self, *, is_joined: bool) -> None: ...


# What dask would do beside, it does not or more rarely: profiles, pages about itself, measuring
# its own process 50 times a second.
OPTIONS = {
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.worker-ttl": "15s",
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.scheduler.work-stealing-interval": "500ms",
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.tick.limit": "30s",
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.comm.timeouts.connect": "5s",
    "distributed.logging": {"distributed": "error"},
}


def security(key: str, name: str) -> Security:
    """What both ends of a connection show each other; the cluster's key is in hex."""
    own = certificate(key, name)
    own_options = {
        f"tls_{role}_{what}": value
        for role in ("client", "scheduler", "worker")
        for what, value in (("cert", own.certificate), ("key", own.private_key))
    }
    return Security(tls_ca_file=own.authority, require_encryption=True, **own_options)


def needs(node: str, *, is_short: bool) -> dict[str, int]:
    """The resources that a task needs, for a node or for any ("")."""
    found = {} if is_short else {_SLOT: 1}
    if node:
        found[_NODE.format(node)] = 1
    return found


class _AgentWorker(Worker):
    """A worker that knows its agent."""

    take: Take


async def run(jobs: list[int]) -> None:
    """A task: the jobs of these ids, on the agent that the task was sent to."""
    worker = get_worker()
    assert isinstance(worker, _AgentWorker)
    await worker.take(jobs)


async def work(
    address: str,
    *,
    key: str,
    agent: str,
    node: str,
    slots: int,
    directory: str,
    take: Take,
    joined: Joined,
) -> None:
    """Be a worker of the scheduler at an address, until that has gone; `joined` is told when it
    begins and when it is over. Raises OSError."""
    with dask.config.set(OPTIONS):
        worker = _AgentWorker(
            address,
            name=agent,
            protocol="tls",
            security=security(key, f"agent of {node}"),
            nthreads=DASK_WINDOW * slots,
            resources={_NODE.format(node): _NODE_COUNT, _SLOT: slots},
            memory_limit=0,
            local_directory=directory,
            dashboard=False,
            dashboard_address="127.0.0.1:0",
            death_timeout=10,
        )
        worker.take = take
        try:
            await worker
            await joined(is_joined=True)
            await worker.finished()
        finally:
            await worker.close(timeout=1, nanny=False, reason="the agent leaves the scheduler")
            await joined(is_joined=False)
