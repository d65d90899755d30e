"""The engine that leaves the choice of a node to dask.distributed.

    a job waits -> a task of dask with its id -> an agent, which is a worker of dask, asks the
    master for that job -> the claim is durable -> it runs -> the task is over

Scheduler and client are a process (dask_scheduler.py) that is started when there are enough nodes,
and again whenever it ends. Nothing depends on it: what is in it and is not claimed goes back to the
queue, what runs goes on, and an agent that has not joined it asks as with the local engine.

Tasks are few at a time: one for each slot, and one for each node that is next. So a job with a high
priority does not wait for all that came before, and no node has much to do when the others have
nothing. Where jobs are short there are DASK_WINDOW for each slot, and where many wait, one task
carries several. A job goes to a node with its data as long as that has a slot free; in dask slots
and nodes are resources that a task needs.
"""

import asyncio
import logging
import sys
from collections.abc import Sequence

import msgspec

from pulzar.jobs.dask_lines import Begin, Drop, Gone, Port, Submit, decode_ended, line
from pulzar.jobs.local import LocalEngine
from pulzar.jobs.messages import Turn
from pulzar.jobs.queue import Queue
from pulzar.jobs.record import Job
from pulzar.jobs.workforce import Agent, Workforce
from pulzar.limits import DASK_JOBS_PER_TASK, DASK_WINDOW, ORDERS_AHEAD
from pulzar.parent import IGNORE_SIGNALS

_log = logging.getLogger(__name__)

_AGAIN_S, _AGAIN_S_MAX = 0.2, 10.0

_COMMAND = IGNORE_SIGNALS + "from pulzar.jobs.dask_scheduler import main\nmain()\n"


class Task(msgspec.Struct):
    """Some jobs in dask, for a node or for any ("")."""

    jobs: list[int]
    node: str
    is_dropped: bool = False


class DaskEngine:
    """The engine. It starts its scheduler when there are `nodes_min` nodes. One event loop."""

    def __init__(self, queue: Queue, workforce: Workforce, *, begin: Begin, nodes_min: int) -> None:
        self._queue = queue
        self._workforce = workforce
        self._begin = begin
        self._nodes_min = nodes_min
        self._local = LocalEngine(queue, workforce)
        self._process: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._tasks: dict[int, Task] = {}
        self._task_of: dict[int, int] = {}  # jobs by id
        self._last = 0
        self.scheduler = 0

    def start(self) -> None:
        """Begin."""
        self.match()

    def leave(self) -> None:
        """It is to end."""
        self._local.leave()

    async def close(self) -> None:
        """End; and the scheduler with it."""
        self.leave()
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
        if self._process is not None:
            await self._process.wait()

    async def jobs_for(self, turn: Turn, *, timeout_s: float) -> list[int]:
        """What an agent is to be given that has not joined the scheduler."""
        return await self._local.jobs_for(turn, timeout_s=timeout_s)

    def forget(self, agent: str) -> None:
        """An agent has gone."""
        self._local.forget(agent)
        if self.scheduler:
            self._say(line(Gone(agent)))
        self.match()

    def match(self) -> None:
        """Give what can be given."""
        nodes = {agent.node for agent in self._workforce.there}
        if self._keeping is None and len(nodes) >= self._nodes_min:
            self._keeping = asyncio.create_task(self._keep())
        port = self.scheduler
        joined = [agent for agent in self._workforce.there if port and agent.scheduler == port]
        if joined:
            for agent in joined:
                self._local.forget(agent.id)  # it asks no more
            self._drop(joined)
            self._submit(joined)
        self._local.match()

    # To dask and back.

    def _submit(self, joined: Sequence[Agent]) -> None:
        slots = sum(agent.slots for agent in joined)
        several, tasks_max = 1, slots + len(joined)
        if self._workforce.is_quick:
            tasks_max = DASK_WINDOW * slots
            several = min(DASK_JOBS_PER_TASK, max(1, len(self._queue) // tasks_max))
        groups: dict[tuple[str, int], list[int]] = {}

        def is_full() -> bool:
            return len(self._tasks) + len(groups) >= tasks_max

        def take(job: Job) -> bool:
            if job.id in self._task_of:
                return True
            node = self._node_for(job, joined)
            if node is None:
                return False
            which = node, job.policy.priority
            if which not in groups and is_full():
                return False
            group = groups.setdefault(which, [])
            group.append(job.id)
            self._task_of[job.id] = 0  # of the group, which has no task yet
            if len(group) >= several:
                self._put(groups.pop(which), which)
            return True

        self._queue.offer(take, goes_on=lambda: bool(groups) or not is_full())
        for which, group in groups.items():
            self._put(group, which)

    def _put(self, jobs: list[int], which: tuple[str, int]) -> None:
        self._last += 1
        node, priority = which
        self._tasks[self._last] = Task(jobs, node)
        for number in jobs:
            self._task_of[number] = self._last
        is_short = self._workforce.is_quick
        self._say(line(Submit(self._last, jobs, node, priority, is_short)))

    def _node_for(self, job: Job, joined: Sequence[Agent]) -> str | None:
        """The node that a job is to go to; "" for any, None for none now."""
        nodes = {agent.node for agent in joined}
        near = self._workforce.fitting(job, nodes)
        if near == nodes and not job.policy.requires_data:
            return ""
        ahead = 1 + ORDERS_AHEAD if self._workforce.is_quick else 1
        room = {
            agent.node: ahead * agent.slots
            - max(self._workforce.load(agent.id), self._pinned(agent.node))
            for agent in joined
            if agent.node in near
        }
        best = max(room, key=lambda node: room[node], default=None)
        if best is not None and room[best] > 0:
            return best
        return None if job.policy.requires_data else ""

    def _pinned(self, node: str) -> int:
        return sum(len(task.jobs) for task in self._tasks.values() if task.node == node)

    def _drop(self, joined: Sequence[Agent]) -> None:
        """Take back what waits for a node that is not there any more."""
        nodes = {agent.node for agent in joined}
        for number, task in self._tasks.items():
            if task.node and task.node not in nodes and not task.is_dropped:
                task.is_dropped = True
                self._say(line(Drop(number)))

    def _say(self, content: bytes) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(content)

    def _over(self, number: int) -> None:
        """A task is over: what nobody has claimed waits again."""
        task = self._tasks.pop(number, None)
        if task is None:
            return
        for job in task.jobs:
            if self._task_of.get(job) == number:
                del self._task_of[job]
                self._queue.put_back(job)

    # The process.

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = _AGAIN_S
        while True:
            began_s = loop.time()
            try:
                await self._run()
            except (OSError, ValueError, msgspec.MsgspecError) as error:
                _log.warning("the scheduler could not be used: %s", error)
            finally:
                if self._process is not None and self._process.returncode is None:
                    self._process.kill()
                self._set_port(0)
                for number in list(self._tasks):
                    self._over(number)
            _log.warning("the scheduler ended: it is started again")
            self.match()
            pause_s = _AGAIN_S if loop.time() - began_s > _AGAIN_S_MAX else pause_s * 2
            await asyncio.sleep(min(pause_s, _AGAIN_S_MAX))

    async def _run(self) -> None:
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-c",
            _COMMAND,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line(self._begin))
        first = await process.stdout.readline()
        if not first:
            raise OSError("it ended while it began")
        self._set_port(msgspec.json.decode(first, type=Port).port)
        while content := await process.stdout.readline():
            self._over(decode_ended(content).task)
            self.match()
        await process.wait()

    def _set_port(self, port: int) -> None:
        """Where agents find the scheduler now; they are to hear of it."""
        self.scheduler = port
        for agent in self._workforce.known:
            agent.wake.set()
