"""A master and its volumes as processes of their own, on one machine.

Beside nginx, which is one program and syncs nothing: what is compared is what a client gets. On a
machine with few cores the volumes take the master's time; with machines of their own they do not.
"""

import http.client
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import google_crc32c
import psutil

from bench.context import Context, Row
from bench.figures import Figure, Result, Unit, median, percentile, ratios
from bench.generator import Load
from bench.rows.large_value import BUFFER_BYTES, make_source, upload_s
from bench.servers import BenchError, PulzarCluster, Server, fetch

VALUE_BYTES = 4096
READERS = 4

PUT_ONE = Figure(
    row="cluster-put",
    what="PUT, 1 volume, 1 copy, fsynced, against nginx DAV, unsynced",
    unit=Unit.RATIO,
    floor=0.35,
    goal=0.55,
)
PUT_THREE = Figure(
    row="cluster-put",
    what="PUT, 3 volumes, 2 copies, fsynced, against nginx DAV, unsynced",
    unit=Unit.RATIO,
    floor=0.2,
    goal=0.35,
)
GET = Figure(
    row="cluster-get",
    what="GET, 4 KiB, 3 volumes, against nginx",
    unit=Unit.RATIO,
    floor=0.2,
    goal=0.3,
)
LARGE = Figure(
    row="cluster-large",
    what="1 GiB value, down from a volume (307), against nginx",
    unit=Unit.RATIO,
    floor=0.6,
    goal=0.9,
)
RESTORE = Figure(
    row="cluster-restore",
    what="a master with an empty disk reads everything from 3 volumes",
    unit=Unit.KEYS_PER_S,
    floor=100_000,
    goal=300_000,
)
CATCH_UP = Figure(
    row="cluster-restore",
    what="a master is ready again after kill -9 under load",
    unit=Unit.SECONDS,
    floor=3.0,
    goal=1.0,
    higher_is_better=False,
)
COPY_DIES = Figure(
    row="cluster-death",
    what="p99 of reads while the volume of a copy is killed, one retry counted in",
    unit=Unit.SECONDS,
    floor=1.0,
    goal=0.2,
    higher_is_better=False,
)
MASTER_CPU = Figure(
    row="cluster-cpu",
    what="the master's processor time for a PUT with 10 volumes, against 1",
    unit=Unit.RATIO,
    floor=1.2,
    goal=1.0,
    higher_is_better=False,
)


def put(context: Context) -> Iterator[Result]:
    """One volume with one copy, three with two, and nginx, in turns."""
    rates: dict[str, list[float]] = {}
    with ExitStack() as running:
        one = context.cluster(volumes=1, replicas=1)
        three = context.cluster(volumes=3, replicas=2)
        servers: dict[str, Server] = {"one": one, "three": three}
        servers.update({peer.name: peer for peer in context.nginx()})
        for server in servers.values():
            running.enter_context(server)
        for n in range(context.scale.rounds):
            for name, server in servers.items():
                load = Load(op="put", seconds=context.scale.seconds, keys=10**8, start=n * 10**7)
                report = context.measure(server, load)
                rates.setdefault(name, []).append(report.operations_per_s)
    yield _against_nginx(PUT_ONE, rates, "one")
    yield _against_nginx(PUT_THREE, rates, "three")


def get(context: Context) -> Iterator[Result]:
    """Values that are not in the catalog, so each is read from a volume."""
    rates: dict[str, list[float]] = {}
    keys = context.scale.base_keys
    with ExitStack() as running:
        servers: dict[str, Server] = {"three": context.cluster(volumes=3, replicas=1)}
        servers.update({peer.name: peer for peer in context.nginx()})
        for server in servers.values():
            running.enter_context(server)
            context.fill(server, keys=keys, size=VALUE_BYTES)
        for _ in range(context.scale.rounds):
            for name, server in servers.items():
                load = Load(op="get", seconds=context.scale.seconds, keys=keys, size=VALUE_BYTES)
                report = context.measure(server, load)
                rates.setdefault(name, []).append(report.operations_per_s)
    yield _against_nginx(GET, rates, "three")


def _against_nginx(figure: Figure, rates: dict[str, list[float]], ours: str) -> Result:
    detail = "; ".join(f"{name} {median(each):,.0f}/s" for name, each in rates.items())
    if "nginx" not in rates:
        return Result(figure=figure, rounds=(), detail=detail, notes=("nginx is not here",))
    return Result(figure=figure, rounds=ratios(rates[ours], rates["nginx"]), detail=detail)


def large(context: Context) -> Iterator[Result]:
    """One value of 1 GiB, from the volume that the master names."""
    source = context.directory / "source"
    checksum = make_source(source, context.scale.large_bytes)
    times: dict[str, list[float]] = {}
    with ExitStack() as running:
        servers: list[Server] = [context.cluster(volumes=1, replicas=1), *context.nginx()]
        for server in servers:
            running.enter_context(server)
            upload_s(server, source, "large")
        for _ in range(context.scale.rounds):
            for server in servers:
                seconds = redirected_download_s(server, "large", checksum=checksum)
                times.setdefault(server.name, []).append(seconds)
    size_mib = context.scale.large_bytes / 2**20
    detail = "; ".join(f"{name} {size_mib / median(t):,.0f} MiB/s" for name, t in times.items())
    if "nginx" not in times:
        yield Result(figure=LARGE, rounds=(), detail=detail, notes=("nginx is not here",))
        return
    yield Result(
        figure=LARGE, rounds=ratios(times["nginx"], times[PulzarCluster.name]), detail=detail
    )


def redirected_download_s(server: Server, key: str, *, checksum: int) -> float:
    """As `download_s`, following one redirect."""
    buffer = bytearray(BUFFER_BYTES)
    view = memoryview(buffer)
    found = 0
    begun = time.monotonic()
    url = server.url + server.paths["get"] % key
    answer, connection = _get(url)
    if answer.status == 307:
        answer.read()
        connection.close()
        answer, connection = _get(answer.headers["Location"])
    while got := answer.readinto(view):
        found = google_crc32c.extend(found, bytes(view[:got]))
    elapsed = time.monotonic() - begun
    connection.close()
    if answer.status != 200 or found != checksum:
        raise BenchError(f"{server.name} gave back something else than was stored")
    return elapsed


def _get(url: str) -> tuple[http.client.HTTPResponse, http.client.HTTPConnection]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=120)
    connection.request("GET", parts.path + (f"?{parts.query}" if parts.query else ""))
    return connection.getresponse(), connection


def restore(context: Context) -> Iterator[Result]:
    """An empty catalog from three volumes; and the way back after kill -9 under load."""
    keys = context.scale.many_keys
    rates: list[float] = []
    ready: list[float] = []
    with context.cluster(volumes=3, replicas=1) as cluster:
        context.fill(cluster, keys=keys)
        for _ in range(context.scale.rounds):
            cluster.master.kill()
            for name in ("catalog.views", "cluster.json"):
                path = cluster.directory / "master" / name
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            begun = cluster.start_master()
            cluster.wait(3)
            rates.append(keys / (time.monotonic() - begun))
        for n in range(context.scale.rounds):
            loading = threading.Thread(
                target=_load_that_breaks, args=(context, cluster, keys + n * 10**6)
            )
            loading.start()
            time.sleep(context.scale.seconds / 2)
            cluster.master.kill()
            loading.join()
            begun = cluster.start_master()
            cluster.wait(3)
            ready.append(time.monotonic() - begun)
    yield Result(figure=RESTORE, rounds=tuple(rates), detail=f"{keys:,} keys, of 1 KiB each")
    yield Result(figure=CATCH_UP, rounds=tuple(ready), detail=f"{keys:,} keys; PUT, 64 connections")


def _load_that_breaks(context: Context, cluster: PulzarCluster, start: int) -> None:
    """PUTs until the master is killed."""
    try:
        context.generator.run(cluster, Load(op="put", keys=10**6, start=start))
    except BenchError:
        return


def death(context: Context) -> Iterator[Result]:
    """Readers that try once more where a read fails; in the middle a volume is killed."""
    worst: list[float] = []
    failed = retried = count = 0
    for _ in range(context.scale.rounds):
        with context.cluster(volumes=3, replicas=2) as cluster:
            context.fill(cluster, keys=2000, size=VALUE_BYTES)
            readers = [_Reader(cluster, seed) for seed in range(READERS)]
            for reader in readers:
                reader.start()
            time.sleep(1)
            cluster.volumes[0].kill()
            time.sleep(context.scale.seconds)
            for reader in readers:
                reader.stopping.set()
            for reader in readers:
                reader.join()
            times = [one for reader in readers for one in reader.times]
            worst.append(percentile(times, 0.99))
            count += len(times)
            failed += sum(reader.failed for reader in readers)
            retried += sum(reader.retried for reader in readers)
    if failed:
        raise BenchError(f"{failed} reads failed twice")
    detail = f"{count:,} reads, {retried} tried again, none failed twice"
    yield Result(figure=COPY_DIES, rounds=tuple(worst), detail=detail)


class _Reader(threading.Thread):
    """Reads one key after the other."""

    def __init__(self, cluster: PulzarCluster, seed: int) -> None:
        super().__init__()
        self.stopping = threading.Event()
        self.times: list[float] = []
        self.failed = self.retried = 0
        self._cluster = cluster
        self._at = seed

    def run(self) -> None:
        names = self._names()
        while not self.stopping.is_set():
            self._at += READERS
            key = names[self._at % len(names)]
            begun = time.monotonic()
            if not self._read(key):
                self.retried += 1
                self.failed += not self._read(key)
            self.times.append(time.monotonic() - begun)

    def _names(self) -> list[str]:
        url = f"{self._cluster.url}/list_keys/?limit=2000"
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        connection.request(
            "GET", "/list_keys/?limit=2000", headers={"Accept": "application/x-ndjson"}
        )
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        return [line.split('"key":"', 1)[1].split('"', 1)[0] for line in lines if '"key":"' in line]

    def _read(self, key: str) -> bool:
        try:
            return fetch(f"{self._cluster.url}/get_key/{key}", timeout_s=10)[0] == 200
        except OSError:
            return False


def cpu(context: Context) -> Iterator[Result]:
    """What a PUT costs the master, by the number of volumes that share the keys."""
    costs: dict[int, list[float]] = {}
    rates: dict[int, list[float]] = {}
    for _ in range(context.scale.rounds):
        for volumes in (1, 3, 10):
            with context.cluster(volumes=volumes, replicas=1) as cluster:
                (pid,) = cluster.master.pids()
                master = psutil.Process(pid)
                before = sum(master.cpu_times()[:2])
                load = Load(op="put", seconds=context.scale.seconds, keys=10**8)
                report = context.measure(cluster, load)
                spent = sum(master.cpu_times()[:2]) - before
                costs.setdefault(volumes, []).append(spent / report.ok * 1e6)
                rates.setdefault(volumes, []).append(report.operations_per_s)
    detail = "; ".join(
        f"{n} volumes {median(each):.0f} us, {median(rates[n]):,.0f}/s" for n, each in costs.items()
    )
    yield Result(figure=MASTER_CPU, rounds=ratios(costs[10], costs[1]), detail=detail)


ROWS = (
    Row(name="cluster-put", measure=put),
    Row(name="cluster-get", measure=get),
    Row(name="cluster-large", measure=large),
    Row(name="cluster-restore", measure=restore),
    Row(name="cluster-death", measure=death),
    Row(name="cluster-cpu", measure=cpu),
)
