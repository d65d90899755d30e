"""Jobs on several nodes, each with an agent and one slot, with the engine dask.

Master and nodes are programs of their own on one machine, whose processors they share. That a
launch and an end are durable means here that a node, another process, has fsynced them.
"""

import json
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Self
from urllib.request import urlopen

from bench.context import Context, Row, settle
from bench.figures import Figure, Result, Unit, median, percentile, ratios
from bench.rows.jobs import LATENCY_JOBS, Api, Celery, PulzarJobs, is_there, one_job
from bench.servers import BenchError, Pulzar, PulzarCluster

NODES = 2
JOINED_S_MAX = 60.0
UNEQUAL_JOBS = 300
UNEQUAL_NODES = 3
UNEQUAL_S = (0.02, 0.05, 0.1, 0.2, 0.5)

ONE_BY_ONE = Figure(
    row="jobs-dask",
    what="no-op jobs, engine dask, two agents, against Celery with Redis, acks_late",
    unit=Unit.RATIO,
    floor=0.5,
    goal=1.0,
)
MAP = Figure(
    row="jobs-dask",
    what="the same in one call of /launch_jobs",
    unit=Unit.RATIO,
    floor=1.5,
    goal=4.0,
)
LATENCY = Figure(
    row="jobs-dask",
    what="one no-op job at rest, engine dask, from its launch until it is ready, p50",
    unit=Unit.SECONDS,
    floor=0.03,
    goal=0.02,
    higher_is_better=False,
)
MAKESPAN = Figure(
    row="jobs-unequal",
    what="300 jobs of unequal length on three nodes, against the ideal",
    unit=Unit.RATIO,
    floor=1.3,
    higher_is_better=False,
)


class DaskJobs(PulzarJobs):
    """Jobs of a cluster with the engine dask."""

    name = "pulzar, dask"

    def __init__(self, context: Context, *, nodes: int) -> None:
        site = context.empty("site")
        scripts = site / "jobs" / "bench"
        scripts.mkdir(parents=True)
        (scripts / "noop.py").write_text("def execute(arguments):\n    return 1\n")
        (scripts / "nap.py").write_text(
            "import time\ndef execute(arguments):\n    time.sleep(arguments['s'])\n"
        )
        settings = {"DIR": site / "jobs", "SLOTS": 1, "ENGINE": "dask"}
        program = ("env", *(f"PULZAR_JOBS_{name}={value}" for name, value in settings.items()))
        self._nodes = nodes
        self._server = PulzarCluster(
            context.empty("cluster"), (*program, *context.pulzar_program), volumes=nodes, replicas=1
        )
        self._done = 0

    @property
    def server(self) -> Pulzar:
        """The master."""
        assert isinstance(self._server, Pulzar)
        return self._server

    def __enter__(self) -> Self:
        self._server.__enter__()
        begun = time.monotonic()
        line = f"pulzar_jobs_agents_joined {float(self._nodes)}"
        while line not in urlopen(f"{self.server.url}/metrics", timeout=10).read().decode():
            if time.monotonic() - begun > JOINED_S_MAX:
                raise BenchError("the agents have not joined the scheduler")
            time.sleep(0.1)
        self.run(80)  # so many that it is known that they are short
        return self

    def map(self, arguments: list[object]) -> float:
        """Run a job for each of some arguments, in one call; how long it took."""
        api = Api(self.server.url)
        begun = time.monotonic()
        script = "nap" if any(arguments) else "noop"
        number = api.ask("POST", f"/launch_jobs/bench/{script}", json.dumps(arguments).encode())
        while (status := api.ask("GET", f"/admin/jobs/{number['job_id']}")["status"]) != "ready":
            if status == "failed":
                raise BenchError("a job failed")
            time.sleep(0.01)
        return time.monotonic() - begun


def dask(context: Context) -> Iterator[Result]:
    """Two agents, and Celery, in turns; then one job at a time."""
    count = context.scale.jobs
    celery, single, together = [], [], []
    with ExitStack() as running:
        jobs = running.enter_context(DaskJobs(context, nodes=NODES))
        peer = None
        if is_there(Celery):
            peer = running.enter_context(Celery(context.empty(Celery.name)))
        for _ in range(context.scale.job_rounds):
            for runner, rates in ((peer, celery), (jobs, single)):
                if runner is not None:
                    settle()
                    begun = time.monotonic()
                    runner.run(count)
                    rates.append(count / (time.monotonic() - begun))
            settle()
            together.append(count / jobs.map([{}] * count))
        api = Api(jobs.server.url)
        times = [one_job(api) for _ in range(LATENCY_JOBS + 10)][10:]
    detail = f"one by one {median(single):,.0f}/s; in one call {median(together):,.0f}/s"
    if celery:
        detail += f"; celery {median(celery):,.0f}/s"
        yield Result(figure=ONE_BY_ONE, rounds=ratios(single, celery), detail=detail)
        yield Result(figure=MAP, rounds=ratios(together, celery), detail=detail)
    else:
        notes = ("celery is not here: pip install celery redis, and redis-server",)
        yield Result(figure=ONE_BY_ONE, rounds=(), detail=detail, notes=notes)
        yield Result(figure=MAP, rounds=(), detail=detail, notes=notes)
    detail = f"p99 {percentile(times, 0.99) * 1000:.1f} ms; {LATENCY_JOBS} jobs"
    yield Result(figure=LATENCY, rounds=(percentile(times, 0.5),), detail=detail)


def unequal(context: Context) -> Iterator[Result]:
    """Jobs that sleep, on three nodes with a slot each. Ideal is the sum of their times, divided
    by three."""
    rng = random.Random(7)
    lengths = [rng.choice(UNEQUAL_S) for _ in range(UNEQUAL_JOBS)]
    ideal = sum(lengths) / UNEQUAL_NODES
    with DaskJobs(context, nodes=UNEQUAL_NODES) as jobs:
        rounds = tuple(jobs.map([{"s": length} for length in lengths]) / ideal for _ in range(2))
    yield Result(figure=MAKESPAN, rounds=rounds, detail=f"ideal {ideal:.1f} s")


ROWS: tuple[Row, ...] = (
    Row(name="jobs-dask", measure=dask),
    Row(name="jobs-unequal", measure=unequal),
)
