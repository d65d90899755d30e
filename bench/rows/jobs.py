"""Jobs: how many a second, beside those who do only that; and what they cost while nothing runs.

Each job does nothing. 8 clients launch them one by one and each result is stored: the time is from
the first launch until the last result is there. Two jobs run at a time. Here a launch and an end
are fsynced before they are answered; of the peers only Huey can do that. Redis keeps nothing on
disk.
"""

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import psutil

from bench.context import Context, Row, settle
from bench.figures import Figure, Result, Unit, median, percentile, ratios
from bench.servers import BenchError, Pulzar, Server, free_port, installed

CLIENTS = 8
SLOTS = 2
END_S_MAX = 300.0
LATENCY_JOBS = 200
CANCELS = 60
IDLE_S = 10.0
MIB = 1 << 20

CELERY = Figure(
    row="jobs",
    what="no-op jobs, against Celery with Redis, acks_late",
    unit=Unit.RATIO,
    floor=1.0,
    goal=2.0,
)
RQ = Figure(
    row="jobs", what="no-op jobs, against RQ with Redis", unit=Unit.RATIO, floor=5.0, goal=10.0
)
HUEY = Figure(
    row="jobs", what="no-op jobs, against Huey with SQLite and fsync", unit=Unit.RATIO, goal=1.0
)
LATENCY = Figure(
    row="jobs-rest",
    what="one no-op job at rest, from its launch until it is ready, p50",
    unit=Unit.SECONDS,
    floor=0.015,
    goal=0.005,
    higher_is_better=False,
)
CANCEL = Figure(
    row="jobs-rest",
    what="a running job is cancelled, p99",
    unit=Unit.SECONDS,
    floor=0.5,
    goal=0.1,
    higher_is_better=False,
)
IDLE = Figure(
    row="jobs-rest",
    what="processor time of all processes while nothing happens, of one core",
    unit=Unit.PERCENT,
    floor=3.0,
    goal=1.0,
    higher_is_better=False,
)
AGENT = Figure(
    row="jobs-rest",
    what="memory of the agent and its children, at rest",
    unit=Unit.MIB,
    floor=150.0,
    goal=80.0,
    higher_is_better=False,
)
PENDING = Figure(
    row="jobs-pending",
    what="memory that jobs which wait add to the server",
    unit=Unit.MIB,
    floor=150.0,
    goal=50.0,
    higher_is_better=False,
)
LIST = Figure(
    row="jobs-pending",
    what="GET /admin/jobs?limit=50 beside them",
    unit=Unit.SECONDS,
    floor=0.05,
    goal=0.01,
    higher_is_better=False,
)


class Api:
    """One client of a server."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)

    def ask(self, method: str, path: str, body: bytes = b"") -> dict[str, object]:
        """The JSON of an answer that is a success. Raises BenchError."""
        self._connection.request(method, path, body)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status >= 300:
            raise BenchError(f"{method} {path}: {answer.status} {content[:200]!r}")
        found: dict[str, object] = json.loads(content)
        return found


def _site(context: Context, *, slots: int) -> Pulzar:
    """A server with the scripts that are run."""
    server, site = context.pulzar(), context.empty("site")
    scripts = site / "jobs" / "bench"
    scripts.mkdir(parents=True)
    (scripts / "noop.py").write_text("def execute(arguments):\n    return 1\n")
    (scripts / "sleep.py").write_text("import time\ndef execute(arguments):\n    time.sleep(60)\n")
    config = site / "server.conf"
    config.write_text(f"[jobs]\ndir = {site}/jobs\nslots = {slots}\n")
    command = server.command

    def with_config(port: int) -> Sequence[str]:
        return [*command(port), "--config", str(config)]

    server.command = with_config  # type: ignore[method-assign]
    return server


def _until(holds: Callable[[], bool]) -> None:
    begun = time.monotonic()
    while not holds():
        if time.monotonic() - begun > END_S_MAX:
            raise BenchError(f"not done in {END_S_MAX:.0f} s")
        time.sleep(0.01)


def _by_clients(count: int, made: Callable[[], Callable[[], object]]) -> None:
    """Do something `count` times, by CLIENTS clients; `made` makes one."""

    def client() -> None:
        launch = made()
        for _ in range(count // CLIENTS):
            launch()

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class PulzarJobs:
    """Jobs of a server."""

    name = "pulzar"

    def __init__(self, context: Context) -> None:
        self._server: Server = _site(context, slots=SLOTS)
        self._done = 0

    def __enter__(self) -> Self:
        self._server.__enter__()
        self.run(CLIENTS)  # the agent is there, its children are warm
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def run(self, count: int) -> None:
        """Launch so many, and wait until all have ended."""
        url = self._server.url
        api = Api(url)

        def client() -> Callable[[], object]:
            one = Api(url)
            return lambda: one.ask("POST", "/launch_job/bench/noop", b'{"arg1": 1}')

        _by_clients(count, client)
        _until(lambda: not api.ask("GET", "/admin/jobs?limit=1")["pendings"])


class Peer:
    """A task queue, its worker, and Redis where it needs that: all in one directory."""

    name: str
    app: str
    worker: Sequence[str]
    needs_redis = True

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = free_port()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        name = f"{self.name}_app"
        text = self.app.replace("PORT", str(self._port))
        (self._directory / f"{name}.py").write_text(text)
        if self.needs_redis:
            self._start(["redis-server", "--port", str(self._port), "--save", ""])
        for _ in range(self.workers):
            self._start([sys.executable, "-m", *self.worker])
        self._queue = self._start([sys.executable, "-c", _DRIVER, name], talks=True)
        self.run(CLIENTS)
        return self

    workers = 1

    def _start(self, command: Sequence[str], *, talks: bool = False) -> "subprocess.Popen[str]":
        with open(self._directory / "log", "a") as log:
            process = subprocess.Popen(
                command,
                cwd=self._directory,
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self._stack.callback(_end, process)
        return process

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, count: int) -> None:
        """Launch so many, and wait until all results are there."""
        assert self._queue.stdin is not None
        assert self._queue.stdout is not None
        self._queue.stdin.write(f"{count}\n")
        self._queue.stdin.flush()
        if self._queue.stdout.readline() != "done\n":
            raise BenchError(f"{self.name} broke off; see {self._directory}/log")


def _end(process: "subprocess.Popen[str]") -> None:
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for one in family:
        if one.is_running():
            one.kill()


# Launches as many as each line of stdin says, by 8 threads; `done` when all results are stored.
_DRIVER = """
import importlib, sys, threading, time
app = importlib.import_module(sys.argv[1])
total = 0
for line in sys.stdin:
    count = int(line)
    def client():
        for _ in range(count // 8):
            app.launch()
    threads = [threading.Thread(target=client) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    total += count
    while app.results() < total:
        time.sleep(0.01)
    print("done", flush=True)
"""


class Celery(Peer):
    name = "celery"
    app = """
from celery import Celery
import redis
app = Celery("celery_app", broker="redis://127.0.0.1:PORT/0", backend="redis://127.0.0.1:PORT/1")
app.conf.task_acks_late = True
@app.task
def noop(arg1):
    return 1
def launch():
    noop.delay(1)
def results():
    return redis.Redis(port=PORT, db=1).dbsize()
"""
    worker = ("celery", "-A", "celery_app", "worker", "-c", str(SLOTS), "-l", "ERROR")


class Rq(Peer):
    name = "rq"
    workers = SLOTS
    app = """
import redis, rq
from rq.registry import FinishedJobRegistry
connection = redis.Redis(port=PORT)
queue = rq.Queue(connection=connection)
def noop(arg1):
    return 1
def launch():
    queue.enqueue("rq_app.noop", 1, result_ttl=3600)
def results():
    return FinishedJobRegistry(queue=queue).count
"""

    @property
    def worker(self) -> Sequence[str]:  # type: ignore[override]
        return ("rq.cli", "worker", "--url", f"redis://127.0.0.1:{self._port}", "--quiet")


class Huey(Peer):
    name = "huey"
    needs_redis = False
    app = """
from huey import SqliteHuey
huey = SqliteHuey(filename="huey.db", fsync=True)
@huey.task()
def noop(arg1):
    return 1
def launch():
    noop(1)
def results():
    return huey.storage.result_store_size()
"""
    worker = ("huey.bin.huey_consumer", "huey_app.huey", "-w", str(SLOTS), "-k", "process", "-q")


def rate(context: Context) -> Iterator[Result]:
    """Pulzar and each of the peers that are installed, in turns."""
    count = context.scale.jobs
    kinds: list[tuple[type[Peer], Figure]] = [(Celery, CELERY), (Rq, RQ), (Huey, HUEY)]
    there = [kind for kind, _ in kinds if is_there(kind)]
    rates: dict[str, list[float]] = {}
    with ExitStack() as running:
        runners: list[PulzarJobs | Peer] = [PulzarJobs(context)]
        runners += [kind(context.empty(kind.name)) for kind in there]
        for one in runners:
            running.enter_context(one)
        for _ in range(context.scale.job_rounds):
            for one in runners:
                settle()
                begun = time.monotonic()
                one.run(count)
                rates.setdefault(one.name, []).append(count / (time.monotonic() - begun))
    detail = "; ".join(f"{name} {median(each):,.0f}/s" for name, each in rates.items())
    for kind, figure in kinds:
        if kind.name not in rates:
            notes = (
                f"{kind.name} is not here: pip install celery redis rq huey, and redis-server",
            )
            yield Result(figure=figure, rounds=(), detail=detail, notes=notes)
        else:
            found = ratios(rates["pulzar"], rates[kind.name])
            yield Result(figure=figure, rounds=found, detail=detail)


def is_there(kind: type[Peer]) -> bool:
    """Whether a peer is installed."""
    has_redis = installed("redis-server") is not None
    return find_spec(kind.name) is not None and (has_redis or not kind.needs_redis)


def rest(context: Context) -> Iterator[Result]:
    """A server that has little to do."""
    with _site(context, slots=SLOTS) as server:
        api = Api(server.url)
        times = [one_job(api) for _ in range(LATENCY_JOBS + 10)][10:]
        detail = f"p99 {percentile(times, 0.99) * 1000:.1f} ms; {LATENCY_JOBS} jobs"
        yield Result(figure=LATENCY, rounds=(percentile(times, 0.5),), detail=detail)
        times = [_one_cancel(api) for _ in range(CANCELS)]
        detail = f"p50 {percentile(times, 0.5) * 1000:.1f} ms; {CANCELS} jobs"
        yield Result(figure=CANCEL, rounds=(percentile(times, 0.99),), detail=detail)
        one_job(api)
        family = [psutil.Process(pid) for pid in server.pids()]
        time.sleep(1.0)
        before = _cpu_s(family)
        time.sleep(IDLE_S)
        share = 100 * (_cpu_s(family) - before) / IDLE_S
        yield Result(
            figure=IDLE, rounds=(share,), detail=f"{len(family)} processes, {IDLE_S:.0f} s"
        )
        agents = [one for one in family if "pulzar.jobs." in " ".join(one.cmdline())]
        sizes = [one.memory_full_info().pss / MIB for one in agents]
        detail = f"{len(agents)} processes, proportional set size"
        yield Result(figure=AGENT, rounds=(sum(sizes),), detail=detail)


def one_job(api: Api) -> float:
    """Launch a job at rest; how long it is until it is ready."""
    time.sleep(0.01)
    begun = time.monotonic()
    number = api.ask("POST", "/launch_job/bench/noop", b"{}")["job_id"]
    _ended(api, number)
    return time.monotonic() - begun


def _ended(api: Api, number: object) -> None:
    while api.ask("GET", f"/admin/jobs/{number}")["status"] != "ready":
        continue


def _one_cancel(api: Api) -> float:
    number = api.ask("POST", "/launch_job/bench/sleep", b"{}")["job_id"]
    _until(lambda: api.ask("GET", f"/admin/jobs/{number}")["status"] == "running")
    begun = time.monotonic()
    api.ask("POST", f"/cancel_job/{number}")
    return time.monotonic() - begun


def _cpu_s(family: Sequence[psutil.Process]) -> float:
    return sum(sum(one.cpu_times()[:2]) for one in family)


def pending(context: Context) -> Iterator[Result]:
    """Many jobs that wait: nobody runs them."""
    count = context.scale.pending_jobs
    with _site(context, slots=0) as server:
        api = Api(server.url)
        api.ask("GET", "/admin/jobs")
        serving = psutil.Process(server.pids()[0])
        before = serving.memory_full_info().uss

        def client() -> Callable[[], object]:
            one = Api(server.url)
            return lambda: one.ask("POST", "/launch_job/bench/noop", b'{"arg1": "12"}')

        _by_clients(count, client)
        grown = (serving.memory_full_info().uss - before) / MIB
        yield Result(figure=PENDING, rounds=(grown,), detail=f"{count:,} jobs, unique set size")
        times = []
        for _ in range(20):
            begun = time.monotonic()
            api.ask("GET", "/admin/jobs?limit=50")
            times.append(time.monotonic() - begun)
        yield Result(figure=LIST, rounds=(median(times),), detail=f"{count:,} jobs")


ROWS: tuple[Row, ...] = (
    Row(name="jobs", measure=rate),
    Row(name="jobs-rest", measure=rest),
    Row(name="jobs-pending", measure=pending),
)
